"""Every setting of a run, named once: its widget, its words and its place in `RunConfig`.

`SETTINGS` is the table. `widgets` makes the widgets, `config` reads their values through `core.config.parse`, which
alone decides what is allowed, and `values` goes the other way. Defaults come from `RunConfig`; a range here is only
how far a slider reaches. A `ConfigError` names its setting in `field`, and `by_path` finds the row for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr
from gradio.components import Component

from core.config import AUTO_TARGETS, RunConfig, parse, to_dict
from core.errors import ConfigError
from core.models import targets as target_rules
from core.models.shapes import LinearShape
from ui import text

Kind = Literal["slider", "number", "integer", "optional number", "choice", "toggle", "targets"]
TARGETS = "lora.targets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    `path` is its dotted name in `RunConfig`, `flag` its name on the command line where it has one, and `unset` what
    happens while an optional number is left empty.
    """

    path: str
    label: str
    hint: str
    kind: Kind
    section: Literal["simple", "advanced"] = "advanced"
    choices: tuple[tuple[str, Any], ...] = ()
    minimum: float = 0
    maximum: float = 1
    step: float = 1
    flag: str = ""
    unset: str = ""

    @property
    def elem_id(self) -> str:
        """The widget's id in the page: `setting-lora-rank`."""
        return "setting-" + self.path.replace(".", "-").replace("_", "-")


_BITS = (("16-bit", 16), ("8-bit", 8), ("4-bit", 4), ("32-bit", 32))
_SCHEDULES = (("Linear", "linear"), ("Cosine", "cosine"), ("Constant", "constant"))
_BLOCKS = (("64", 64), ("128", 128), ("256", 256), ("512", 512))

# fmt: off
SETTINGS: tuple[Setting, ...] = (
    Setting(path="lora.rank", label="Rank", kind="slider", section="simple", minimum=1, maximum=128, flag="--rank",
            hint="4 to 8 for a style, more for facts"),
    Setting(path="lora.alpha", label="Alpha", kind="slider", section="simple", minimum=1, maximum=256, flag="--alpha",
            hint="Strength, as alpha ÷ rank"),
    Setting(path="optim.epochs", label="Epochs", kind="number", section="simple", step=0.5, flag="--epochs",
            hint="How often each row is seen"),
    Setting(path="quant.bits", label="Base precision", kind="choice", section="simple", choices=_BITS, flag="--bits",
            hint="4-bit saves memory, 16-bit is faster"),
    Setting(path=TARGETS, label="Target modules", kind="targets", section="simple", flag="--targets",
            hint="The linear layers that get an adapter; all of them is the best start"),
    Setting(path="optim.learning_rate", label="Learning rate", kind="optional number", flag="--lr",
            unset="suited to the model", hint="Lower it if the loss jumps"),
    Setting(path="optim.schedule", label="Schedule", kind="choice", choices=_SCHEDULES,
            hint="How the learning rate falls after the warm-up"),
    Setting(path="optim.batch_size", label="Batch size", kind="integer", flag="--batch-size",
            hint="Rows an optimizer step"),
    Setting(path="optim.steps", label="Steps", kind="optional number", flag="--steps", unset="by epochs",
            hint="A number here wins over epochs"),
    Setting(path="data.max_tokens", label="Longest row", kind="integer", step=64, flag="--max-tokens",
            hint="In tokens; what goes beyond is cut off"),
    Setting(path="data.holdout", label="Held-out share", kind="number", step=0.05,
            hint="Rows kept apart to measure what was learned"),
    Setting(path="optim.warmup", label="Warm-up share", kind="number", step=0.01,
            hint="Share of steps before the full learning rate"),
    Setting(path="optim.evaluations", label="Evaluations", kind="integer",
            hint="How often the held-out rows are measured"),
    Setting(path="lora.dropout", label="Adapter dropout", kind="number", step=0.05,
            hint="Against memorizing small datasets"),
    Setting(path="optim.weight_decay", label="Weight decay", kind="number", step=0.01,
            hint="Pulls the adapter's weights towards zero"),
    Setting(path="optim.clip_norm", label="Gradient clipping", kind="number", step=0.1,
            hint="The largest norm of a step's gradient"),
    Setting(path="optim.micro_tokens", label="Tokens at once", kind="integer", step=256,
            hint="Bounds the memory; does not change the result"),
    Setting(path="quant.block_size", label="4-bit block size", kind="choice", choices=_BLOCKS,
            hint="Weights that share one scale"),
    Setting(path="quant.double_quant", label="Compress the 4-bit scales too", kind="toggle",
            hint="Saves a little more memory"),
    Setting(path="seed", label="Seed", kind="integer", flag="--seed",
            hint="The same seed repeats the run"),
)
# fmt: on
_BY_PATH = {setting.path: setting for setting in SETTINGS}


def by_path(path: str) -> Setting | None:
    """The setting with that dotted name, or None where the form has no such widget."""
    return _BY_PATH.get(path)


def default(path: str) -> Any:
    """What `RunConfig` takes where nothing is said."""
    return at(to_dict(parse({"name": "x", "data": {"dataset_id": "x"}})), path)


def widget(setting: Setting) -> Component:
    """The widget of one setting, showing the default."""
    common = {
        "label": setting.label,
        "info": setting.hint,
        "elem_id": setting.elem_id,
        "interactive": True,
        "elem_classes": classes(setting),
    }
    start = default(setting.path)
    if setting.kind == "slider":
        return gr.Slider(setting.minimum, setting.maximum, start, step=setting.step, buttons=[], **common)
    if setting.kind == "choice":
        return gr.Radio(list(setting.choices), value=start, **common)
    if setting.kind == "toggle":
        return gr.Checkbox(start, **common)
    if setting.kind == "targets":
        return gr.CheckboxGroup([], value=[], **common)
    if setting.kind == "optional number":  # a textbox: an empty `gr.Number` turns into 0 when it comes into sight
        return gr.Textbox(_shown(setting, start), placeholder=setting.unset, max_length=32, **common)
    return gr.Number(start, step=setting.step, precision=0 if setting.kind == "integer" else None, **common)


def hint(setting: Setting, shapes: Sequence[LinearShape]) -> str:
    """The words under the setting's name, for a model with these layers; without any, it is not known yet."""
    if setting.path == TARGETS and not shapes:
        return "Listed once the model is on this machine; until then every linear layer of its blocks gets one"
    return setting.hint


def classes(setting: Setting) -> list[str]:
    """The style classes of the setting's widget."""
    return ["segmented"] if setting.kind == "choice" else []


def config(
    form: Mapping[str, Any], *, name: str, dataset_id: str, base_model: str, shapes: Sequence[LinearShape]
) -> RunConfig:
    """The run that the widgets' values (by setting path) describe.

    Raises:
        ConfigError: naming the first setting that is empty or outside its range.
    """
    nested: dict[str, Any] = {"name": name, "base_model": base_model, "data": {"dataset_id": dataset_id}}
    for setting in SETTINGS:
        value = form[setting.path]
        if setting.kind == "targets":
            value = _chosen_targets(value, shapes)
        elif setting.kind == "optional number":
            value = str(value or "").strip() or None
        elif value is None:
            raise ConfigError(f"{setting.label} is empty", hint="Give it a number", field=setting.path)
        _put(nested, setting.path, value)
    return parse(nested)


def values(run: RunConfig, shapes: Sequence[LinearShape]) -> dict[str, Any]:
    """What each widget shows for `run`, by setting path."""
    nested = to_dict(run)
    shown = {setting.path: _shown(setting, at(nested, setting.path)) for setting in SETTINGS}
    shown[TARGETS] = checked_targets(run.lora.targets, shapes)
    return shown


def changed(run: RunConfig) -> tuple[Setting, ...]:
    """The settings in which `run` differs from the defaults."""
    nested = to_dict(run)
    return tuple(setting for setting in SETTINGS if at(nested, setting.path) != default(setting.path))


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


def _shown(setting: Setting, value: Any) -> Any:
    """A setting's value as its widget takes it."""
    if setting.kind == "optional number":
        return "" if value is None else text.number(value)
    return value


def _chosen_targets(names: Sequence[str] | None, shapes: Sequence[LinearShape]) -> tuple[str, ...]:
    """`auto` where the model is not known yet, or where just what it means is checked."""
    if not shapes:
        return (AUTO_TARGETS,)
    if not names:
        raise ConfigError("No target modules are chosen", hint="Check at least one", field=TARGETS)
    automatic = checked_targets((AUTO_TARGETS,), shapes)
    return (AUTO_TARGETS,) if set(names) == set(automatic) else tuple(names)


def at(nested: Mapping[str, Any], path: str) -> Any:
    """What nested dicts hold under a dotted name; a list comes as a tuple."""
    value: Any = nested
    for part in path.split("."):
        value = value[part]
    return tuple(value) if isinstance(value, list) else value


def _put(nested: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for part in parents:
        nested = nested.setdefault(part, {})
    nested[leaf] = value
