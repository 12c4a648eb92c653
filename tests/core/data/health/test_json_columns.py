"""What goes the quick way from lines to columns becomes what it would have become the usual way."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.formats.converting import converter
from core.data.formats.mapping import Mapping
from core.data.health.json_columns import is_plain, parse_lines
from core.data.health.near_search import whole_lines
from core.data.health.text_columns import TextColumns, chosen, columns_of
from core.data.readers.json_rows import parse_json
from core.data.records import Record
from core.data.rows import BadRow, Row
from tests.core.data.health.planted import sound_rows, words

MAPPINGS = (
    Mapping(format="messages", columns={"messages": "messages"}),
    Mapping(format="sharegpt", columns={"conversations": "messages"}),
    Mapping(format="prompt_completion", columns={"prompt": "a", "completion": "b"}),
    Mapping(format="alpaca", columns={"instruction": "a", "input": "c", "output": "b"}),
    Mapping(format="question_answer", columns={"question": "a", "context": "c", "answer": "b"}),
    Mapping(format="text", columns={"text": "a"}),
    Mapping(format="labeled", columns={"text": "a", "label": "b"}),
    Mapping(format="labeled", columns={"text": "a", "text_pair": "c", "label": "b"}),
)

TEXTS = (
    "", " ", "\u00a0\u2003", "\x1c", "[{", '[{"role": "user", "content": "x"}]', "\x00",
    "{'text': ['a'], 'answer_start': [1]}", "a\x00b", "\u2028", "  indented", "2024-01-01", "世界", "🙂",
    *["plain", "more"] * 12, "plain \"quoted\"", '{"a": 1}', "\x85",
)  # fmt: skip
ROLES = (*["user", "assistant"] * 12, *["human", "gpt", "system", "tool"] * 3, "wizard", "", None, 3)
ODD_LINES = (
    b"", b"  ", b"{", b"[1]", b'{"a": "x"}{"a": "y"}', b'{"a": "x", "a": "y", "b": "z"}', b'{"a": "x", "b": NaN}',
    b"null", b' {"a": "x", "b": "y"} ', b'{"a": "\\ud800", "b": "y"}', b'{"a": "x", "b": "y",}', b'{"a":"x","b":"y"}\r',
    b'{"a": "x"', b'{"a": "x", "b": 1e999}',
)  # fmt: skip


def cell(chance: random.Random) -> Any:
    if chance.random() < 0.99:
        return chance.choice(TEXTS)
    return chance.choice([None, 3, 1.5, True, [], ["x"], {"x": "y"}])


def turn(chance: random.Random, keys: tuple[str, str]) -> dict[str, Any]:
    who, what = keys if chance.random() < 0.99 else ("from", "content")
    more = {
        "weight": chance.choice([0, 1, None]),
        "name": chance.choice(["n", None]),
        "reasoning": "because",
        "tool_calls": [{}],
    }
    added = {key: more[key] for key in more if chance.random() < 0.02}
    return {who: chance.choice(ROLES), what: cell(chance), **added}


def odd_line(chance: random.Random) -> bytes:
    """A line of a file that is mostly what it should be."""
    if chance.random() < 0.05:
        return chance.choice(ODD_LINES)
    keys = chance.choice([("role", "content"), ("from", "value")])
    turns = [turn(chance, keys) for _ in range(chance.choice([0, 1, 2, 2, 2, 3]))]
    row = {
        "a": cell(chance),
        "b": cell(chance),
        "c": cell(chance),
        "messages": turns if chance.random() < 0.99 else cell(chance),
    }
    row |= {"A": "other"} if chance.random() < 0.05 else {}
    return orjson.dumps({key: value for key, value in row.items() if chance.random() < 0.98})


def usual(line: bytes, number: int, mapping: Mapping) -> Record | None:
    """What becomes of a line the usual way; None for a line that is refused."""
    try:
        return converter(mapping)(Row(number=number, values=parse_json(line.decode())))
    except (ValueError, BadRow):
        return None


def told(columns: TextColumns) -> dict[int, Any]:
    """By row, who says what, and the label."""
    return {
        int(row): (
            [
                (int(columns.roles[at]), columns.text_of(at))
                for at in range(columns.first[number], columns.first[number + 1])
            ],
            columns.labels[number] if columns.labels else None,
        )
        for number, row in enumerate(columns.rows)
    }


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: f"{mapping.format}-{len(mapping.columns)}")
def test_quick_lines_become_what_they_become_the_usual_way(mapping: Mapping) -> None:
    gone_quickly = 0
    for seed in range(250):
        chance = random.Random(seed)
        gone_quickly += check_lines_of(mapping, [odd_line(chance) for _ in range(chance.randint(1, 4))])
    assert gone_quickly > 20


def check_lines_of(mapping: Mapping, lines: list[bytes]) -> int:
    """Hold both ways together; how many lines went the quick one."""
    parsed = parse_lines(b"".join(line + b"\n" for line in lines), 5, mapping)

    quick = told(parsed.columns)
    others = dict(parsed.others)
    assert sorted([*quick, *others]) == list(range(5, 5 + len(lines)))
    assert all(lines[number - 5] == line for number, line in others.items())
    for number, found in quick.items():
        record = usual(lines[number - 5], number, mapping)
        assert record is not None and told(columns_of([record]))[number] == found
    return len(quick)


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: f"{mapping.format}-{len(mapping.columns)}")
def test_sound_rows_all_go_the_quick_way(mapping: Mapping) -> None:
    chance = random.Random(0)
    rows: list[dict[str, Any]] = []
    for _ in range(50):
        speakers = ("from", "value") if mapping.format == "sharegpt" else ("role", "content")
        turns = [dict(zip(speakers, (who, words(chance, 5)), strict=True)) for who in ("system", "user", "assistant")]
        rows.append({"a": words(chance, 5), "b": words(chance, 5), "c": words(chance, 3), "messages": turns, "id": 7})

    parsed = parse_lines(b"".join(orjson.dumps(row) + b"\n" for row in rows), 1, mapping)

    assert len(parsed.columns) == 50 and not parsed.others


def test_numbers_may_be_labels() -> None:
    mapping = Mapping(format="labeled", columns={"text": "t", "label": "l"})

    parsed = parse_lines(b'{"t": "x", "l": 1}\n{"t": "y", "l": 0}\n', 1, mapping)

    assert parsed.columns.labels == ("1", "0")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_values_nested_without_end_are_left_to_the_usual_way(opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    deep = f'{{"a": "x", "z": {opening * 200_000}1{closing * 200_000}}}'.encode()

    parsed = parse_lines(deep + b'\n{"a": "y"}\n', 1, MAPPINGS[5])

    assert [number for number, _ in parsed.others] == [1] and parsed.columns.rows.tolist() == [2]


def test_formats_that_need_a_closer_look_do_not_go_this_way() -> None:
    assert all(map(is_plain, MAPPINGS))
    assert not is_plain(Mapping(format="preference", columns={"chosen": "a"}))
    assert not is_plain(Mapping(format="messages", columns={"messages": "a", "tools": "b"}))


@given(content=st.binary(max_size=60).map(lambda content: content.replace(b"a", b"\n")), size=st.integers(1, 9))
def test_lines_are_whole_however_a_file_is_cut(content: bytes, size: int) -> None:
    blocks = [content[at : at + size] for at in range(0, len(content), size)]

    found = list(whole_lines(blocks))

    assert all(block.endswith(b"\n") for block in found)
    assert b"".join(found) == content + (b"" if not content or content.endswith(b"\n") else b"\n")


def test_some_of_the_columns_are_those_of_some_of_the_records() -> None:
    import numpy as np

    records = sound_rows(random.Random(0), 30)
    is_chosen = np.array([number % 3 == 1 for number in range(30)])

    found = chosen(columns_of(records), is_chosen)

    assert told(found) == told(columns_of(records[1::3]))
