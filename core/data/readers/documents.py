"""The rows of one JSON document: a list of objects, an object around such a list, columns, or a single row.

Which of them it is, the document alone tells:

    [{"prompt": …}, …]                          a list of rows
    {"version": 1, "data": [{"prompt": …}, …]}  one list of objects, whatever its name
    {"prompt": ["…", …], "completion": [ … ]}   columns of equal length
    {"prompt": {"0": "…", "1": "…"}, …}         columns as pandas writes them
    {"messages": [{"role": …}, …]}              a single row
    {"conversations": [["…", "…"], …]}          a row for each conversation of plain turns
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from core.data.rows import Row, kind_of
from core.errors import DataError

CHAT_COLUMNS = ("messages", "conversations", "conversation")
_SPEAKER_KEYS = ("role", "from")


def rows_of_document(document: Any, name: str) -> Iterator[Row]:
    """The rows of a parsed JSON file, numbered from 1.

    Raises:
        DataError: the document holds no rows, or more than one list that could be them.
    """
    if isinstance(document, list):
        return _numbered(document)
    if not isinstance(document, dict):
        raise DataError(f"{name} holds no rows: it is {kind_of(document)}", hint="Write a list of objects")
    if _is_chat_row(document):
        return _numbered([document])
    if key := next((key for key in CHAT_COLUMNS if _are_talks(document.get(key))), ""):
        return _numbered({key: talk} for talk in document[key])
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    of_objects = [key for key, value in lists.items() if value and all(isinstance(item, dict) for item in value)]
    if len(of_objects) > 1 and len(of_objects) == len(lists):
        raise DataError(f"{name} holds several lists of rows", ", ".join(of_objects), "Keep one of them a file")
    if len(of_objects) == 1 and (len(lists) == 1 or len(lists) < len(document)):
        return _numbered(lists[of_objects[0]])
    return _numbered(_rows_of_columns(document, lists, name))


def _is_chat_row(document: dict[str, Any]) -> bool:
    turns = [value[0] for key in CHAT_COLUMNS if isinstance(value := document.get(key), list) and value]
    return any(map(is_turn, turns))


def _are_talks(value: object) -> bool:
    """Whether `value` is a list of lists of texts, each a conversation whose turns are plain; told by the first."""
    talks = value if isinstance(value, list) else []
    first = talks[0] if talks else None
    is_talk = isinstance(first, list) and bool(first) and all(isinstance(turn, str) for turn in first)
    return is_talk and all(isinstance(talk, (list, str)) for talk in talks)


def is_turn(item: object) -> bool:
    """Whether `item` is a message of a conversation."""
    return isinstance(item, dict) and any(key in item for key in _SPEAKER_KEYS)


def _rows_of_columns(document: dict[str, Any], lists: dict[str, list[Any]], name: str) -> Iterable[dict[str, Any]]:
    columns = lists if len(lists) == len(document) else _pandas_columns(document)
    if columns is None:
        return [document]
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise DataError(f"The columns of {name} differ in length", sizes, "Give every column the same number of values")
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _pandas_columns(document: dict[str, Any]) -> dict[str, list[Any]] | None:
    """The columns of what `DataFrame.to_json` writes, each an object from row index to value; None for all else."""
    indexes = [tuple(value) if isinstance(value, dict) else () for value in document.values()]
    is_pandas = len(set(indexes)) == 1 and indexes[0] and all(key.isdecimal() for key in indexes[0])
    return {key: list(value.values()) for key, value in document.items()} if is_pandas else None


def _numbered(values: Iterable[Any]) -> Iterator[Row]:
    return (Row(number=number, values=value) for number, value in enumerate(values, start=1))
