"""Settings as YAML text: what is written is read again, and what is no settings is refused in a sentence."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.settings_file import LARGEST, read_settings, write_value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.one_of(st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False))
LEAVES = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none())
VALUES = st.one_of(LEAVES, st.lists(LEAVES, max_size=4), st.dictionaries(TEXTS, LEAVES, max_size=4))
TRAPS = ["no", "1e-4", "a: b # c", "\x85\u2028\x7f", "", "~", "-", "'", '"', "\\", "\ufeff", " x ", "\n", "2026-01-01",
         "=", "<<", "1:30", "0x1f", "null", "&a", "*a", "!x", "{", "%", "@", "`", "? x", "🏴‍☠️ مرحبا"]  # fmt: skip


@given(VALUES)
@example(TRAPS)
@example({text: index for index, text in enumerate(TRAPS)})
@example([1e-5, 1e300, 3.0, -0.5])
def test_what_is_written_is_read_again_from_one_line_even_with_a_comment(value: Any) -> None:
    line = f"a: {write_value(value)}  # standard 8"
    assert read_settings(line + "\nb: 2\n").values == {"a": value, "b": 2}


@given(st.one_of(TEXTS, st.integers(), st.booleans(), st.floats(1e-9, 1e9)))
@example("1e-4")
@example("no")
def test_other_readers_of_yaml_read_the_same(value: Any) -> None:
    """PyYAML goes by YAML 1.1, most others by 1.2."""
    assert yaml.safe_load(f"a: {write_value(value)}") == {"a": value}


@pytest.mark.parametrize(
    ("word", "value"),
    [("1e-4", 1e-4), ("5", 5), ("-3.5", -3.5), (".5", 0.5), ("no", "no"), ("on", "on"), ("True", True),
     ("tRue", "tRue"), ("~", None), ("null", None), ("2026-11-23", "2026-11-23"), ("12:30", "12:30"), ("010", 10),
     ("q_proj:v", "q_proj:v"),
     ("'5'", "5"), ("<<", "<<"), ("9" * 200, "9" * 200)],
)  # fmt: skip
def test_plain_words_are_read_by_the_newer_rules(word: str, value: Any) -> None:
    assert read_settings(f"a: {word}").values == {"a": value}


def test_the_line_of_each_setting_is_known() -> None:
    read = read_settings("# a comment\nname: x\nlora:\n  rank: 4\n  rank_pattern: {q_proj: 2,\n    up_proj: 3}\n")
    lines = {"name": 2, "lora": 3, "lora.rank": 4, "lora.rank_pattern": 5, "lora.rank_pattern.q_proj": 5}
    assert read.lines == lines | {"lora.rank_pattern.up_proj": 6}


@pytest.mark.parametrize(
    ("field", "detail"),
    [("lora.rank", "line 2, there"), ("lora.alpha", "line 1, there"), ("seed", "there"), ("", "there")],
)
def test_an_error_is_told_with_the_line_of_its_setting_or_section(field: str, detail: str) -> None:
    error = read_settings("lora:\n  rank: 0\n").located(ConfigError("Wrong", "there", "Mend it", field))
    assert (error.title, error.detail, error.hint, error.field) == ("Wrong", detail, "Mend it", field)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x [1]\nb: *x", "The file has an anchor or alias (line 1)"),
        ("a: 1\nb: *x", "The file has an anchor or alias (line 2)"),
        ("a: !!python/object:os.system ls", "python/object:os.system (line 1)"),
        ("\na: !mine 3", "The file has a tag, !mine (line 2)"),
        ("a: !!binary aGk=", "has a tag"),
        ("a: {b: 1, b: 2}", "The file has b twice (line 1)"),
        ("? [x]\n: 1", "a name that is no text (line 1)"),
        ("a: [[[[[[[1]]]]]]]", "too many levels (line 1)"),
        ("a: {", "is not YAML (line 1)"),
        ("a: 1\n---\nb: 2", "is not YAML"),
        ("a: \x07", "is not YAML"),
        (b"a: \xff", "is not YAML"),
        ("- 1", "holds no settings"),
        ("words", "holds no settings"),
        ("a: " + "x" * LARGEST, "too large"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_settings_is_refused_in_one_sentence(text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_no_settings_and_no_error() -> None:
    assert [read_settings(text).values for text in ("", "# only words\n", b"\xef\xbb\xbf", "null")] == [{}, {}, {}, {}]


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x,x,x]\n" + "".join(f"{n}: &{n} [{f'*{p},' * 9}]\n" for p, n in pairwise("abcdefghi")),
        "[" * LARGEST,
        "{a: " * (LARGEST // 4),
        "a: [" + "1," * (LARGEST // 2 - 5) + "]",
    ],
    ids=["aliases", "lists", "mappings", "numbers"],
)  # fmt: skip
def test_a_text_that_is_made_to_take_long_does_not(bomb: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError):
        read_settings(bomb)
    assert time.process_time() - began < 10
