from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.records import Conversation, Labeled, Message, Passage, Record, read_records, write_records

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_ROWS = st.integers(1, 10**9)
_MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=_TEXT,
    weight=st.integers(0, 1),
    tool_calls=st.none() | _TEXT,
    name=st.none() | _TEXT,
)
_CONVERSATIONS = st.builds(
    Conversation, messages=st.lists(_MESSAGES, max_size=4).map(tuple), source_row=_ROWS, tools=st.none() | _TEXT
)
_PASSAGES = st.builds(Passage, text=_TEXT, source_row=_ROWS)
_LABELED = st.builds(Labeled, text=_TEXT, text_pair=st.none() | _TEXT, label=_TEXT, source_row=_ROWS)


@given(records=st.lists(_CONVERSATIONS | _PASSAGES | _LABELED, max_size=5))
def test_what_is_written_is_read_back(records: list[Record], tmp_path_factory: object) -> None:
    path = Path(tmp_path_factory.mktemp("records")) / "records.jsonl"  # type: ignore[attr-defined]
    write_records(records, path)
    assert list(read_records(path)) == records


def test_a_record_takes_one_line_whatever_breaks_its_text_has(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records([Passage(text="a\nb\r\nc\u2028d", source_row=1), Passage(text="e", source_row=4)], path)
    assert path.read_bytes().count(b"\n") == 2


def test_records_can_be_gone_through_again_and_by_several_at_once(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records: list[Record] = [Passage(text=str(row), source_row=row) for row in range(1, 6)]
    write_records(records, path)
    found = read_records(path)
    assert len(found) == 5 and list(found) == records == list(found)
    assert list(zip(found, found, strict=True)) == list(zip(records, records, strict=True))


def test_no_record_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records([Passage(text="whole", source_row=1)], path)
    with path.open("ab") as file:
        file.write(b"no JSON\n")
    found = read_records(path)
    assert len(found) == 2 and next(iter(found)) == Passage(text="whole", source_row=1)
    with pytest.raises(ValueError, match="line 1 column 1"):
        list(found)


def test_a_file_of_an_earlier_workbench_is_still_read_and_a_plain_record_still_written_so(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    line = b'{"row":3,"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Ahoy"}]}\n'
    path.write_bytes(line)
    (record,) = read_records(path)
    assert isinstance(record, Conversation) and record.tools is None
    assert [(turn.weight, turn.tool_calls, turn.name) for turn in record.messages] == [(1, None, None)] * 2
    write_records([record], path)
    assert path.read_bytes() == line
