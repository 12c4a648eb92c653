from __future__ import annotations

import sqlite3

import pytest

from core.errors import ConfigError, NotFound
from jobs.store import Store
from jobs.users import LONGEST_PASSWORD, SHORTEST_PASSWORD, Users

PASSWORD = "correct horse battery"


@pytest.fixture
def users(store: Store) -> Users:
    users = Users(store)
    users.add("ada", PASSWORD)
    return users


def test_nobody_is_there_before_somebody_is_added(store: Store) -> None:
    assert Users(store).names() == () and not Users(store).are("admin", "admin")


def test_only_the_right_password_of_a_known_name_is_right(users: Users) -> None:
    assert users.are("ada", PASSWORD)
    for name, password in (("ada", PASSWORD + " "), ("ada", ""), ("Ada", PASSWORD), ("", PASSWORD), ("bob", PASSWORD)):
        assert not users.are(name, password), (name, password)


def test_a_password_is_the_same_however_it_is_spelled(users: Users) -> None:
    users.add("bob", "Übermäßig lang")
    assert users.are("bob", "U\u0308berma\u0308ßig lang")


def test_a_new_password_replaces_the_old_one(users: Users) -> None:
    users.add("ada", "another password")
    assert users.are("ada", "another password") and not users.are("ada", PASSWORD) and users.names() == ("ada",)


def test_whoever_is_removed_is_let_in_no_longer(users: Users) -> None:
    users.remove("ada")
    assert users.names() == () and not users.are("ada", PASSWORD)
    with pytest.raises(NotFound):
        users.remove("ada")


@pytest.mark.parametrize("length", [0, SHORTEST_PASSWORD - 1, LONGEST_PASSWORD + 1])
def test_passwords_that_are_too_short_or_too_long_are_refused(users: Users, length: int) -> None:
    with pytest.raises(ConfigError, match="A password has"):
        users.add("eve", "x" * length)
    assert users.names() == ("ada",)


def test_no_password_is_on_the_disk(users: Users, store: Store) -> None:
    assert PASSWORD.encode() not in store.home.database.read_bytes()
    with sqlite3.connect(store.home.database) as database:
        ((kept,),) = database.execute("SELECT password_hash FROM users").fetchall()
    assert kept.startswith("$argon2id$")


def test_a_hash_that_is_none_lets_nobody_in(users: Users, store: Store) -> None:
    store.put_user("ada", "no hash")
    assert not users.are("ada", PASSWORD)
