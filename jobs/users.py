"""Who may use a workbench that listens on a network: names, and their passwords as Argon2 hashes.

There is nobody before somebody is added, and no password that anyone could know. A name that is not there takes as long
to be refused as a wrong password, so that nobody learns which names are.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from core.errors import ConfigError, NotFound
from jobs.names import checked_name
from jobs.store import Store

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1024


class Users:
    """Those in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def names(self) -> tuple[str, ...]:
        """In the order of the alphabet."""
        return tuple(sorted(self._store.users()))

    def add(self, name: str, password: str) -> None:
        """Let somebody in from now on, or give them another password.

        Raises:
            ConfigError: the name or the password will not do.
        """
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise ConfigError(f"A password has {SHORTEST_PASSWORD} characters at least", hint="Choose a longer one")
        self._store.put_user(checked_name(name), _hasher().hash(_normal(password)))

    def remove(self, name: str) -> None:
        """Let somebody in no longer.

        Raises:
            NotFound: there is no such user.
        """
        if not self._store.drop_user(_spelled(name)):
            raise NotFound(f"There is no user {name}", hint="List the users to see their names")

    def stamps(self) -> dict[str, str]:
        """By name, what changes with the password."""
        return {name: hashlib.sha256(said.encode()).hexdigest() for name, said in self._store.users().items()}

    def are(self, name: str, password: str) -> bool:
        """Whether they are who they say."""
        found = self._store.users().get(_spelled(name))
        try:
            is_right = _hasher().verify(found or _nobody(), _normal(password[:LONGEST_PASSWORD]))
        except (VerificationError, InvalidHashError):
            return False
        return is_right and found is not None


def _spelled(name: str) -> str:
    """The name as it is kept, however it was typed."""
    return unicodedata.normalize("NFC", name).strip()


def _normal(password: str) -> str:
    """One spelling of what looks the same, whatever keyboard it came from."""
    return unicodedata.normalize("NFKC", password)


@functools.cache
def _hasher() -> PasswordHasher:
    return PasswordHasher()


@functools.cache
def _nobody() -> str:
    """A hash that takes as long as anyone's."""
    return _hasher().hash("nobody has this password")
