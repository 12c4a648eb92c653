"""The table of formats, and which mappings made by hand are refused."""

from __future__ import annotations

from typing import Any

import pytest

from core.data.formats.detection import FORMATS, Mapping, check_mapping, parse_mapping, to_record
from core.data.records import Conversation, Labeled, Passage
from core.data.rows import BadRow, Row
from core.errors import ConfigError, DataError

COLUMNS = ("prompt", "completion", "about", "talk")


def mapping(format_key: str, **columns: str) -> Mapping:
    return Mapping(format=format_key, columns=columns)


def test_every_format_and_role_has_words_for_people() -> None:
    for known in FORMATS.values():
        assert known.title and known.sentence.endswith(".") and known.required
        for role in known.roles.values():
            assert role.title[0].isupper() and role.sentence[0].isupper() and not role.sentence.endswith(".")
    assert len({known.title for known in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize(
    ("bad", "error", "sentence"),
    [
        (mapping("csv", text="prompt"), ConfigError, "There is no row format 'csv'"),
        (mapping("text", body="prompt"), ConfigError, "text has no role 'body'; choose from text"),
        (mapping("text"), ConfigError, "No column is chosen for Text"),
        (mapping("prompt_completion", system="about"), ConfigError, "No column is chosen for Prompt and Completion"),
        (mapping("prompt_completion", prompt="prompt", completion="prompt"), ConfigError, "'prompt' is chosen twice"),
        (mapping("text", text="body"), DataError, "There is no column 'body' .found: prompt, completion, about, talk"),
        (mapping("text", text="body.text"), DataError, "There is no column 'body.text'"),
    ],
)
def test_a_mapping_that_no_row_could_be_read_by_is_refused(bad: Mapping, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        check_mapping(bad, COLUMNS)


@pytest.mark.parametrize(
    "good",
    [
        mapping("text", text="about"),
        mapping("text", text="about.text"),
        mapping("prompt_completion", prompt="prompt", completion="completion", system="about"),
        mapping("messages", messages="talk"),
    ],
)
def test_a_mapping_of_columns_that_are_there_passes(good: Mapping) -> None:
    check_mapping(good, COLUMNS)


@pytest.mark.parametrize(
    "values",
    [None, [], {}, {"format": "text"}, {"format": 1, "columns": {}}, {"format": "text", "columns": {"text": 1}},
     {"format": "text", "columns": []}, {"format": "text", "columns": {}, "more": 1}],
)  # fmt: skip
def test_what_is_no_mapping_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match="mapping cannot be read"):
        parse_mapping(values)


def test_one_row_can_be_tried_with_any_mapping() -> None:
    row = Row(number=7, values={"Name ": "Ada", "body": "Ahoy", "in": {"deep": "Deeper"}, "kind": 1.0})
    assert to_record(row, mapping("text", text="body")) == Passage(text="Ahoy", source_row=7)
    assert to_record(row, mapping("text", text="in.deep")) == Passage(text="Deeper", source_row=7)
    assert to_record(row, mapping("labeled", text="body", label="kind")) == Labeled(
        text="Ahoy", label="1", source_row=7
    )
    record = to_record(row, mapping("prompt_completion", prompt="name", completion="body"))
    assert isinstance(record, Conversation)
    assert [message.content for message in record.messages] == ["Ada", "Ahoy"]
    with pytest.raises(BadRow, match="has no tail"):
        to_record(row, mapping("text", text="tail"))


def test_a_column_that_has_the_name_of_a_path_is_meant_itself() -> None:
    row = Row(number=1, values={"a.b": "here", "a": {"b": "there"}})
    assert to_record(row, mapping("text", text="a.b")) == Passage(text="here", source_row=1)
