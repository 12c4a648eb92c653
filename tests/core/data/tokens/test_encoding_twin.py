"""Encoding in batches against encoding each row by itself, over many tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ByT5Tokenizer

from core.data.records import Conversation, Labeled, Message, Passage
from core.data.tokens import encoding
from core.data.tokens.encoding import IGNORE, encode, encode_gradually
from core.errors import DataError, ModelError
from tests.core.data.tokens import slow_encoding
from tests.core.data.tokens.test_templates import TEMPLATES
from tests.core.data.tokens.tokenizers_at_hand import OTHERS, TEXTS, WORDWISE, made
from tests.core.tiny import conversation

CHATS = st.builds(
    lambda system, turns: conversation(*(text for turn in turns for text in turn), system=system),
    st.none() | TEXTS,
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3),
)
PASSAGES = st.builds(Passage, text=TEXTS, source_row=st.just(1))
RECORDS = st.lists(CHATS | PASSAGES, min_size=1, max_size=5)
STYLES = ["plain", "a system message of its own", "trimmed, with headers and the beginning of text",
          "roles that must alternate, the system's words in the first turn"]  # fmt: skip


@pytest.fixture(scope="module")
def starter(starter_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(starter_folder)


@pytest.fixture(scope="module", params=[*WORDWISE, *OTHERS])
def tokenizer(request: pytest.FixtureRequest, starter: Any) -> Any:
    return made(request.param, starter)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, style=st.sampled_from(STYLES), limit=st.integers(1, 60) | st.just(10**6))
def test_rows_are_those_of_encoding_each_by_itself(
    tokenizer: Any, records: list[Conversation | Passage], style: str, limit: int
) -> None:
    tokenizer.chat_template = TEMPLATES[style]
    expected = slow_encoding.rows(tokenizer, records, limit)
    if not expected:
        with pytest.raises(DataError, match="No row keeps anything"):
            encode(tokenizer, records, limit)
        return
    found = encode(tokenizer, records, limit)
    assert list(found.rows) == expected
    assert found.without_labels == len(records) - len(expected)
    assert found.rows.lengths.tolist() == [len(row.tokens) for row in expected]
    assert found.rows.trained.tolist() == [row.trained for row in expected]


@pytest.mark.parametrize("name", ["gpt-2", "lower case"])
def test_where_batches_end_changes_nothing(starter: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tokenizer = made(name, starter)
    records = [conversation(f"Say {number}.", "It is " + "so " * number, row=number) for number in range(1, 30)]
    expected = list(encode(tokenizer, records, 50).rows)
    for rows, letters in ((1, 10**6), (7, 10**6), (1000, 60)):
        monkeypatch.setattr(encoding, "BATCH_ROWS", rows)
        monkeypatch.setattr(encoding, "BATCH_LETTERS", letters)
        assert list(encode(tokenizer, records, 50).rows) == expected


def test_an_encoding_grows_by_batches(starter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH_ROWS", 4)
    records = [conversation("Say it.", "Now." if number != 5 else "", row=number) for number in range(10)]
    seen = [(len(found.rows), found.records) for found in encode_gradually(starter, records, 1000)]
    assert [records for _, records in seen] == [4, 8, 10]
    assert [rows for rows, _ in seen] == sorted(rows for rows, _ in seen)


def test_no_record_is_read_before_it_is_needed(starter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH_ROWS", 4)
    read: list[int] = []

    def records() -> Any:
        for number in range(100):
            read.append(number)
            yield conversation("Say it.", "Now.", row=number)

    next(iter(encode_gradually(starter, records(), 1000)))
    assert len(read) <= 5


def test_a_batch_is_small_however_long_its_records_are() -> None:
    records = [Passage(text="x" * length, source_row=1) for length in (10**6, 10, 10**5, 10**5, 10**5, 10)]
    assert [len(batch) for batch in encoding.batches(records)] == [1, 4, 1]
    assert [len(batch) for batch in encoding.batches(records[1:2] * 2500)] == [1000, 1000, 500]


def test_a_labeled_record_is_refused_with_its_row(starter: Any) -> None:
    records = [conversation("Say it.", "Now."), Labeled(text="x", label="good", source_row=9)]
    with pytest.raises(DataError, match="Row 9 has a label, 'good'"):
        encode(starter, records, 1000)


def test_a_tokenizer_that_knows_no_places_trains_on_passages_alone() -> None:
    slow = ByT5Tokenizer()
    slow.chat_template = TEMPLATES["plain"]
    (row,) = encode(slow, [Passage(text="héllo", source_row=1)], 1000).rows
    assert row.tokens == slow("héllo")["input_ids"][:-1] and IGNORE not in row.labels
    with pytest.raises(ModelError, match="places of its tokens") as caught:
        encode(slow, [conversation("Hi", "Ho")], 1000)
    assert caught.value.hint


def test_what_a_tokenizer_was_told_to_cut_or_fill_up_is_not_done(starter: Any) -> None:
    told = made("gpt-2", starter)
    records = [conversation("Hi there", "Ho ho ho"), Passage(text="x", source_row=1)]
    expected = list(encode(told, records, 1000).rows)
    told.backend_tokenizer.enable_truncation(3)
    told.backend_tokenizer.enable_padding(length=100)
    assert list(encode(told, records, 1000).rows) == expected


def test_a_conversation_of_one_message_and_none_from_the_assistant_keeps_nothing(starter: Any) -> None:
    silent = Conversation(messages=(Message(role="user", content="Hi"),), source_row=1)
    found = encode(starter, [silent, conversation("Hi", "Ho")], 1000)
    assert (len(found.rows), found.without_labels) == (1, 1)
