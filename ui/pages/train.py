"""The Train page: choose data and a base model, shape the adapter, launch.

Ids: `#dataset-upload` the file drop, `#example-KEY` an example's button, `#dataset-choice`, `#dataset-status`,
`#skip-bad-rows`, `#dataset-preview`; `#model-kind`, `#model-ref`, `#model-status`; `#setting-…` one widget a row of
`ui.settings.SETTINGS`; `#advanced`, `#variants`; `#ready`, `#run-name`, `#command`, `#launch`. `/?from=RUN` starts with
a run's settings, `/?base=ID` with a model that full fine-tuning made.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency
from gradio.utils import get_upload_folder

from core.config import STARTER, RunConfig, to_dict
from core.errors import ConfigError, DataError, NotFound, UserError
from jobs.service import Adapter, Dataset, Estimate, ModelCard, Service
from ui import answers, forms, markup, text
from ui.answers import News
from ui.pages import datasets, frame, ready, train_widgets
from ui.pages.train_widgets import Widgets
from ui.settings import METHOD, TASK
from ui.story import Stories

SKIPPABLE = "bad rows be left out"  # how a refusal says that a second try without these rows can succeed
LAUNCHED = "(run) => { if (run) location.href = '/runs?run=' + encodeURIComponent(run); }"


def build(page: gr.Blocks, service: Service, stories: Stories) -> None:
    """Put the page into the open Blocks context."""
    banner = frame.header(page, service, stories)
    gr.HTML(markup.page_heading("Train", "Teach a model to write your way, with a small adapter on top of it."))
    with gr.Row(elem_classes=["split"]):
        with gr.Column(scale=3, elem_classes=["cards"]):
            data, model = train_widgets.data_card(service), train_widgets.model_card()
            lora, variants = train_widgets.lora_card()
            made = {**data.pop("task"), **lora}
            fields = {setting.path: made[setting.path] for setting in forms.SETTINGS}
        with gr.Column(scale=2, elem_classes=["aside"], min_width=300):
            launch = train_widgets.ready_card()
    widgets = Widgets(banner=banner, fields=fields, variants=variants, **data, **model, **launch)
    _wire(page, TrainPage(service, widgets))


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the person has entered."""

    page_key: str
    dataset_id: str | None
    base_model: str
    run_name: str
    settings: dict[str, Any]

    @classmethod
    def read(cls, key: str, dataset: str | None, kind: str, ref: str, name: str, *settings: Any) -> Form:
        """From the values of `Widgets.form`."""
        by_path = dict(zip((setting.path for setting in forms.SETTINGS), settings, strict=True))
        base = STARTER if kind == STARTER else (ref or "").strip()
        return cls(page_key=key, dataset_id=dataset, base_model=base, run_name=(name or "").strip(), settings=by_path)


@dataclass(kw_only=True)
class Outlook:
    """What would come of the form, as far as it goes."""

    dataset: Dataset | None = None
    card: ModelCard | None = None
    config: RunConfig | None = None
    estimate: Estimate | None = None
    problem: UserError | None = None


class TrainPage:
    """The page's handlers. Each returns the news for the widgets that change."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service = service
        self.widgets = widgets

    def open(self, request: gr.Request) -> News:
        """A visitor arrives, perhaps from a run whose settings are to be used again."""
        widgets = self.widgets
        known = self.service.datasets()
        news: News = {widgets.page_key: uuid.uuid4().hex, **self.choose_model(STARTER, "")}
        if known:
            news |= self._chosen(known[0])
        earlier, base = (request.query_params.get(name) for name in ("from", "base"))
        try:
            news |= self._like(self.service.run(earlier).config) if earlier else {}
            return {**news, **self._on(self.service.adapter(base))} if base else news
        except UserError as error:  # the run, its dataset or its model is gone: an ordinary visit then
            return {**news, widgets.banner: answers.explain(error)}

    def upload(self, path: str | None) -> News:
        """A file was dropped: read it, keep it, choose it; or offer to leave its broken rows out."""
        if not path:
            return {}
        try:
            return self._chosen(self.service.add_dataset(_checked(path), name=Path(path).name))
        except DataError as error:
            return {
                self.widgets.upload: None,  # so that the next file can be dropped
                self.widgets.dataset: None,
                self.widgets.preview: "",
                self.widgets.dataset_status: markup.banner(error.title, error.detail, error.hint),
                self.widgets.skip: gr.update(visible=SKIPPABLE in error.hint),
                self.widgets.broken_upload: path,
            }

    def skip_bad_rows(self, path: str) -> News:
        """The same file again, without the rows that cannot be trained on."""
        return self._chosen(self.service.add_dataset(_checked(path), name=Path(path).name, skip_bad_rows=True))

    def example(self, key: str) -> News:
        """One click: an example as dataset."""
        return self._chosen(self.service.add_example(key))

    def choose_dataset(self, dataset_id: str | None) -> News:
        """Show the dataset that is now chosen."""
        widgets = self.widgets
        if not dataset_id:
            return {widgets.dataset_status: "", widgets.preview: ""}
        dataset, rows = self.service.dataset(dataset_id), self.service.preview(dataset_id, datasets.PREVIEW_ROWS)
        return {
            widgets.dataset_status: datasets.line(dataset, rows),
            widgets.preview: datasets.preview(rows, dataset.rows),
            widgets.skip: gr.update(visible=False),
            widgets.fields[TASK]: self.service.task_of(dataset_id),
        }

    def choose_kind(self, kind: str, targets: Sequence[str] = ()) -> News:
        """Another kind of base model: ask for what names it."""
        return {**self.choose_model(kind, "", targets), self.widgets.model_ref: train_widgets.ref_box(kind, "")}

    def choose_model(self, kind: str, ref: str, targets: Sequence[str] = ()) -> News:
        """Show what is known of the base model, and its linear layers as targets; those checked stay if it has them."""
        widgets = self.widgets
        news: News = {widgets.model_status: ""}
        if kind != STARTER and not (ref or "").strip():
            return {**news, widgets.fields[forms.TARGETS]: train_widgets.target_choices(())}
        try:
            card = self.service.inspect_model(STARTER if kind == STARTER else ref.strip())
        except UserError as error:
            return {**news, widgets.model_status: markup.banner(error.title, error.detail, error.hint)}
        news[widgets.fields[forms.TARGETS]] = train_widgets.target_choices(card.shapes, targets)
        news[widgets.model_status] = ready.model_line(card)
        return news

    def refresh(self, *values: Any) -> News:
        """The form changed: say what would be trained, or what is missing."""
        form = Form.read(*values)
        outlook = self._look_ahead(form)
        label = ready.launch_label(outlook.dataset, outlook.card, outlook.problem)
        widgets = self.widgets
        return {
            widgets.ready: ready.summary(outlook.config, outlook.dataset, outlook.estimate, outlook.problem),
            widgets.command: ready.command_html(outlook.config, self._data_file(outlook.dataset)),
            widgets.launch: gr.update(value=label, interactive=label == "Launch"),
            widgets.run_name: gr.update(
                placeholder=_default_name(outlook.dataset, form) if outlook.dataset else train_widgets.NAMELESS
            ),
            **self._mark(outlook, str(form.settings[METHOD])),
        }

    def launch(self, *values: Any) -> News:
        """Start the run once, however often it is clicked: the key is the page's visit and the run's config."""
        form = Form.read(*values)
        if not form.dataset_id:
            raise DataError("No dataset is chosen", hint="Drop a file or take an example")
        card = self.service.inspect_model(form.base_model)
        config = self._config(form, self.service.dataset(form.dataset_id), card)
        fingerprint = hashlib.sha256(repr(to_dict(config)).encode()).hexdigest()
        run = self.service.submit(config, key=f"{form.page_key}-{fingerprint[:16]}")
        return {self.widgets.launched: run.id}

    def _look_ahead(self, form: Form) -> Outlook:
        outlook = Outlook()
        try:
            outlook.dataset = self.service.dataset(form.dataset_id) if form.dataset_id else None
            outlook.card = self.service.inspect_model(form.base_model) if form.base_model else None
            if outlook.card is not None:
                outlook.config = self._config(form, outlook.dataset, outlook.card)
                outlook.estimate = self.service.estimate(outlook.config)
                if outlook.dataset is not None:
                    self.service.check_task(outlook.config)
        except UserError as error:
            outlook.problem = error
        return outlook

    def _data_file(self, dataset: Dataset | None) -> str:
        """What the command line would read: an example lies in its folder, an upload wherever the person keeps it."""
        if dataset is None:
            return ""
        paths = {example.title: example.path for example in self.service.examples()}
        path = paths.get(dataset.name)
        return f"{path.parent.name}/{path.name}" if path else dataset.name

    def _config(self, form: Form, dataset: Dataset | None, card: ModelCard) -> RunConfig:
        name = form.run_name or _default_name(dataset, form)
        return forms.config(
            form.settings,
            name=name,
            dataset_id=form.dataset_id or "none",
            base_model=form.base_model,
            shapes=card.shapes,
        )

    def _chosen(self, dataset: Dataset) -> News:
        widgets = self.widgets
        choices = datasets.choices(self.service.datasets())
        return {
            widgets.upload: None,
            widgets.dataset: gr.update(choices=choices, value=dataset.id, visible=True),
            **self.choose_dataset(dataset.id),
        }

    def _mark(self, outlook: Outlook, method: str) -> News:
        """Put the problem beside its widget, plain hints beside all others, and away what the method has no use for."""
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
            )
            for setting, widget in zip(forms.SETTINGS, self.widgets.fields.values(), strict=True)
        }

    def _on(self, trained: Adapter) -> News:
        """A model that was trained here as the base model.

        Raises:
            NotFound: it is an adapter.
        """
        if trained.method != "full":
            raise NotFound(f"{trained.name} is an adapter and no base model", hint="Choose one that was trained whole")
        folder, widgets = str(trained.path), self.widgets
        ref = {widgets.model_kind: "folder", widgets.model_ref: train_widgets.ref_box("folder", folder)}
        return {**self.choose_model("folder", folder), **ref}

    def _like(self, config: RunConfig) -> News:
        """The form filled in as an earlier run had it."""
        widgets = self.widgets
        kind = STARTER if config.base_model == STARTER else "hub" if _is_hub_id(config.base_model) else "folder"
        shapes = self.service.inspect_model(config.base_model).shapes
        shown = forms.values(config, shapes)
        news = self.choose_model(kind, config.base_model, shown.pop(forms.TARGETS))
        news |= self._chosen(self.service.dataset(config.data.dataset_id))
        news |= {widgets.fields[path]: value for path, value in shown.items()}
        ref = "" if kind == STARTER else config.base_model
        return {**news, widgets.model_kind: kind, widgets.model_ref: train_widgets.ref_box(kind, ref)}


# Values come as the browser sends them: what is allowed is for `core.config` and the service to say, in words.
_AS_SENT = {**frame.QUICK, "preprocess": False}


def _wire(page: gr.Blocks, handlers: TrainPage) -> None:
    """Connect the widgets' events with the handlers."""
    widgets = handlers.widgets
    refresh = answers.tells(widgets.banner, clears=False)(handlers.refresh)
    for choice in _wire_choices(page, handlers):
        choice.then(refresh, widgets.form, widgets.outlook, **_AS_SENT)
    # A textbox's `input` knows keys alone, not what is pasted with the mouse, and a slider's not its own corrections.
    typed = [
        (field.change if isinstance(field, gr.Textbox | gr.Slider) else field.input)
        for field in (widgets.run_name, *widgets.fields.values())
    ]
    gr.on(typed, refresh, widgets.form, widgets.outlook, trigger_mode="always_last", **_AS_SENT)
    launch = answers.tells(widgets.banner)(handlers.launch)
    outputs = [widgets.banner, widgets.launched]
    launched = widgets.launch.click(launch, widgets.form, outputs, trigger_mode="once", **_AS_SENT)
    launched.then(None, widgets.launched, None, js=LAUNCHED, **_AS_SENT)


def _wire_choices(page: gr.Blocks, handlers: TrainPage) -> list[Dependency]:
    """Connect what decides on data and base model; the events after which the form is to be looked at anew."""
    widgets, tells = handlers.widgets, answers.tells(handlers.widgets.banner)
    data, model = widgets.data, widgets.model
    kind, targets = widgets.model_kind, widgets.fields[forms.TARGETS]
    reference = [kind, widgets.model_ref, targets]
    choices = [
        page.load(tells(handlers.open), None, widgets.opened, **frame.QUICK),
        widgets.upload.upload(tells(handlers.upload), widgets.upload, data, **frame.QUICK),
        widgets.skip.click(tells(handlers.skip_bad_rows), widgets.broken_upload, data, **frame.QUICK),
        widgets.dataset.input(tells(handlers.choose_dataset), widgets.dataset, data, **_AS_SENT),
        kind.input(tells(handlers.choose_kind), [kind, targets], model, **_AS_SENT),
        widgets.model_ref.change(
            tells(handlers.choose_model), reference, model, trigger_mode="always_last", **_AS_SENT
        ),
    ]
    for key, button in widgets.examples.items():
        choices.append(button.click(tells(partial(handlers.example, key)), None, data, **frame.QUICK))
    return choices


def _checked(path: str) -> Path:
    """`path` if it lies in Gradio's upload folder: a browser may send any path it likes.

    Raises:
        DataError: it does not.
    """
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(Path(get_upload_folder()).resolve()):
        raise DataError("That file was not uploaded here", hint="Drop the file onto the page")
    return resolved


def _default_name(dataset: Dataset | None, form: Form) -> str:
    method = form.settings[METHOD]
    suffix = f"r{form.settings['lora.rank']}" if method == "lora" else method
    return f"{text.stem(dataset.name)}-{suffix}" if dataset else "run"


def _is_hub_id(ref: str) -> bool:
    return ref.count("/") == 1 and not ref.startswith(("/", ".", "~"))
