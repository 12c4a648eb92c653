"""Lines of JSON straight to columns, by Arrow's parser: a million rows in a second and without an object for each.

Only what is plain goes this way: text in the columns that a row format needs, turns of no more than a role and content,
all of it said and answered. Every other line is left to the usual way (`core.data.formats.converting`), which alone
knows what is wrong with a row and all that may be right. What goes this way becomes what it would have become on the
other; a test holds the two together.

Arrow takes several objects on a line, and descends into nested values until its stack ends: lines that could hold
either are not given to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from core.data.formats.mapping import Mapping
from core.data.health.row_faults import blank_texts
from core.data.health.text_columns import ASSISTANT, SYSTEM, TEXT, TOOL, USER, TextColumns, chosen, places_of

Array: TypeAlias = Any  # one of pyarrow's
Flags: TypeAlias = NDArray[np.bool_]
Places: TypeAlias = NDArray[np.intp]

_LINE_END = ord("\n")
_UNKNOWN = 255
_ROLES = MappingProxyType({
    "system": SYSTEM, "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT, "tool": TOOL
})  # fmt: skip
_TURN_KEYS = MappingProxyType({"messages": ("role", "content"), "sharegpt": ("from", "value")})
_PLAIN = MappingProxyType({
    "messages": {"messages"},
    "sharegpt": {"conversations"},
    "prompt_completion": {"prompt", "completion"},
    "alpaca": {"instruction", "input", "output"},
    "question_answer": {"question", "answer", "context"},
    "text": {"text"},
    "labeled": {"text", "text_pair", "label"},
})  # fmt: skip
_MOST_NESTED = 4000  # Arrow takes four times that on the stack of a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What became of some lines: the plain ones as columns, in which no text is blank, and the others as they are, with
    their numbers. Where it is not `is_read`, some line kept Arrow from reading any.
    """

    columns: TextColumns
    others: tuple[tuple[int, bytes], ...]
    is_read: bool = True


def is_plain(mapping: Mapping) -> bool:
    """Whether rows that mean `mapping` can go this way at all."""
    return mapping.format in _PLAIN and set(mapping.columns) <= _PLAIN[mapping.format]


def parse_lines(block: bytes, first: int, mapping: Mapping, row_column: str = "") -> Parsed:
    """The records of lines of UTF-8, each with its end, of which the first is number `first` of its file.

    Args:
        mapping: one that `is_plain`, by the names that the columns have in most rows.
        row_column: where the numbers of the records' rows stand; where it is not given, they are those of the lines.
    """
    letters = np.frombuffer(block, np.uint8)
    ends = places_of(letters == _LINE_END)
    begins = np.concatenate([[0], ends[:-1] + 1])
    may_go = _can_be_parsed(block, letters, begins, ends)
    given = block if may_go.all() else letters[np.repeat(may_go, ends + 1 - begins)].tobytes()
    rows = np.flatnonzero(may_go)
    table = _table(given, mapping) if given else None
    if table is None or table.num_rows != len(rows):
        return Parsed(columns=_NOTHING, others=_lines(block, begins, ends, first), is_read=not given)
    numbers = table[row_column].to_numpy() if row_column else rows + first
    columns, is_sound = _READERS[mapping.format](table, mapping, numbers)
    if is_sound.all() and len(rows) == len(begins):
        return Parsed(columns=columns, others=())
    is_other = np.ones(len(begins), np.bool_)
    is_other[rows[is_sound]] = False
    others = _lines(block, begins, ends, first, np.flatnonzero(is_other))
    return Parsed(columns=chosen(columns, is_sound), others=others)


def _lines(
    block: bytes, begins: Places, ends: Places, first: int, wanted: Places | None = None
) -> tuple[tuple[int, bytes], ...]:
    numbers = range(len(begins)) if wanted is None else wanted.tolist()
    return tuple((first + number, block[begins[number] : ends[number]]) for number in numbers)


def _can_be_parsed(block: bytes, letters: NDArray[np.uint8], begins: Places, ends: Places) -> Flags:
    """Which lines begin and end as an object does, and are not nested deeply; none is deeper than it is long."""
    may_go: Flags = (letters[begins] == ord("{")) & (letters[np.maximum(ends - 1, 0)] == ord("}"))
    for line in np.flatnonzero(ends - begins > _MOST_NESTED):
        begin, end = begins[line], ends[line]
        may_go[line] &= block.count(b"[", begin, end) + block.count(b"{", begin, end) <= _MOST_NESTED
    return may_go


def _table(block: bytes, mapping: Mapping) -> Any | None:
    """The rows of `block` by Arrow; None where they are not all of the kinds that are wanted."""
    import pyarrow
    from pyarrow import json

    for schema in _schemas(mapping):
        try:
            return json.read_json(
                pyarrow.BufferReader(block),
                read_options=json.ReadOptions(use_threads=False, block_size=len(block) + 1),
                parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer"),
            ).combine_chunks()
        except pyarrow.ArrowException:
            continue
    return None


def _schemas(mapping: Mapping) -> list[Any]:
    import pyarrow

    text = pyarrow.string()
    if mapping.format in _TURN_KEYS:
        turn = pyarrow.struct([(key, text) for key in _TURN_KEYS[mapping.format]])
        (column,) = mapping.columns.values()
        return [pyarrow.schema([(column, pyarrow.list_(turn))])]
    texts = dict.fromkeys(mapping.columns.values(), text)
    if "label" not in mapping.columns:
        return [pyarrow.schema(texts)]
    return [pyarrow.schema({**texts, mapping.columns["label"]: kind}) for kind in (text, pyarrow.int64())]


# Row formats. Each gives columns of all rows, and which of these are as they should be


def _turns(table: Any, mapping: Mapping, rows: NDArray[np.int64]) -> tuple[TextColumns, Flags]:
    import pyarrow
    from pyarrow import compute

    (column,) = mapping.columns.values()
    talks = table[column].chunk(0)
    turns = talks.flatten()
    counts = compute.fill_null(compute.list_value_length(talks), 0).to_numpy(zero_copy_only=False)
    first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    known = compute.index_in(turns.field(0), value_set=pyarrow.array(list(_ROLES)))
    codes = np.array([*_ROLES.values(), _UNKNOWN], np.uint8)
    roles = codes[compute.fill_null(known, len(_ROLES)).to_numpy(zero_copy_only=False)]
    columns = _columns(rows, turns.field(1), roles, first)
    is_last = np.zeros(len(roles), np.bool_)
    is_last[first[1:][counts > 0] - 1] = True
    is_bad = (roles == _UNKNOWN) | (is_last & (roles != ASSISTANT))
    for extra in range(2, turns.type.num_fields):  # a weight, a name, calls of tools
        is_bad |= compute.is_valid(turns.field(extra)).to_numpy(zero_copy_only=False)
    is_sound = _all_said(columns) & (counts > 0)
    is_sound[columns.owners[is_bad]] = False
    return columns, is_sound


def _exchange(table: Any, mapping: Mapping, rows: NDArray[np.int64]) -> tuple[TextColumns, Flags]:
    """A question and its answer; a context before or behind the question is joined to it as the usual way does."""
    import pyarrow
    from pyarrow import compute

    question, answer, context = _EXCHANGES[mapping.format]
    asked, answered = (_text_of(table, mapping.columns[role]) for role in (question, answer))
    both_talk = compute.and_(compute.starts_with(asked, "[{"), compute.starts_with(answered, "[{"))
    is_sound = ~(both_talk.to_numpy(zero_copy_only=False) | _are_blank(asked))
    if mapping.format == "question_answer":
        is_sound &= ~_begin_with(answered, b"{[ \t\r\n\x0b\x0c\x1c\x1d\x1e\x1f\xc2\xe1\xe2\xe3")  # answers inside JSON
    if context in mapping.columns:
        about = _text_of(table, mapping.columns[context])
        has_context = compute.greater(compute.binary_length(about), 0)
        is_sound &= ~(_are_blank(about) & has_context.to_numpy(zero_copy_only=False))
        parts = (about, asked) if mapping.format == "question_answer" else (asked, about)
        asked = compute.if_else(has_context, compute.binary_join_element_wise(*parts, "\n\n"), asked)
    count = len(rows)
    by_turns = np.arange(2 * count).reshape(2, count).T.ravel()
    texts = pyarrow.concat_arrays([asked, answered]).take(pyarrow.array(by_turns))
    roles = np.tile(np.array([USER, ASSISTANT], np.uint8), count)
    columns = _columns(rows, texts, roles, 2 * np.arange(count + 1))
    return columns, is_sound & _all_said(columns)


def _plain_texts(table: Any, mapping: Mapping, rows: NDArray[np.int64]) -> tuple[TextColumns, Flags]:
    import pyarrow

    parts = [_text_of(table, mapping.columns[role]) for role in ("text", "text_pair") if role in mapping.columns]
    count = len(rows)
    by_rows = np.arange(len(parts) * count).reshape(len(parts), count).T.ravel()
    texts = parts[0] if len(parts) == 1 else pyarrow.concat_arrays(parts).take(pyarrow.array(by_rows))
    names = table[mapping.columns["label"]].to_pylist() if "label" in mapping.columns else []
    labels = tuple("" if name is None else str(name).strip() for name in names)
    roles = np.full(len(texts), TEXT, np.uint8)
    columns = _columns(rows, texts, roles, len(parts) * np.arange(count + 1), labels)
    is_sound = _all_said(columns)
    if labels:
        is_sound &= np.array([bool(name) and "\x00" not in name for name in labels])
    return columns, is_sound


_Reader: TypeAlias = Callable[[Any, Mapping, NDArray[np.int64]], tuple[TextColumns, Flags]]
_READERS: MappingProxyType[str, _Reader] = MappingProxyType({
    "messages": _turns, "sharegpt": _turns, "prompt_completion": _exchange, "alpaca": _exchange,
    "question_answer": _exchange, "text": _plain_texts, "labeled": _plain_texts,
})  # fmt: skip
_EXCHANGES = MappingProxyType({
    "prompt_completion": ("prompt", "completion", ""),
    "alpaca": ("instruction", "output", "input"),
    "question_answer": ("question", "answer", "context"),
})  # fmt: skip


def _all_said(columns: TextColumns) -> Flags:
    """Which records have no blank text, and no NUL in one."""
    is_sound = np.ones(len(columns), np.bool_)
    is_sound[columns.owners[blank_texts(columns)]] = False
    if b"\x00" in columns.text:
        places = np.flatnonzero(np.frombuffer(columns.text, np.uint8) == 0)
        is_sound[columns.owners[np.searchsorted(columns.starts, places, side="right") - 1]] = False
    return is_sound


def _text_of(table: Any, column: str) -> Array:
    """A column as one array; what is missing is empty, and so refused as blank."""
    from pyarrow import compute

    found = table[column]
    return compute.fill_null(found.chunk(0) if found.num_chunks else found.combine_chunks(), "")


def _are_blank(texts: Array) -> Flags:
    count = len(texts)
    found = np.zeros(count, np.bool_)
    rows = np.arange(count)
    found[blank_texts(_columns(rows, texts, np.full(count, TEXT, np.uint8), np.arange(count + 1)))] = True
    return found


def _begin_with(texts: Array, letters: bytes) -> Flags:
    """Which texts begin with one of `letters`."""
    text, starts = _bytes_of(texts)
    beginnings = np.frombuffer(text + b"\n", np.uint8)[starts[:-1]]
    return np.isin(beginnings, np.frombuffer(letters, np.uint8))


def _columns(
    rows: NDArray[np.int64],
    texts: Array,
    roles: NDArray[np.uint8],
    first: NDArray[np.int64],
    labels: tuple[str, ...] = (),
) -> TextColumns:
    text, starts = _bytes_of(texts)
    return TextColumns(rows=rows, text=text, starts=starts, roles=roles, first=first, labels=labels)


def _bytes_of(texts: Array) -> tuple[bytes, NDArray[np.int64]]:
    """The bytes of an array of texts, and where in them each begins, the end included; a missing one is empty."""
    _, places, content = texts.buffers()
    if places is None or not len(texts):
        return b"", np.zeros(len(texts) + 1, np.int64)
    starts = np.frombuffer(places, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    text = content.slice(int(starts[0]), int(starts[-1] - starts[0])).to_pybytes() if content is not None else b""
    return text, starts - starts[0]


_NOTHING = TextColumns(
    rows=np.zeros(0, np.int64),
    text=b"",
    starts=np.zeros(1, np.int64),
    roles=np.zeros(0, np.uint8),
    first=np.zeros(1, np.int64),
)
