"""Files on their way to becoming datasets, each read by a process of its own (`jobs.intake`), and what came of them.

What is being read is known here alone: an app that ends takes its readers with it, and their drafts are no datasets. A
file whose rows are not all sound waits, read and ready, for the person to say that the others are enough.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import orjson

from core.data.formats.mapping import Mapping as Columns
from core.errors import DataError, UserError
from jobs.children import Told
from jobs.errands import Errand, Errands
from jobs.home import DatasetFolder, Home
from jobs.ids import new_id
from jobs.taking_in import Guess, Taken
from jobs.views import Dataset, RunProblem

State: TypeAlias = Literal["reading", "unsure", "broken", "refused", "done"]
Publish: TypeAlias = Callable[[DatasetFolder, Taken], Dataset]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """One file as it stands: being read (`rows` so far, `share_done` of it where known; all are where they are being
    compared), unsure what its columns mean (`guess`), broken (`skipped` rows cannot be trained on; it can be accepted
    without them), refused, or done.
    """

    id: str
    name: str
    state: State = "reading"
    rows: int = 0
    share_done: float | None = None
    is_comparing: bool = False
    skipped: int = 0
    problem: RunProblem | None = None
    guess: Guess | None = None
    dataset_id: str | None = None


class Intakes:
    """The files that are being read for one home."""

    def __init__(self, home: Home, environment: Mapping[str, str]) -> None:
        self._home, self._environment = home, environment
        self._readers: Errands[_Reader] = Errands("That file is no longer being read", "Drop it again")

    def begin(self, order: dict[str, Any], name: str, publish: Publish) -> Intake:
        """Start to read what `order` says, as `jobs.intake` takes it; `publish` makes a dataset of what came of it."""
        intake = Intake(id=new_id(), name=name)
        draft = DatasetFolder(self._home.datasets / f".{intake.id}")
        reader = _Reader(intake, order, draft, publish)
        self._readers.add(intake.id, reader)
        reader.start(self._environment)
        return reader.intake

    def look(self, intake_id: str, wait_seconds: float = 0.0) -> Intake:
        """How it stands; where it is still being read, after up to `wait_seconds`.

        Raises:
            NotFound: there is no such intake: it was stopped, or the app has been started anew.
        """
        reader = self._readers[intake_id]
        reader.wait(wait_seconds)
        return reader.intake

    def accept(self, intake_id: str) -> Intake:
        """A broken one becomes the dataset of its rows that can be trained on.

        Raises:
            NotFound: as `look`.
            DataError: it does not wait for that.
        """
        reader = self._readers[intake_id]
        reader.accept()
        return reader.intake

    def answer(self, intake_id: str, mapping: Columns) -> Intake:
        """Read it anew, with the columns meaning what the person says.

        Raises:
            NotFound: as `look`.
        """
        reader = self._readers[intake_id]
        reader.stop()
        reader.order |= {"mapping": {"format": mapping.format, "columns": dict(mapping.columns)}}
        reader.start(self._environment)
        return reader.intake

    def stop(self, intake_id: str) -> None:
        """Give it up; nothing of it stays."""
        self._readers.stop(intake_id)

    def close(self) -> None:
        """Give up all that is not done."""
        self._readers.stop_all()


class _Reader(Errand):
    """One file, and what its child has told."""

    def __init__(self, intake: Intake, order: dict[str, Any], draft: DatasetFolder, publish: Publish) -> None:
        super().__init__()
        self.intake, self.order = intake, order
        self._draft, self._publish = draft, publish
        self._taken: Taken | None = None

    def start(self, environment: Mapping[str, str]) -> None:
        self.intake = Intake(id=self.intake.id, name=self.intake.name)
        self.begin("jobs.intake", [orjson.dumps(self.order).decode(), str(self._draft.path)], environment)

    def accept(self) -> None:
        with self.lock:
            if self.intake.state != "broken" or self._taken is None:
                raise DataError(f"{self.intake.name} does not wait to be accepted", hint="Drop the file again")
            self._finish(self._taken)

    def hear(self, told: Told) -> None:
        _HEARD[told["kind"]](self, told)

    def clear(self) -> None:
        for folder in (self._draft.path, self._draft.download):
            shutil.rmtree(folder, ignore_errors=True)

    def _reading(self, told: Told) -> None:
        self.intake = replace(
            self.intake, rows=told["rows"], share_done=told["share_done"], is_comparing=told["is_comparing"]
        )

    def _took(self, told: Told) -> None:
        taken = self._taken = Taken.parse(told["taken"])
        if taken.problem is None:
            self._finish(taken)
        else:
            self._to("broken", taken.problem, rows=taken.rows, skipped=taken.skipped)

    def _unsure(self, told: Told) -> None:
        self._to("unsure", RunProblem(**told["problem"]), guess=Guess.parse(told["guess"]))

    def _refused(self, told: Told) -> None:
        self.clear()
        self._to("refused", RunProblem(**told["problem"]))

    def _gone(self, told: Told) -> None:
        if self.intake.state == "reading":
            title = f"{self.intake.name} could not be read: its reader ended with status {told['status']}"
            self._refused({"problem": {"title": title, "hint": "Drop it again; the app's log may say more"}})

    def _finish(self, taken: Taken) -> None:
        try:
            dataset = self._publish(self._draft, taken)
        except UserError as error:
            problem = {"title": error.title, "detail": error.detail, "hint": error.hint}
            self._refused({"problem": problem})
        else:
            self.clear()
            self.intake = replace(self.intake, state="done", rows=taken.rows, dataset_id=dataset.id)

    def _to(self, state: State, problem: RunProblem, **values: Any) -> None:
        self.intake = replace(self.intake, state=state, problem=problem, **values)


_HEARD: dict[str, Callable[[_Reader, Told], None]] = {
    "reading": _Reader._reading,
    "taken": _Reader._took,
    "unsure": _Reader._unsure,
    "refused": _Reader._refused,
    "gone": _Reader._gone,
}
