"""Exports of one home, each made by a child process (`jobs.exporter`), one after the other.

What was made lies in the home's `exports` folder under a name with the weights' fingerprint, with the figure of its
check beside it. A file without a figure was not made whole, or by an older workbench, and counts as absent. What goes
on, waits or failed is known while the app lives.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from core.errors import AdapterError, ConfigError, NotFound, RunError
from core.export.about import About
from core.export.hub import check_repo_id
from core.export.verdict import Verdict, read_verdict
from core.models.catalogue import find, public_name
from core.models.shapes import parameter_count
from jobs.adapters import describe_adapter
from jobs.children import Child, Told
from jobs.export_draft import check_path, clear_drafts
from jobs.export_forms import FORMS, ExportForm, export_form
from jobs.exporter import ExportOrder
from jobs.home import Home
from jobs.names import slug
from jobs.room import require_room
from jobs.store import Store
from jobs.views import Adapter

State: TypeAlias = Literal["absent", "waiting", "going on", "done", "failed"]

MODULE = "jobs.exporter"
STARTING = "starting"
_BYTES = {"merged": 2, "merged-gguf": 2, "merged-gguf-q8_0": 1}  # a parameter of what has the base in it


@dataclass(frozen=True, slots=True, kw_only=True)
class FormView:
    """Where an export in one form stands. `phase` says what is being done, `sentence` why there is none; `path`,
    `bytes` and `verdict` are of what was made.
    """

    form: ExportForm
    state: State
    phase: str = ""
    sentence: str = ""
    path: Path | None = None
    bytes: int = 0
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushView:
    """Where an adapter's last upload stands; `url` is where it is, once it is done."""

    state: State
    phase: str = ""
    sentence: str = ""
    repo_id: str = ""
    url: str = ""


@dataclass(slots=True)
class _Job:
    adapter_id: str
    order: ExportOrder
    child: Child | None = None
    phase: str = STARTING
    failure: str = ""
    url: str = ""
    is_over: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def state(self) -> State:
        if self.is_over:
            return "failed" if self.failure else "done"
        return "waiting" if self.child is None else "going on"


@dataclass(slots=True)
class Exports:
    """The exports of one home. Any thread may ask."""

    home: Home
    store: Store
    models_root: Path
    environment: Mapping[str, str]
    module: str = MODULE
    _jobs: dict[tuple[str, str], _Job] = field(default_factory=dict)  # by adapter, and form or "push"
    _waiting: deque[_Job] = field(default_factory=deque)
    _now: _Job | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def forms(self, adapter_id: str) -> tuple[FormView, ...]:
        """Every form that the adapter can have, and where its export stands.

        Raises:
            NotFound: there is no such adapter.
        """
        adapter = self.store.adapter(adapter_id)
        return tuple(self._view(adapter, form) for form in FORMS.values() if _can_have(adapter, form))

    def form(self, adapter_id: str, form: str) -> FormView:
        """Where the export in one form stands.

        Raises:
            NotFound: there is no such adapter.
            ConfigError: there is no such form, or not for this adapter.
        """
        adapter = self.store.adapter(adapter_id)
        return self._view(adapter, self._form(adapter, form))

    def pushed(self, adapter_id: str) -> PushView:
        """Where the adapter's last upload stands."""
        with self._lock:
            job = self._jobs.get((adapter_id, "push"))
            if job is None:
                return PushView(state="absent")
            return PushView(
                state=job.state, phase=job.phase, sentence=job.failure, repo_id=job.order.repo_id, url=job.url
            )

    def start(self, adapter_id: str, form: str) -> FormView:
        """Make the export, unless that is done, waits or goes on.

        Raises:
            NotFound: there is no such adapter.
            ConfigError: there is no such form, or not for this adapter.
            AdapterError: its files have gone.
            RunError: there is no room for it.
        """
        adapter = self.store.adapter(adapter_id)
        wanted = self._form(adapter, form)
        with self._lock:
            if self._view(adapter, wanted).state in ("absent", "failed"):
                self._add((adapter_id, form), _Job(adapter_id, self._order(adapter, wanted)))
        return self._view(adapter, wanted)

    def push(self, adapter_id: str, repo_id: str, form: str, private: bool = True) -> PushView:
        """Upload the export, which is made first where it is not there, with a card.

        Raises:
            NotFound, ConfigError, AdapterError: as `start`.
            RunError: that is no repository's name, another upload of this adapter goes on, or there is no room.
        """
        adapter = self.store.adapter(adapter_id)
        order = self._order(adapter, self._form(adapter, form), check_repo_id(repo_id), private)
        with self._lock:
            if self.pushed(adapter_id).state in ("waiting", "going on"):
                raise RunError("Another upload of this adapter goes on", hint="Wait until it is done")
            self._add((adapter_id, "push"), _Job(adapter_id, order))
        return self.pushed(adapter_id)

    def stop(self, adapter_id: str, form: str) -> None:
        """Give an export up that waits or goes on; `form` is `push` for an upload."""
        with self._lock:
            job = self._jobs.get((adapter_id, form))
        if job is not None and not job.is_over:
            self._end(job, "It was stopped.")

    def file(self, adapter_id: str, form: str) -> Path:
        """The export as a file, made first where it is not there. It takes its time.

        Raises:
            NotFound, ConfigError, AdapterError, RunError: as `start`, or it cannot be made.
        """
        seen = self.start(adapter_id, form)
        with self._lock:
            job = self._jobs.get((adapter_id, form))
        if seen.state in ("waiting", "going on") and job is not None:
            job.over.wait()
        seen = self.form(adapter_id, form)
        if seen.path is None:
            name = self.store.adapter(adapter_id).name
            raise AdapterError(f"{name} was not exported: {seen.sentence.rstrip('.')}")
        return seen.path

    def close(self) -> None:
        """End what goes on or waits."""
        with self._lock:
            jobs = [*self._waiting, *([self._now] if self._now is not None else [])]
            self._waiting.clear()
        for job in jobs:
            self._end(job, "The workbench was closed.")

    def _form(self, adapter: Adapter, form: str) -> ExportForm:
        wanted = export_form(form)
        if not _can_have(adapter, wanted):
            raise ConfigError(
                f"{adapter.name} cannot be exported as {form}: that is for language models' LoRA adapters",
                hint="Choose peft or merged",
                field="to",
            )
        return wanted

    def _view(self, adapter: Adapter, form: ExportForm) -> FormView:
        with self._lock:
            job = self._jobs.get((adapter.id, form.key))
            if job is not None and not job.is_over:
                return FormView(form=form, state=job.state, phase=job.phase)
        path = self._target(adapter, form)
        verdict = read_verdict(check_path(path)) if path.is_file() else None
        if verdict is not None:
            return FormView(form=form, state="done", path=path, bytes=path.stat().st_size, verdict=verdict)
        if job is not None and job.failure:
            return FormView(form=form, state="failed", sentence=job.failure)
        return FormView(form=form, state="absent")

    def _target(self, adapter: Adapter, form: ExportForm) -> Path:
        return self.home.exports / f"{slug(adapter.name)}-{adapter.fingerprint}-{form.key}.{form.suffix}"

    def _order(self, adapter: Adapter, form: ExportForm, repo_id: str = "", private: bool = True) -> ExportOrder:
        describe_adapter(adapter.path)
        require_room(self.home, "The export", self._bytes(adapter, form))
        about, records = self._about(adapter)
        return ExportOrder(
            adapter=str(adapter.path),
            base_model=adapter.base_model,
            form=form.key,
            output=str(self._target(adapter, form)),
            about=about.as_dict(),
            records=records,
            repo_id=repo_id,
            private=private,
        )

    def _bytes(self, adapter: Adapter, form: ExportForm) -> int:
        """About what it takes on the disk while it is made: the draft, and a zip of it."""
        folder = find(adapter.base_model, self.models_root).folder if form.has_base else None
        base = _BYTES[form.key] * parameter_count(folder) if folder is not None else 0
        return (1 if form.is_file else 2) * (base + adapter.bytes)

    def _about(self, adapter: Adapter) -> tuple[About, str]:
        """What the store knows of it, and the file of the rows it was trained on, if they are still there."""
        about = About(
            name=adapter.name,
            base_model=public_name(adapter.base_model),
            eval_loss=adapter.eval_loss,
            base_eval_loss=adapter.base_eval_loss,
        )
        if adapter.run_id is None:
            return about, ""
        config = self.store.run(adapter.run_id).config
        try:
            dataset = self.store.dataset(config.data.dataset_id)
        except NotFound:
            return replace(about, config=config), ""
        records = self.home.records(dataset.id)
        return replace(about, config=config, data_rows=dataset.rows), str(records) if records.is_file() else ""

    def _add(self, key: tuple[str, str], job: _Job) -> None:
        self._jobs[key] = job
        self._waiting.append(job)
        self._next()

    def _next(self) -> None:
        """Start the next one, if none goes on. The lock is held."""
        if self._now is not None or not self._waiting:
            return
        clear_drafts(self.home.exports)
        job = self._now = self._waiting.popleft()
        job.child = Child(self.module, [job.order.as_json()], self.environment, lambda told: self._hear(job, told))

    def _hear(self, job: _Job, told: Told) -> None:
        """Take in what the child tells, in a thread of its own."""
        if told["kind"] == "phase":
            job.phase = told["phase"]
        elif told["kind"] == "failed":
            job.failure = told["sentence"]
        elif told["kind"] == "done":
            job.url = told["url"]
            job.phase = "done"
        elif told["kind"] == "gone":
            status = told["status"]
            if not job.failure and job.phase != "done":
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                job.failure = f"The process that exports ended {how} before it was done; try again."
            self._conclude(job)

    def _conclude(self, job: _Job) -> None:
        with self._lock:
            job.is_over = True
            job.over.set()
            if self._now is job:
                self._now = None
                clear_drafts(self.home.exports)
            self._next()

    def _end(self, job: _Job, why: str) -> None:
        with self._lock:
            if job.is_over:
                return
            job.failure = why
            if job in self._waiting:
                self._waiting.remove(job)
            child = job.child
        if child is not None:
            child.stop()
        self._conclude(job)


def _can_have(adapter: Adapter, form: ExportForm) -> bool:
    return adapter.method != "full" and (form.is_for_all or (adapter.method == "lora" and adapter.can_chat))
