"""The adapters' rows in the database. Deleted ones stay as rows, so that they can be restored, and later be named by
what was made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, insert, select, update

from core.errors import NotFound
from jobs import tables
from jobs.database import Database
from jobs.home import Home
from jobs.queueing import one
from jobs.rows import adapter_of
from jobs.views import Adapter

_HINT = "List the adapters to see their ids"
_ADAPTERS = select(tables.adapters, tables.runs.c.config).outerjoin(
    tables.runs, tables.adapters.c.run_id == tables.runs.c.id
)
_IS_SHOWN = tables.adapters.c.deleted_at.is_(None)
_IS_IN_TRASH = tables.adapters.c.deleted_at.is_not(None) & tables.adapters.c.emptied_at.is_(None)


class Shelf:
    """The adapters of one home. `clock` gives Unix seconds."""

    def __init__(self, database: Database, home: Home, clock: Callable[[], float]) -> None:
        self._database, self._home, self._clock = database, home, clock

    def all(self) -> tuple[Adapter, ...]:
        """Those that are not deleted, newest first."""
        return self._where(_IS_SHOWN, tables.adapters.c.created_at)

    def deleted(self) -> tuple[Adapter, ...]:
        """Those that can be restored, the last deleted first."""
        return self._where(_IS_IN_TRASH, tables.adapters.c.deleted_at)

    def emptied(self) -> tuple[Adapter, ...]:
        """Those whose files were to be removed, the last first."""
        return self._where(tables.adapters.c.emptied_at.is_not(None), tables.adapters.c.emptied_at)

    def get(self, adapter_id: str) -> Adapter:
        """One that is not deleted. Raises: NotFound."""
        found = self.any(adapter_id)
        if found.deleted_at is not None:
            raise NotFound(f"The adapter {found.name} was deleted", hint="Restore it in the Library, if it is there")
        return found

    def any(self, adapter_id: str) -> Adapter:
        """Whether it is deleted or not. Raises: NotFound."""
        with self._database.read() as connection:
            row = one(connection, _ADAPTERS.where(tables.adapters.c.id == adapter_id))
        if row is None:
            raise NotFound(f"There is no adapter {adapter_id}", hint=_HINT)
        return adapter_of(row, self._home.path)

    def add(self, values: dict[str, Any]) -> Adapter:
        """Register an adapter whose folder is in place."""
        with self._database.write() as connection:
            connection.execute(insert(tables.adapters).values(created_at=self._clock(), **values))
        return self.get(values["id"])

    def change(self, adapter_id: str, **values: Any) -> None:
        """Give one that is not deleted other values. Raises: NotFound."""
        self.get(adapter_id)
        self._update(adapter_id, _IS_SHOWN, values)

    def delete(self, adapter_id: str) -> None:
        """Keep it, where nobody sees it but who restores it. Raises: NotFound."""
        self.get(adapter_id)
        self._update(adapter_id, _IS_SHOWN, {"deleted_at": self._clock()})

    def restore(self, adapter_id: str) -> Adapter:
        """Undo its deletion; of one that is not deleted, nothing.

        Raises:
            NotFound: there is none, or its files have been removed.
        """
        self._update(adapter_id, _IS_IN_TRASH, {"deleted_at": None})
        found = self.any(adapter_id)
        if found.deleted_at is not None:
            raise NotFound(f"The adapter {found.name} cannot be restored: its files have been removed")
        return found

    def empty(self, adapter_id: str) -> bool:
        """Note that a deleted one is to lose its files; whether it was there to be noted."""
        return self._update(adapter_id, _IS_IN_TRASH, {"emptied_at": self._clock()}) == 1

    def _where(self, condition: ColumnElement[bool], order: ColumnElement[Any]) -> tuple[Adapter, ...]:
        query = _ADAPTERS.where(condition).order_by(order.desc(), tables.adapters.c.id.desc())
        with self._database.read() as connection:
            return tuple(adapter_of(row, self._home.path) for row in connection.execute(query).mappings())

    def _update(self, adapter_id: str, condition: ColumnElement[bool], values: dict[str, Any]) -> int:
        with self._database.write() as connection:
            change = update(tables.adapters).where(tables.adapters.c.id == adapter_id, condition)
            return connection.execute(change.values(**values)).rowcount
