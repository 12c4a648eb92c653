"""Records as lines of `records.jsonl` straight from columns of their texts, byte for byte what `core.data.records`
writes for each.

All between two texts (the end of a record, the row of the next, who speaks) is text that is known or a number, so a
block of lines is texts and what stands between them in turns, which Arrow joins in one pass. Before that, what JSON
escapes is escaped in all texts at once: a backslash is put before its place, and another letter in its place.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from core.data.health.text_columns import ASSISTANT, SYSTEM, TEXT, TOOL, USER, TextColumns, places_of
from core.data.row_index import RecordLines

Array: TypeAlias = Any  # one of pyarrow's

_ROLES = {SYSTEM: "system", USER: "user", ASSISTANT: "assistant", TOOL: "tool"}
_FIRST = [*(f',"messages":[{{"role":"{_ROLES[code]}","content":"' for code in range(TEXT)), ',"text":"']
_LATER = [*(f'"}},{{"role":"{_ROLES[code]}","content":"' for code in range(TEXT)), '","text_pair":"']
_END = {True: '"}\n', False: '"}]}\n'}  # of a text, and of turns

_ESCAPES = [orjson.dumps(chr(code))[1:-1] for code in range(128)]
_ADDED = np.array([len(escape) - 1 for escape in _ESCAPES], np.int64)
_LAST = np.array([escape[-1] for escape in _ESCAPES], np.uint8)
_BACKSLASH = ord("\\")


def lines_of(columns: TextColumns) -> RecordLines:
    """The lines of records of which each has a text, and no message more than a role and content."""
    from pyarrow import compute

    if not len(columns):
        return RecordLines(text=b"", starts=np.zeros(0, np.int64), rows=columns.rows)
    first, last = columns.first[:-1], columns.first[1:] - 1
    rows = compute.binary_join_element_wise('{"row":', _array(columns.rows).cast("string"), "")
    is_first = np.zeros(len(columns.roles), np.bool_)
    is_first[first] = True
    before = _array([*_FIRST, *_LATER]).take(_array(columns.roles + len(_FIRST) * ~is_first))
    parts = (_spread(columns, rows, first), before, _escaped(columns), _spread(columns, _ends(columns), last))
    joined = compute.binary_join_element_wise(*parts, "", null_handling="replace")
    _, places, text = joined.buffers()
    starts = np.frombuffer(places, np.int32)
    return RecordLines(
        text=memoryview(text)[: int(starts[len(joined)])], starts=starts[first].astype(np.int64), rows=columns.rows
    )


def _spread(columns: TextColumns, texts: Array, places: NDArray[np.int64]) -> Array:
    """One of `texts` a record at that one of `places`, and nothing with the other texts of the record."""
    numbers = np.full(len(columns.roles), -1, np.int64)
    numbers[places] = np.arange(len(columns))
    import pyarrow

    return texts.take(pyarrow.array(numbers, mask=numbers < 0))


def _ends(columns: TextColumns) -> Array:
    """What stands behind the last text of each record."""
    if not columns.labels:
        return _array([_END[bool(columns.roles[0] == TEXT)]] * len(columns))
    ends = {label: f'","label":{orjson.dumps(label).decode()}}}\n' for label in set(columns.labels)}
    return _array([ends[label] for label in columns.labels])


def _escaped(columns: TextColumns) -> Array:
    """The texts as they stand in JSON, between quotes."""
    letters = np.frombuffer(columns.text, np.uint8)
    places = places_of((letters < 32) | (letters == ord('"')) | (letters == _BACKSLASH))
    if not len(places):
        return _texts(columns.text, columns.starts)
    codes = letters[places]
    added = _ADDED[codes]
    where, what = places, np.full(len(places), _BACKSLASH, np.uint8)
    if (added > 1).any():
        where = np.repeat(places, added)
        what = np.frombuffer(b"".join([_ESCAPES[code][:-1] for code in codes.tolist()]), np.uint8)
    escaped = np.insert(letters, where, what)
    escaped[places + np.cumsum(added)] = _LAST[codes]
    return _texts(escaped, columns.starts + np.searchsorted(where, columns.starts))


def _texts(text: bytes | NDArray[np.uint8], starts: NDArray[np.int64]) -> Array:
    import pyarrow

    buffers = [pyarrow.py_buffer(starts.astype(np.int32)), pyarrow.py_buffer(text)]
    return pyarrow.StringArray.from_buffers(len(starts) - 1, *buffers)


def _array(values: Any) -> Array:
    import pyarrow

    return pyarrow.array(values)
