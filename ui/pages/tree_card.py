"""The base model's own modules as a tree, in which targets are chosen as well; and the presets.

The boxes of target modules, the layers and the further targets are what counts: the tree writes them when a person
checks something in it, and shows them when they are changed elsewhere.

Ids: `#tree` the accordion with the tree; `#preset-KEY` a preset's button.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from core.config import RunConfig, parse, to_dict
from core.errors import ConfigError
from core.models.shapes import LinearShape
from jobs.service import Estimate, Node, Service, module_tree
from ui import answers, forms, markup, presets
from ui.answers import News
from ui.pages import model_tree

LAYERS, RANK = "lora.layers", "lora.rank"
WRITTEN = (forms.TARGETS, forms.MORE_TARGETS, LAYERS)


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """The tree with its line of figures, and the presets' buttons by key."""

    tree: gr.HTML
    figures: gr.HTML
    presets: dict[str, gr.Button]


def preset_buttons() -> dict[str, gr.Button]:
    """The presets, each with its sentence."""
    with gr.Row(elem_classes=["presets"]):
        made = {}
        for preset in presets.PRESETS:
            with gr.Column(min_width=180, elem_classes=["preset"]):
                made[preset.key] = gr.Button(preset.title, size="md", elem_id=f"preset-{preset.key}")
                gr.HTML(f'<p class="card-hint">{markup.esc(preset.why)}</p>', apply_default_css=False)
    return made


def tree() -> dict[str, gr.HTML]:
    """The tree, folded away, with its line of figures."""
    with gr.Accordion("Choose in the model's own modules", open=False, elem_id="tree"):
        figures, shown = model_tree.figures(), model_tree.widget()
    return {"tree": shown, "figures": figures}


class TreeCard:
    """The handlers; `read` makes a config of the form's values, None where it is not complete."""

    def __init__(
        self,
        service: Service,
        widgets: Widgets,
        fields: dict[str, Component],
        read: Callable[..., RunConfig | None],
    ) -> None:
        self.service, self.widgets, self._fields, self._read = service, widgets, fields, read

    def outlook(self, config: RunConfig | None, estimate: Estimate | None) -> News:
        """The figures of the form as it is now, and what each row would add at its rank."""
        if config is None:
            return {}
        tree = self._tree(config)
        rank = config.lora.rank
        return {
            self.widgets.figures: model_tree.figures_line(estimate),
            self.widgets.tree: model_tree.at_rank(tree, rank),
        }

    def show(self, *values: Any) -> News:
        """The tree as the form has it, once that has been changed elsewhere."""
        config = self._read(*values)
        return {self.widgets.tree: self._shown(config)} if config is not None else {}

    def choose(self, value: str | None, *values: Any) -> News:
        """Something was checked in the tree: the form says the same.

        Raises:
            ConfigError: nothing is checked.
        """
        config = self._read(*values)
        tree = self._tree(config) if config is not None else None
        if config is None or tree is None:
            return {}
        targets, layers = model_tree.said(value, tree)
        lora = replace(config.lora, targets=targets, layers=layers)
        shown = forms.values(replace(config, lora=lora), self._shapes(config))
        return {self._fields[path]: shown[path] for path in WRITTEN}

    def preset(self, key: str, *values: Any) -> News:
        """A preset's settings; the others stay as they are."""
        config = self._read(*values)
        if config is None:
            raise ConfigError("The form is not complete", hint="Choose a dataset and a base model first")
        card = self.service.inspect_model(config.base_model)
        changes = presets.apply(presets.by_key(key), card)
        nested = to_dict(config)
        for path, value in changes.items():
            forms.put(nested, path, value)
        changed = parse(nested)
        shown = forms.values(changed, card.shapes)
        paths = {*changes, *WRITTEN} & set(self._fields)
        return {**{self._fields[path]: shown[path] for path in paths}, self.widgets.tree: self._shown(changed)}

    def _tree(self, config: RunConfig) -> Node | None:
        return self.service.models.tree(config.base_model, config.task)

    def _shapes(self, config: RunConfig) -> Sequence[LinearShape]:
        return self.service.inspect_model(config.base_model).shapes

    def _shown(self, config: RunConfig) -> Any:
        tree = self._tree(config)
        if tree is None:
            return model_tree.shown(None, (), config.lora.rank)
        try:
            modules = module_tree.checked_of(config.lora.targets, config.lora.layers, tree)
        except ConfigError:  # told beside its setting
            modules = frozenset()
        return model_tree.shown(tree, modules, config.lora.rank)


def wire(card: TreeCard, banner: gr.HTML, form: Sequence[Component], as_sent: dict[str, Any]) -> list[Dependency]:
    """Connect the events; those after which the form is to be looked at anew."""
    widgets, tells = card.widgets, answers.tells(banner)
    written = [card._fields[path] for path in WRITTEN]
    outputs = [banner, widgets.tree, *card._fields.values()]
    chosen = widgets.tree.input(
        tells(card.choose), [widgets.tree, *form], [banner, *written], trigger_mode="always_last", **as_sent
    )
    elsewhere = [field.input for field in written]
    gr.on(elsewhere, answers.tells(banner, clears=False)(card.show), list(form), [banner, widgets.tree], **as_sent)
    buttons = [
        button.click(tells(partial(card.preset, key)), list(form), outputs, **as_sent)
        for key, button in widgets.presets.items()
    ]
    return [chosen, *buttons]
