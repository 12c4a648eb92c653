"""Keys by which programs may ask the models: 32 random bytes each, shown once and kept as a hash.

A key is random throughout, so unlike a password it can be neither guessed nor looked up, and one round of SHA-256 is
enough of a hash. Whether a key is valid takes as long whatever of it is right: all hashes are compared, each in full.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, insert, select, update

from core.errors import ConfigError, NotFound, RunError
from jobs import tables
from jobs.database import Database
from jobs.names import checked_name

PREFIX, RANDOM_BYTES = "lw-", 32
SHOWN = 4  # of a key's last characters
NOTED_SECONDS = 60.0  # how often at most its use is written down


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as its owner knows it again: `ending` are its last characters, `used_at` is right to a minute."""

    name: str
    ending: str
    created_at: datetime
    used_at: datetime | None


class Keys:
    """Those in `database`. `clock` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def add(self, name: str) -> str:
        """A new key, which nobody can be told again.

        Raises:
            ConfigError: the name will not do, or another key has it.
        """
        name = checked_name(name)
        key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        values = {"name": name, "key_hash": _hash(key), "ending": key[-SHOWN:], "created_at": self._clock()}
        with self._database.write() as connection:
            if connection.execute(select(tables.api_keys).filter_by(name=name)).first() is not None:
                raise ConfigError(f"There is a key {name} already", hint="Revoke it first, or choose another name")
            connection.execute(insert(tables.api_keys).values(**values))
        return key

    def all(self) -> tuple[ApiKey, ...]:
        """In the order of their names."""
        with self._database.read() as connection:
            rows = connection.execute(select(tables.api_keys).order_by(tables.api_keys.c.name)).mappings().all()
        return tuple(
            ApiKey(name=row["name"], ending=row["ending"], created_at=_moment(row["created_at"]), used_at=used)
            for row in rows
            for used in [None if row["used_at"] is None else _moment(row["used_at"])]
        )

    def revoke(self, name: str) -> None:
        """Let the key open nothing from now on.

        Raises:
            NotFound: there is no such key.
        """
        with self._database.write() as connection:
            found = connection.execute(delete(tables.api_keys).filter_by(name=checked_name(name))).rowcount
        if not found:
            raise NotFound(f"There is no key {name}", hint="List the keys to see their names")

    def are_wanted(self) -> bool:
        """Whether there is any, so that who asks has to show one."""
        with self._database.read() as connection:
            return connection.execute(select(tables.api_keys.c.name).limit(1)).first() is not None

    def owner(self, key: str) -> str | None:
        """The name of the key, where it is one; its use is noted."""
        given, owner, noted = _hash(key), None, None
        with self._database.read() as connection:
            rows = connection.execute(select(tables.api_keys)).mappings().all()
        for row in rows:
            if hmac.compare_digest(row["key_hash"], given):
                owner, noted = row["name"], row["used_at"]
        now = self._clock()
        if owner is not None and (noted is None or now - noted >= NOTED_SECONDS):
            with suppress(RunError), self._database.write() as connection:  # a full disk keeps nobody out
                connection.execute(update(tables.api_keys).filter_by(name=owner).values(used_at=now))
        return owner


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
