"""The form of a run: widgets for the rows of `ui.settings`, and the way between their values and `RunConfig`.

`config` reads the values through `core.config.parse`, which alone decides what is allowed, and `values` goes the other
way. A setting that means nothing to the chosen method keeps its default. A `ConfigError` names its setting in `field`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from core.config import AUTO_TARGETS, RunConfig, parse, to_dict
from core.errors import ConfigError
from core.models import targets as target_rules
from core.models.shapes import LinearShape
from jobs.service import ModelCard, lists
from ui import text
from ui.settings import (
    ADAPTER_ONLY,
    BITS,
    EVERY_METHOD,
    METHOD,
    MORE_TARGETS,
    SETTINGS,
    TARGETS,
    TASK,
    TYPED_KINDS,
    Setting,
    by_path,
)

__all__ = [
    "MORE_TARGETS", "SETTINGS", "TARGETS", "Setting", "bare", "by_path", "changed", "config", "differing",
    "standard_words", "standards", "values", "widget",
]  # fmt: skip

_READERS: dict[str, Callable[[str], Any]] = {
    "layers": lists.read_layers,
    "names": lists.read_names,
    "pattern": lists.read_pattern,
    "lines": lists.read_lines,
}
_WRITERS: dict[str, Callable[[Any], str]] = {
    "layers": lists.show_layers,
    "names": lists.show_names,
    "pattern": lists.show_pattern,
    "lines": lists.show_lines,
}
_LONGEST_TEXT = 20_000


def default(path: str) -> Any:
    """What `RunConfig` takes where nothing is said."""
    return () if path == MORE_TARGETS else at(_standard_values(), path)


@functools.cache
def _standard_values() -> dict[str, Any]:
    """A run of which nothing was said, as nested values; not to be changed."""
    return to_dict(_standard_run())


@functools.cache
def _standard_run() -> RunConfig:
    return parse({"name": "x", "data": {"dataset_id": "x"}})


def widget(setting: Setting) -> Component:
    """The widget of one setting, showing the default."""
    common = {
        "label": setting.title,
        "info": with_standard(setting, setting.hint),
        "elem_id": setting.elem_id,
        "interactive": True,
        "elem_classes": classes(setting),
    }
    start = _shown(setting, default(setting.path))
    if setting.kind == "slider":
        return gr.Slider(setting.minimum, setting.maximum, start, step=setting.step, buttons=[], **common)
    if setting.kind == "choice":
        return gr.Radio(list(setting.choices), value=start, **common)
    if setting.kind in ("menu", "optional menu"):
        return gr.Dropdown(list(setting.choices), value=start, filterable=False, **common)
    if setting.kind == "toggle":
        return gr.Checkbox(start, **common)
    if setting.kind == "targets":
        return gr.CheckboxGroup([], value=[], **common)
    if setting.kind in TYPED_KINDS:
        lines = 2 if setting.kind == "lines" else 1
        return gr.Textbox(start, placeholder=setting.unset, max_length=_LONGEST_TEXT, lines=lines, **common)
    if setting.kind == "optional number":  # a textbox: an empty `gr.Number` turns into 0 when it comes into sight
        return gr.Textbox(start, placeholder=setting.unset, max_length=32, **common)
    return gr.Number(start, step=setting.step, precision=0 if setting.kind == "integer" else None, **common)


def hint(setting: Setting, card: ModelCard | None, method: str) -> str:
    """The words under the setting's name, for that base model and method; without a model's layers, as far as known."""
    if setting.path == BITS and method == "full":
        return "Full fine-tuning changes every weight, so they are kept whole: 16 or 32 bits"
    if setting.path == TARGETS and (card is None or not card.shapes):
        return "Listed once the model is on this machine; until then every linear layer of its blocks gets one"
    if setting.path == MORE_TARGETS and card is not None and card.others:
        return f"What the list above lacks, such as {card.others[0]}, or single layers: layers.3.mlp.up_proj"
    return setting.hint


def with_standard(setting: Setting, words: str) -> str:
    """`words`, then the standard value; its unit is in the label."""
    return f"{words}. Standard: {standard_words(setting)}"


def standard_words(setting: Setting) -> str:
    """The setting's standard value as one reads it: `8`, `16-bit`, `off`, `by epochs`."""
    value = default(setting.path)
    if setting.unset and value in (None, "", (), {}, (AUTO_TARGETS,)) or setting.path == TASK:
        return setting.unset
    if setting.kind == "toggle":
        return "on" if value else "off"
    named = {choice: words for words, choice in setting.choices}
    return named[value] if value in named else text.number(value)


def standards(shapes: Sequence[LinearShape]) -> dict[str, Any]:
    """What each widget shows for a run of which nothing was said, on a model with those linear layers."""
    return values(_standard_run(), shapes)


def differing(form: Mapping[str, Any], shapes: Sequence[LinearShape]) -> tuple[Setting, ...]:
    """The settings whose widgets show something else than the standard, valid or not. Those that the method has no use
    for are not among them, and neither is the task, which follows from the dataset.
    """
    standard = standards(shapes)
    rows = (row for row in SETTINGS if row.path != TASK and applies(row, form[METHOD]))
    return tuple(row for row in rows if bare(form[row.path]) != bare(standard[row.path]))


def classes(setting: Setting) -> list[str]:
    """The style classes of the setting's widget."""
    return ["segmented"] if setting.kind == "choice" else []


def applies(setting: Setting, method: str) -> bool:
    """Whether the setting means anything to that method; to one that is unknown, everything may."""
    return method in setting.methods or method not in EVERY_METHOD


def config(
    form: Mapping[str, Any], *, name: str, dataset_id: str, base_model: str, shapes: Sequence[LinearShape]
) -> RunConfig:
    """The run that the widgets' values (by setting path) describe.

    Raises:
        ConfigError: naming the first setting that is empty, cannot be read or is outside its range.
    """
    nested: dict[str, Any] = {"name": name, "base_model": base_model, "data": {"dataset_id": dataset_id}}
    for setting in SETTINGS:
        if applies(setting, form[METHOD]) and setting.path not in (TARGETS, MORE_TARGETS):
            put(nested, setting.path, _read(setting, form[setting.path]))
    if form[METHOD] in ADAPTER_ONLY:
        put(nested, TARGETS, _chosen_targets(form[TARGETS], lists.read_names(form[MORE_TARGETS] or ""), shapes))
    return parse(nested)


def values(run: RunConfig, shapes: Sequence[LinearShape]) -> dict[str, Any]:
    """What each widget shows for `run`, by setting path; `config` makes the same run of it."""
    nested = to_dict(run)
    others = [setting for setting in SETTINGS if setting.path != MORE_TARGETS]
    shown = {setting.path: _shown(setting, at(nested, setting.path)) for setting in others}
    listed = _listed_targets(run.lora.targets, shapes)
    shown[TARGETS] = checked_targets(listed, shapes) if listed else []
    rest = () if not shapes and run.lora.targets == (AUTO_TARGETS,) else run.lora.targets
    shown[MORE_TARGETS] = lists.show_names(target for target in rest if target not in listed)
    return {setting.path: shown[setting.path] for setting in SETTINGS}


def changed(run: RunConfig) -> tuple[Setting, ...]:
    """The settings in which `run` differs from the defaults."""
    nested = to_dict(run)
    settings = (setting for setting in SETTINGS if setting.path != MORE_TARGETS)
    return tuple(setting for setting in settings if at(nested, setting.path) != default(setting.path))


def target_choices(shapes: Sequence[LinearShape]) -> list[tuple[str, str]]:
    """The model's linear layers by the last part of their name, with how many there are and how large they are."""
    choices = []
    for name in target_rules.suggestions(shapes):
        same = [shape for shape in shapes if shape.name.rpartition(".")[2] == name]
        sizes = sorted({(shape.in_features, shape.out_features) for shape in same})
        size = f"{sizes[0][0]}→{sizes[0][1]}" if len(sizes) == 1 else "several sizes"
        choices.append((f"{name}  {size}", name))
    return choices


def checked_targets(targets: tuple[str, ...], shapes: Sequence[LinearShape]) -> list[str]:
    """The names among `target_choices` that `targets` take in."""
    if not shapes:
        return []
    return list(target_rules.suggestions(target_rules.match(targets, shapes)))


def _read(setting: Setting, value: Any) -> Any:
    """A setting's value as `RunConfig` takes it, from its widget's."""
    if setting.kind in TYPED_KINDS:
        try:
            return _READERS[setting.kind](str(value or ""))
        except ConfigError as error:
            raise ConfigError(error.title, error.detail, error.hint, field=setting.path) from None
    if setting.kind in ("optional number", "optional menu"):
        return str(value or "").strip() or None
    if value is None:
        raise ConfigError(f"{setting.label} is empty", hint="Give it a value", field=setting.path)
    return value


def _shown(setting: Setting, value: Any) -> Any:
    """A setting's value as its widget takes it."""
    if setting.kind in TYPED_KINDS:
        return _WRITERS[setting.kind](value)
    if setting.kind == "optional number":
        return "" if value is None else text.number(value)
    return "" if setting.kind == "optional menu" and value is None else value


def bare(value: Any) -> Any:
    """A widget's value without what makes no difference: blanks around it, the order of boxes."""
    if isinstance(value, str):
        return value.strip()
    return frozenset(value) if isinstance(value, list | tuple) else value


def _listed_targets(targets: tuple[str, ...], shapes: Sequence[LinearShape]) -> tuple[str, ...]:
    """Those of `targets` that boxes in the list of linear layers stand for."""
    known = {*target_rules.suggestions(shapes), "auto", "all-linear"} if shapes else set()
    return tuple(target for target in targets if target in known)


def _chosen_targets(names: Sequence[str] | None, more: Sequence[str], shapes: Sequence[LinearShape]) -> tuple[str, ...]:
    """`auto` where just what it means is checked, or where the model is not known yet and nothing is typed."""
    if not shapes:
        return tuple(more) or (AUTO_TARGETS,)
    if not names and not more:
        raise ConfigError("No target modules are chosen", hint="Check at least one", field=TARGETS)
    automatic = checked_targets((AUTO_TARGETS,), shapes)
    return (AUTO_TARGETS, *more) if set(names or ()) == set(automatic) else (*(names or ()), *more)


def at(nested: Mapping[str, Any], path: str) -> Any:
    """What nested dicts hold under a dotted name; a list comes as a tuple."""
    value: Any = nested
    for part in path.split("."):
        value = value[part]
    return tuple(value) if isinstance(value, list) else value


def put(nested: dict[str, Any], path: str, value: Any) -> None:
    """Set what stands at `path`."""
    *parents, leaf = path.split(".")
    for part in parents:
        nested = nested.setdefault(part, {})
    nested[leaf] = value
