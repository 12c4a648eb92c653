"""The SQLite connection: how durable it is, how it locks, and that its tables are up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.exc import OperationalError

from core.errors import ConfigError, RunError

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST_REVISION = "0010"
LOCK_TIMEOUT_SECONDS = 30.0

# SQLite 3.7.0 to 3.51.2 can corrupt a database in WAL mode when two connections write and checkpoint at the same moment
# (fixed in 3.51.3). The app and a command line on one home are two such connections, so older libraries get the
# rollback journal.
FIRST_SQLITE_WITH_SAFE_WAL = (3, 51, 3)


class Database:
    """One SQLite file. Reads and writes each happen in one transaction; writers wait for each other at its start.

    `problem` says why nothing could be written when it was last tried; it is empty where it could.
    """

    def __init__(self, path: Path) -> None:
        self.problem = ""
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": LOCK_TIMEOUT_SECONDS})
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        self._reading = self._engine.execution_options(reads_only=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database throughout."""
        with self._reading.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection that alone may write until the block ends; an exception in the block undoes all of it.

        Raises:
            RunError: the disk is full, or does not let us write.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            why = _unwritable(error)
            if not why:
                raise
            self.problem = f"Nothing can be saved: {why}"
            hint = "Make room on the disk of the home folder; what is there can still be read"
            raise RunError(self.problem, hint=hint) from error
        self.problem = ""

    def try_to_write(self) -> None:
        """Find out whether what was in the way of writing has gone.

        Raises:
            RunError: it has not.
        """
        with self.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))

    def migrate(self) -> None:
        """Bring the tables to the newest revision. Two processes may ask at once; the second finds it done.

        Raises:
            ConfigError: a newer workbench made the database.
        """
        revision = self._revision()
        if revision == NEWEST_REVISION:
            return  # the usual case, and importing alembic takes longer than all else here
        if revision is not None and revision > NEWEST_REVISION:
            raise ConfigError("A newer LoRA Workbench made this home", f"revision {revision}", "Update the workbench")
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return found


def _unwritable(error: OperationalError) -> str:
    """What of the disk is in the way of writing; empty where it is something else."""
    code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the kind, without what kind of that
    return str(error.orig) if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY) else ""


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's "begin" event opens transactions, not the driver
    journal = "WAL" if sqlite3.sqlite_version_info >= FIRST_SQLITE_WITH_SAFE_WAL else "DELETE"
    for pragma in (f"journal_mode = {journal}", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
