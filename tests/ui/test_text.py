from datetime import UTC, datetime, timedelta

import pytest

from ui import text

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 B"), (999, "999 B"), (9_830_000, "9.8 MB"), (18_000_000_000, "18 GB"), (2.5e12, "2.5 TB")],
)
def test_sizes_carry_their_unit(value: float, words: str) -> None:
    assert text.size(value) == words


@pytest.mark.parametrize(("seconds", "words"), [(-3, "0:00"), (42, "0:42"), (725, "12:05"), (11_220, "3 h 07 min")])
def test_durations_read_like_a_clock(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"), [(96, "96"), (9_999, "9,999"), (81_230, "81.2 k"), (2_442_240, "2.4 M"), (7e9, "7.0 B")]
)
def test_counts_are_short(value: float, words: str) -> None:
    assert text.count(value) == words


@pytest.mark.parametrize(
    ("part", "whole", "words"), [(0, 5, "0.0 %"), (1, 3, "33.3 %"), (3, 100_000, "0.003 %"), (1, 0, "0.0 %")]
)
def test_a_small_share_is_told_from_nothing(part: float, whole: float, words: str) -> None:
    assert text.share(part, whole) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(10, "just now"), (60, "1 min ago"), (7_200, "2 h ago"), (90_000, "yesterday"), (900_000, "12 Nov 2026")],
)
def test_moments_are_told_from_now(seconds: float, words: str) -> None:
    assert text.ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_a_moment_without_a_zone_is_taken_as_utc() -> None:
    assert text.ago(NOW.replace(tzinfo=None), NOW) == "just now"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("starter", text.STARTER_WORDS),
        ("/models/my-model/", "my-model"),
        ("owner/name", "owner/name"),
        ("C:\\models\\m", "m"),
        ("/home/me/runs/01M80RASNXTDJF4VTPKA0J641H/adapter", "model of run 0J641H"),
        ("/home/me/adapter", "adapter"),
    ],
)
def test_a_base_model_has_a_short_name(ref: str, words: str) -> None:
    assert text.base_model(ref) == words


@pytest.mark.parametrize(
    ("file", "name"),
    [("My Captain.jsonl", "my-captain"), ("archive.tar.gz", "archive-tar"), ("<b>.csv", "b"), ("....", "run")],
)
def test_a_runs_name_begins_like_its_file(file: str, name: str) -> None:
    assert text.stem(file) == name


def test_numbers_are_short_and_lose_nothing() -> None:
    assert [text.number(value) for value in (16.0, 0.05, 5e-4, 1e-7)] == ["16", "0.05", "0.0005", "1e-07"]
