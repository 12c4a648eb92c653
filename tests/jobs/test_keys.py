from __future__ import annotations

import re

import pytest

from core.errors import ConfigError, NotFound
from jobs.keys import NOTED_SECONDS, Keys
from jobs.store import Store


@pytest.fixture
def keys(store: Store) -> Keys:
    return store.keys


def test_nobody_has_a_key_before_one_is_made(keys: Keys) -> None:
    assert not keys.are_wanted() and keys.all() == ()
    for given in ("", "lw-", "admin"):
        assert keys.owner(given) is None


def test_a_key_is_long_random_and_known_again(keys: Keys) -> None:
    made = [keys.add(name) for name in ("laptop", "script")]
    assert all(re.fullmatch(r"lw-[\w-]{43}", key) for key in made) and len(set(made)) == 2
    assert [keys.owner(key) for key in made] == ["laptop", "script"] and keys.are_wanted()
    for wrong in (made[0] + "x", made[0][:-1], made[0].swapcase(), made[0][3:], "\ud800"):
        assert keys.owner(wrong) is None


def test_a_list_shows_no_more_of_a_key_than_its_last_characters(keys: Keys) -> None:
    made = keys.add("laptop")
    (shown,) = keys.all()
    assert shown.name == "laptop" and shown.ending == made[-4:] and shown.used_at is None
    assert made not in repr(shown) and made[:-4] not in repr(shown)


def test_its_last_use_is_known_to_a_minute(store: Store) -> None:
    times = [1000.0]
    keys = Keys(store._database, lambda: times[-1])
    made = keys.add("laptop")
    used = []
    for now in (1000.0, 1001.0, 1000.0 + NOTED_SECONDS):
        times.append(now)
        assert keys.owner(made) == "laptop"
        (shown,) = keys.all()
        assert shown.used_at is not None
        used.append(shown.used_at.timestamp())
    assert used == [1000.0, 1000.0, 1000.0 + NOTED_SECONDS]


def test_a_revoked_key_opens_nothing_and_its_name_can_be_given_again(keys: Keys) -> None:
    made = keys.add("laptop")
    with pytest.raises(ConfigError, match="already"):
        keys.add(" laptop ")
    keys.revoke("laptop")
    assert keys.owner(made) is None and not keys.are_wanted()
    with pytest.raises(NotFound):
        keys.revoke("laptop")
    assert keys.add("laptop") != made


def test_no_key_is_on_the_disk(keys: Keys, store: Store) -> None:
    made = keys.add("laptop")
    keys.owner(made)
    content = b"".join(path.read_bytes() for path in store.home.path.rglob("*") if path.is_file())
    assert b"laptop" in content and made.encode() not in content and made[3:].encode() not in content
