"""What runs have told so far, whole or in short, and what they keep: `service.history`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from core.errors import ConfigError
from jobs import figures
from jobs.history import Told, read_history
from jobs.home import Home
from jobs.saved_checkpoints import SavedCheckpoint, is_proved, look_at
from jobs.store import Store
from jobs.summaries import Summary, summary_of
from jobs.views import Run

FORMS = {"csv": figures.as_csv, "json": figures.as_json}


@dataclass(slots=True)
class Histories:
    """The histories of one home's runs."""

    home: Home
    store: Store
    _summaries: dict[str, tuple[tuple[str, datetime | None], Summary]] = field(default_factory=dict)
    _proved: dict[tuple[str, datetime], bool] = field(default_factory=dict)

    def since(self, run_id: str, offset: int = 0) -> tuple[tuple[Told, ...], int]:
        """What a run has told from byte `offset` of its events on, and the offset to ask from next.

        Raises:
            NotFound: there is no such run.
        """
        return read_history(self.home.run(self.store.run(run_id).id).events, offset)

    def summary(self, run: Run) -> Summary:
        """A run at rest in short; it is read again once the run was resumed."""
        state = run.state, run.ended_at
        known = self._summaries.get(run.id)
        if known is None or known[0] != state:
            known = self._summaries[run.id] = state, summary_of(self.home.run(run.id))
        return known[1]

    def export(self, run_id: str, form: str) -> Iterator[str]:
        """The whole history as text, piece by piece: `csv` or `json`, with a row for each step.

        Raises:
            NotFound: there is no such run.
            ConfigError: there is no such form.
        """
        if form not in FORMS:
            raise ConfigError(f"There is no form {form!r} of a history", hint=f"Choose {' or '.join(FORMS)}")
        told, _ = self.since(run_id)
        return FORMS[form](figures.rows(told))

    def checkpoints(self, run_id: str) -> tuple[SavedCheckpoint, ...]:
        """Those that the run keeps, the newest first; verified are those that `verify` has read.

        Raises:
            NotFound: there is no such run.
        """
        return tuple(found for _, found in self._checkpoints(run_id))

    def verify(self, run_id: str) -> tuple[SavedCheckpoint, ...]:
        """Read every byte of every checkpoint of the run, and compare it with what was put on record.

        Raises:
            NotFound: there is no such run.
        """
        for folder, found in self._checkpoints(run_id):
            if found.proof == "not verified":
                self._proved[str(folder), found.written_at] = is_proved(folder)
        return self.checkpoints(run_id)

    def _checkpoints(self, run_id: str) -> Iterator[tuple[Path, SavedCheckpoint]]:
        for folder in reversed(self.home.run(self.store.run(run_id).id).checkpoint_folders):
            found = look_at(folder)
            if found is not None:
                known = self._proved.get((str(folder), found.written_at)) if found.proof == "not verified" else None
                proof = found.proof if known is None else "verified" if known else "damaged"
                yield folder, replace(found, proof=proof)
