"""Deleted adapters: kept for a month to be restored, or until somebody empties the trash.

Deleting changes a row and no file, so that undoing it is sure. Files go when the trash is emptied, with the copies that
were made for downloads; first the row says so, then they are removed, and what a crash left is removed at the next
start.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from core.errors import AdapterError
from jobs.adapters import describe_adapter
from jobs.home import Home
from jobs.store import Store
from jobs.views import Adapter

DAYS = 30
_A_DAY = 86_400.0
_DRAFT_SECONDS = 3600.0  # without a change; then nobody is writing it any more

_IS_OVER = ("finished", "failed", "cancelled")

log = logging.getLogger(__name__)


class Trash:
    """What was deleted on one home, for so many `days`. `is_answering` says whether a folder's adapter is in the middle
    of a reply.
    """

    days = DAYS

    def __init__(
        self,
        home: Home,
        store: Store,
        is_answering: Callable[[Path], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._store, self._shelf = home, store, store.shelf
        self._is_answering, self._clock = is_answering, clock

    def all(self) -> tuple[Adapter, ...]:
        """Those that can be restored, the last deleted first."""
        return self._shelf.deleted()

    def put(self, adapter_id: str) -> Adapter:
        """Delete an adapter or a whole model, for as long as nobody restores it.

        Raises:
            NotFound: there is no such adapter.
            AdapterError: something needs it.
        """
        adapter = self._shelf.get(adapter_id)
        self._refuse_if_needed(adapter)
        self._shelf.delete(adapter_id)
        return adapter

    def restore(self, adapter_id: str) -> Adapter:
        """Undo a deletion.

        Raises:
            NotFound: there is no such adapter, or its files have been removed.
            AdapterError, ModelError: its files have gone by other hands.
        """
        describe_adapter(self._shelf.any(adapter_id).path)
        return self._shelf.restore(adapter_id)

    def empty(self) -> int:
        """Remove the files of all that were deleted; how many these were."""
        return sum(self._remove(adapter) for adapter in self.all())

    def expire(self) -> None:
        """Remove the files of those that were deleted a month ago, and what was left of earlier removals."""
        for adapter in self.all():
            assert adapter.deleted_at is not None
            if self._clock() - adapter.deleted_at.timestamp() > DAYS * _A_DAY:
                self._remove(adapter)
        for adapter in self._shelf.emptied():
            self._remove_files(adapter)

    def clear_drafts(self) -> None:
        """Remove what an app that was killed was making; drafts of late may be another process's."""
        for draft in self._home.adapters.glob(".*"):
            with suppress(FileNotFoundError):  # whoever writes it has just moved it to its place
                if time.time() - max(path.stat().st_mtime for path in (draft, *draft.rglob("*"))) > _DRAFT_SECONDS:
                    shutil.rmtree(draft)

    def _remove(self, adapter: Adapter) -> bool:
        if not self._shelf.empty(adapter.id):  # restored, or removed by somebody else, meanwhile
            return False
        self._remove_files(adapter)
        return True

    def _remove_files(self, adapter: Adapter) -> None:
        folder = adapter.path.resolve()
        if not folder.is_relative_to(self._home.path):
            log.error("%s does not lie in the home folder, and stays", folder)
            return
        if folder.exists():
            shutil.rmtree(folder)
        others = (*self._shelf.all(), *self._shelf.deleted())
        if not any(other.fingerprint == adapter.fingerprint for other in others):
            for export in self._home.exports.glob(f"*-{adapter.fingerprint}*"):
                export.unlink() if export.is_file() else shutil.rmtree(export)

    def _refuse_if_needed(self, adapter: Adapter) -> None:
        if self._is_answering(adapter.path):
            raise AdapterError(
                f"{adapter.name} is answering in the Playground", hint="Wait for the reply, or stop it, then delete"
            )
        if adapter.method != "full":
            return
        here = str(adapter.path)
        runs = [run for run in self._store.runs() if run.config.base_model == here and run.state not in _IS_OVER]
        if runs:
            title = f"{adapter.name} is the base model of a run that may go on"
            raise AdapterError(title, ", ".join(run.name for run in runs[:4]), "Let it end, or cancel it first")
        above = [each.name for each in self._shelf.all() if each.base_model == here]
        if above:
            raise AdapterError(
                f"{adapter.name} is the base model of other adapters", ", ".join(above[:4]), "Delete these first"
            )
