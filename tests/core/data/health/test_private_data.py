"""What looks private is found by shape and checksum, in any place of a text, and is never shown."""

from __future__ import annotations

import random
import string
from pathlib import Path

import orjson
import pytest

from core.data.health.private_data import candidates, sightings
from core.data.health.text_columns import columns_of
from core.data.records import Passage
from tests.core.data.health.planted import health_of, key_of, rows_by_kind, sound_rows, with_inserted, words
from ui.pages import health as page

SEEDS = range(4)
UPPER = string.ascii_uppercase + "234567"


def keys(chance: random.Random) -> list[str]:
    body = "".join(chance.choices(string.ascii_letters + string.digits + "+/", k=64))
    return [
        key_of(chance, "sk-", 48),
        key_of(chance, "sk-proj-", 60),
        key_of(chance, "AKIA", 16, UPPER),
        key_of(chance, "ghp_", 36),
        key_of(chance, "github_pat_", 40),
        key_of(chance, "glpat-", 20),
        key_of(chance, "hf_", 34),
        key_of(chance, "xoxb-", 40),
        key_of(chance, "AIza", 35),
        key_of(chance, "sk_live_", 24),
        key_of(chance, "npm_", 36),
        key_of(chance, "pypi-", 60),
        "SG." + key_of(chance, "", 22) + "." + key_of(chance, "", 43),
        "eyJ" + key_of(chance, "", 30) + ".eyJ" + key_of(chance, "", 50) + "." + key_of(chance, "", 43),
        f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n{body}\n-----END RSA PRIVATE KEY-----",
    ]


def luhn_digit(digits: str) -> str:
    """The last digit of a card, by trying all."""

    def total(number: str) -> int:
        doubled = [int(digit) * (2 if at % 2 else 1) for at, digit in enumerate(reversed(number))]
        return sum(value - 9 if value > 9 else value for value in doubled)

    return next(digit for digit in string.digits if total(digits + digit) % 10 == 0)


def account(country: str, bank: str) -> str:
    """An account number with its check digits, by trying all."""

    def rest(number: str) -> int:
        turned = number[4:] + number[:4]
        return int("".join(str(int(letter, 36)) for letter in turned)) % 97

    return next(number for check in range(2, 99) if rest(number := f"{country}{check:02d}{bank}") == 1)


def personal(chance: random.Random) -> list[str]:
    digits = "".join(chance.choices("123456789", k=20))
    card = "4" + digits[:14]
    card += luhn_digit(card)
    iban = account("DE", digits[:18])
    return [
        f"{words(chance, 1)[:-1].lower()}.{digits[:4]}@{words(chance, 1)[:-1].lower()}x.org",
        card,
        " ".join(card[at : at + 4] for at in range(0, 16, 4)),
        iban,
        " ".join(iban[at : at + 4] for at in range(0, len(iban), 4)),
        account("GB", "NWBK" + digits[:14]),
        f"+49 {digits[:3]} {digits[3:10]}",
        f"+1-{digits[:3]}-{digits[3:6]}-{digits[6:10]}",
        f"({chance.randint(2, 9)}{digits[:2]}) {chance.randint(2, 9)}{digits[2:4]}-{digits[4:8]}",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_keys_and_addresses_are_found_and_nothing_else(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    records = sound_rows(chance, 500)
    planted = {"keys": keys(chance), "personal": personal(chance)}
    places = iter(chance.sample(range(500), 40))
    expected: dict[str, list[int]] = {}
    for kind, secrets in planted.items():
        for secret in secrets:
            at = next(places)
            records[at] = with_inserted(chance, records[at], secret)
            expected.setdefault(kind, []).append(at + 1)

    health = health_of(records, tmp_path)

    assert rows_by_kind(health, tmp_path) == {kind: sorted(rows) for kind, rows in expected.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_part_of_a_secret_is_shown(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    for number, secret in enumerate([*keys(chance), *personal(chance)]):
        record = with_inserted(chance, sound_rows(chance, 1)[0], secret)

        health = health_of([record], tmp_path / str(number))

        assert health.findings, secret
        told = orjson.dumps(health.to_dict()).decode() + page.ready(health)
        for hidden in [secret[at : at + 6] for at in range(10, len(secret) - 5)]:
            assert hidden not in told or hidden in "-----BEGIN RSA PRIVATE KEY-----", secret


@pytest.mark.parametrize(
    "text",
    [
        "Version 1.2.3.4 of 2026-11-23, at 12:34:56.789012345, is 1,234,567,890 bytes.",
        "See https://docs.example.com/en/latest/reference/some-very-long-path-of-a-manual.html#fragment-of-it",
        "Write to somebody@example.com or root@localhost, or decorate with @property or @dataclass(frozen=True).",
        "Set OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx and AWS_KEY=AKIAIOSFODNN7EXAMPLE.",
        "3.14159265358979323846264338327950288419716939937510",
        "The checksum is d41d8cd98f00b204e9800998ecf8427e, its parent 0000000000000000.",
        "-----BEGIN PUBLIC KEY----- and nothing that follows; BEGIN PRIVATE KEY is a header.",
        "from collections.abc import AsyncGenerator; task-specific skeleton-based sketching-algorithms",
        "4111 1111 1111 1112 is no card, GB29 NWBK 6016 1331 9268 18 no account, 555-1234 too short.",
    ],
)
def test_ordinary_text_holds_nothing_private(text: str) -> None:
    assert list(sightings(text)) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_no_text_with_something_private_is_passed_over(seed: int) -> None:
    chance = random.Random(seed)
    texts = [
        chance.choice(["", "é", "世", "x=", '"', "(", "\n"]) + secret for secret in [*keys(chance), *personal(chance)]
    ]
    chance.shuffle(texts)
    columns = columns_of([Passage(text=text, source_row=row) for row, text in enumerate(texts)])

    found = candidates(columns)

    for number, text in enumerate(texts):
        for group in ("key", "mail", "number"):
            if list(sightings(text, (group,))):
                assert number in found[group], text


def test_a_hostile_text_takes_no_long_time() -> None:
    for text in (
        "a" * 200_000 + "@",
        "a@" + "a-." * 60_000,
        "1 " * 100_000,
        "+1" + "(1" * 100_000,
        "eyJ" + "a.eyJ" * 40_000,
    ):
        assert list(sightings(text)) == []
