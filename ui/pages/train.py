"""The Train page: choose data and a base model, shape the adapter, launch.

Ids: those of `ui.pages.data_card`, `ui.pages.model_card` and `ui.pages.tree_card`; `#setting-…` one widget a row of
`ui.settings.SETTINGS`; `#advanced`, `#variants`; `#ready`, `#run-name`, `#command`, `#launch`. `/?from=RUN` starts with
a run's settings, `/?base=ID` with a model that full fine-tuning made.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from core.config import STARTER, RunConfig, to_dict
from core.errors import ConfigError, DataError, UserError
from core.models.shapes import LinearShape
from jobs.service import Dataset, Estimate, ModelCard, Service
from ui import answers, command, forms, markup, text
from ui.answers import News
from ui.pages import cost_card, data_card, filling, frame, model_card, ready, token_tab, train_widgets, tree_card
from ui.pages.cost_card import CostCard
from ui.pages.data_card import DataCard
from ui.pages.sweep import Sweeping, Typed, launch_label
from ui.pages.token_tab import TokenTab
from ui.pages.train_widgets import Widgets
from ui.settings import METHOD, TASK
from ui.story import Stories

LAUNCHED = "(which) => { if (which) location.href = '/runs?' + which; }"


def build(page: gr.Blocks, service: Service, stories: Stories) -> None:
    """Put the page into the open Blocks context."""
    banner = frame.header(page, service, stories)
    gr.HTML(markup.page_heading("Train", "Teach a model to write your way, with a small adapter on top of it."))
    with gr.Row(elem_classes=["split"]):
        with gr.Column(scale=3, elem_classes=["cards"]):
            data, model = train_widgets.card_of_data(service), model_card.build()
            lora = train_widgets.lora_card()
            made = {**data.pop("settings"), **lora.pop("fields")}
            fields = {setting.path: made[setting.path] for setting in forms.SETTINGS}
        with gr.Column(scale=2, elem_classes=["aside"], min_width=300):
            launch = train_widgets.ready_card()
    widgets = Widgets(banner=banner, fields=fields, model=model, **lora, **data, **launch)
    _wire(page, TrainPage(service, widgets))


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the person has entered."""

    page_key: str
    dataset_id: str | None
    base_model: str
    run_name: str
    settings: dict[str, Any]
    typed: Typed

    @classmethod
    def read(cls, key: str, dataset: str | None, kind: str, ref: str, name: str, *values: Any) -> Form:
        """From the values of `Widgets.form`."""
        settings, several = values[: len(forms.SETTINGS)], values[len(forms.SETTINGS) :]
        return cls(
            page_key=key,
            dataset_id=dataset,
            base_model=STARTER if kind == STARTER else (ref or "").strip(),
            run_name=(name or "").strip(),
            settings=dict(zip((setting.path for setting in forms.SETTINGS), settings, strict=True)),
            typed=Typed.read(*several),
        )


@dataclass(kw_only=True)
class Outlook:
    """What would come of the form, as far as it goes."""

    dataset: Dataset | None = None
    card: ModelCard | None = None
    config: RunConfig | None = None
    estimate: Estimate | None = None
    problem: UserError | None = None

    @property
    def shapes(self) -> Sequence[LinearShape]:
        """The base model's linear layers, where they are known."""
        return self.card.shapes if self.card is not None else ()


class TrainPage:
    """The page's handlers. Each returns the news for the widgets that change."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service = service
        self.widgets = widgets
        self.data = DataCard(service, widgets.data)
        self.model = model_card.ModelCard(service, widgets.model, widgets.fields[forms.TARGETS])
        self.tokens = TokenTab(service, widgets.data.tokens, self.config_of, self.data.begun)
        self.tree = tree_card.TreeCard(service, widgets.tree, widgets.fields, self._settings_of)
        self.cost = CostCard(service, widgets.cost, widgets.fields, self.config_of)
        self.sweeping = Sweeping(service, widgets.sweep)
        self.filling = filling.Filling(self, Form.read)

    def open(self, request: gr.Request) -> News:
        """A visitor arrives, perhaps from a run whose settings are to be used again."""
        widgets = self.widgets
        known = self.service.data.all()
        earlier, base = (request.query_params.get(name) for name in ("from", "base"))
        news: News = {
            widgets.page_key: uuid.uuid4().hex,
            **self.model.choose(STARTER, ""),
            **self.model.offer(),
            **self.filling.open(earlier),
        }
        if known:
            news |= self.data.chosen(known[0])
        try:
            news |= self.filling.copy(earlier)
            return {**news, **self.model.trained_here(self.service.adapter(base))} if base else news
        except UserError as error:  # the run or its model is gone: an ordinary visit then
            return {**news, widgets.banner: answers.explain(error)}

    def learn_from(self, dataset_id: str | None) -> News:
        """Another dataset is chosen: the task is what its rows are for."""
        return {self.widgets.fields[TASK]: self.service.data.task_of(dataset_id)} if dataset_id else {}

    def refresh(self, *values: Any) -> News:
        """The form changed: say what would be trained, or what is missing."""
        form = Form.read(*values)
        outlook = self._look_ahead(form)
        several = self.sweeping.look(form.typed, outlook.config if outlook.problem is None else None)
        ready_config = outlook.config if outlook.problem is None else None
        cost = self.cost.of(ready_config, outlook.dataset)
        label = ready.launch_label(outlook.dataset, outlook.card, outlook.problem, cost)
        if label == "Launch":
            label = ready.launch_anyway(launch_label(form.typed, several) or label, cost)
        changed = forms.differing(form.settings, outlook.shapes)
        widgets = self.widgets
        return {
            widgets.ready: ready.summary(outlook.config, outlook.dataset, outlook.estimate, outlook.problem),
            widgets.command: ready.command_html(
                outlook.config, self._data_options(outlook.dataset), form.typed.options
            ),
            widgets.launch: gr.update(value=label, interactive=label.startswith("Launch")),
            widgets.run_name: gr.update(
                placeholder=_default_name(outlook.dataset, form) if outlook.dataset else train_widgets.NAMELESS
            ),
            **self.sweeping.news(
                form.typed,
                several,
                method=str(form.settings[METHOD]),
                shapes=outlook.shapes,
                seconds_a_run=cost.duration.seconds if cost is not None else None,
            ),
            **self.filling.outlook(form, outlook, changed),
            **self.tokens.outlook(outlook.config, outlook.dataset),
            **self.cost.outlook(cost, is_ready=ready_config is not None and outlook.dataset is not None),
            **self.tree.outlook(outlook.config, outlook.estimate),
            **self._mark(outlook, str(form.settings[METHOD]), changed),
        }

    def launch(self, *values: Any) -> News:
        """Start the run, or a sweep's runs, once, however often it is clicked: the key is the page's visit and what is
        asked for. Says where to go.
        """
        form = Form.read(*values)
        if not form.dataset_id:
            raise DataError("No dataset is chosen", hint="Drop a file or take an example")
        card = self.service.inspect_model(form.base_model)
        config = self._config(form, self.service.data.get(form.dataset_id), card)
        asked = to_dict(config), form.typed if form.typed.is_asked else None
        key = f"{form.page_key}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}"
        if form.typed.is_asked:
            return {self.widgets.launched: f"group={self.sweeping.submit(form.typed, config, key)}"}
        return {self.widgets.launched: f"run={self.service.submit(config, key=key).id}"}

    def config_of(self, *values: Any) -> RunConfig | None:
        """The run that the form's values describe; None where it is not complete, or wrong."""
        outlook = self._look_ahead(Form.read(*values))
        return outlook.config if outlook.dataset is not None else None

    def _settings_of(self, *values: Any) -> RunConfig | None:
        """As `config_of`, whether or not a dataset is chosen."""
        return self._look_ahead(Form.read(*values)).config

    def _look_ahead(self, form: Form) -> Outlook:
        outlook = Outlook()
        try:
            outlook.dataset = self.service.data.get(form.dataset_id) if form.dataset_id else None
            outlook.card = self.service.inspect_model(form.base_model) if form.base_model else None
            if outlook.card is not None:
                outlook.config = self._config(form, outlook.dataset, outlook.card)
                outlook.estimate = self.service.estimate(outlook.config)
                if outlook.dataset is not None:
                    self.service.data.check_task(outlook.config)
        except UserError as error:
            outlook.problem = error
        return outlook

    def _data_options(self, dataset: Dataset | None) -> list[str]:
        """What names the dataset on a command line: an example lies in its folder, an upload wherever the person keeps
        it; a version without some rows is here alone.
        """
        if dataset is None:
            return []
        data = self.service.data
        paths = {example.title: example.path for example in self.service.data.examples()}
        path = paths.get(dataset.name)
        own = f"{path.parent.name}/{path.name}" if path else dataset.name if data.source(dataset.id) else None
        return command.data_options(dataset, data.about(dataset.id), own)

    def _config(self, form: Form, dataset: Dataset | None, card: ModelCard) -> RunConfig:
        name = form.run_name or _default_name(dataset, form)
        return forms.config(
            form.settings,
            name=name,
            dataset_id=form.dataset_id or "none",
            base_model=form.base_model,
            shapes=card.shapes,
        )

    def _mark(self, outlook: Outlook, method: str, changed: Sequence[forms.Setting]) -> News:
        """Put the problem beside its widget, plain hints beside all others, mark what is changed, and put away what the
        method has no use for.
        """
        problem = outlook.problem
        faulty = forms.by_path(problem.field) if isinstance(problem, ConfigError) else None
        has_variants = any(forms.applies(row, method) for row in forms.SETTINGS if row.section == "variants")
        # By its class: an accordion that was out of the page comes back with all that was hidden inside it shown.
        news: News = {self.widgets.variants: gr.update(elem_classes=[] if has_variants else ["unused"])}
        return news | {
            widget: train_widgets.with_hint(
                setting,
                forms.hint(setting, outlook.card, method),
                problem if setting == faulty else None,
                is_shown=forms.applies(setting, method),
                is_changed=setting in changed,
            )
            for setting, widget in zip(forms.SETTINGS, self.widgets.fields.values(), strict=True)
        }

    def settings_of(self, config: RunConfig) -> News:
        """The form with the base model and the settings of `config`."""
        shapes = self.service.inspect_model(config.base_model).shapes
        shown = forms.values(config, shapes)
        news = self.model.named(config.base_model, shown.pop(forms.TARGETS))
        return news | {self.widgets.fields[path]: value for path, value in shown.items()}


# Values come as the browser sends them: what is allowed is for `core.config` and the service to say, in words.
_AS_SENT = {**frame.QUICK, "preprocess": False}


def _wire(page: gr.Blocks, handlers: TrainPage) -> None:
    """Connect the widgets' events with the handlers."""
    widgets = handlers.widgets
    data_card.wire(handlers.data, widgets.banner)
    token_tab.wire(handlers.tokens, widgets.banner, widgets.form, widgets.data.all, _AS_SENT)
    refresh = answers.tells(widgets.banner, clears=False)(handlers.refresh)
    tree = [widgets.banner, widgets.tree.tree]
    show_tree = answers.tells(widgets.banner, clears=False)(handlers.tree.show)
    for choice in _wire_choices(page, handlers):
        choice.then(refresh, widgets.form, widgets.outlook, **_AS_SENT)
        choice.then(show_tree, widgets.form, tree, **_AS_SENT)
    parts = [
        *tree_card.wire(handlers.tree, widgets.banner, widgets.form, _AS_SENT),
        *cost_card.wire(handlers.cost, widgets.banner, widgets.form, _AS_SENT),
    ]
    for chosen in parts:
        chosen.then(refresh, widgets.form, widgets.outlook, **_AS_SENT)
    # A textbox's `input` knows keys alone, not what is pasted with the mouse, and a slider's not its own corrections.
    typed = [
        (field.change if isinstance(field, gr.Textbox | gr.Slider) else field.input)
        for field in (widgets.run_name, *widgets.fields.values(), *widgets.sweep.form)
    ]
    gr.on(typed, refresh, widgets.form, widgets.outlook, trigger_mode="always_last", **_AS_SENT)
    for filled in filling.wire(handlers.filling, _AS_SENT):
        filled.then(refresh, widgets.form, widgets.outlook, **_AS_SENT)
        filled.then(show_tree, widgets.form, tree, **_AS_SENT)
    launch = answers.tells(widgets.banner)(handlers.launch)
    outputs = [widgets.banner, widgets.launched]
    launched = widgets.launch.click(launch, widgets.form, outputs, trigger_mode="once", **_AS_SENT)
    launched.then(None, widgets.launched, None, js=LAUNCHED, **_AS_SENT)


def _wire_choices(page: gr.Blocks, handlers: TrainPage) -> list[Dependency]:
    """Connect what decides on data and base model; the events after which the form is to be looked at anew."""
    widgets = handlers.widgets
    dataset, targets = widgets.data.dataset, widgets.fields[forms.TARGETS]
    open_page = answers.tells(widgets.banner)(handlers.open)
    # It follows the arrival, too, which may have had something to say.
    learn_from = answers.tells(widgets.banner, clears=False)(handlers.learn_from)
    return [
        page.load(open_page, None, widgets.opened, **frame.QUICK),
        dataset.change(learn_from, dataset, [widgets.banner, widgets.fields[TASK]], **_AS_SENT),
        *model_card.wire(handlers.model, widgets.banner, targets, _AS_SENT),
    ]


def _default_name(dataset: Dataset | None, form: Form) -> str:
    if dataset is None:
        return "run"
    method = form.settings[METHOD]
    suffix = method if method != "lora" else "" if form.typed.varies_rank else f"r{form.settings['lora.rank']}"
    return "-".join(filter(None, (text.stem(dataset.name), suffix)))
