"""What every dataset becomes, whatever its file looked like: conversations, passages of plain text, or labeled texts.

`records.jsonl` keeps them, one JSON object a line: `{"row": 7, "messages": [{"role": …, "content": …}, …]}`,
`{"row": 7, "text": …}` or `{"row": 7, "text": …, "label": …}`, with a `text_pair` where there are two texts. `row` is
where the record stood in the file that the person gave us. What is as it mostly is goes unwritten: a message's `weight`
where it is 1, its `name` and `tool_calls` and a conversation's `tools` where there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import orjson

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation.

    An assistant's message of `weight` 0 is read and not learned; for other roles the weight means nothing. `tool_calls`
    is JSON text of a list (`core.data.formats.tool_calls`), beside which `content` may be empty. `name` tells speakers
    of one role apart, or which tool it is that answers.
    """

    role: Role
    content: str
    weight: int = 1
    tool_calls: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Turns that end in an assistant's that is learned; `tools` are those that may be called, JSON text of a list.

    `source_row` counts from 1 and is the line number where the file has lines.
    """

    messages: tuple[Message, ...]
    source_row: int
    tools: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Raw text, of which every token is trained; `source_row` as in `Conversation`."""

    text: str
    source_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeled:
    """A text, or a pair of texts, and the name of the class that it belongs to; `source_row` as in `Conversation`."""

    text: str
    text_pair: str | None = None
    label: str
    source_row: int


Record: TypeAlias = Conversation | Passage | Labeled


class Records(Protocol):
    """Records that can be gone through as often as one likes; they need not be in memory."""

    def __iter__(self) -> Iterator[Record]:
        """The records in their order, from the first."""

    def __len__(self) -> int:
        """How many there are."""


class RecordFile:
    """The records in a file of `write_records`, read anew each time that they are gone through; none is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count: int | None = None

    def __iter__(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            for line in file:
                yield from_line(line)

    def __len__(self) -> int:
        if self._count is None:
            with self._path.open("rb") as file:
                self._count = sum(1 for _ in file)
        return self._count


def write_records(records: Iterable[Record], path: Path) -> None:
    """Write `records` to `path`, one JSON object a line; `read_records` gives equal ones back."""
    with path.open("wb") as file:
        for record in records:
            file.write(to_line(record))


def read_records(path: Path) -> RecordFile:
    """The records that `write_records` wrote to `path`, in their order."""
    return RecordFile(path)


def to_line(record: Record) -> bytes:
    """`record` as one line of such a file, its end included."""
    return orjson.dumps(_to_plain(record), option=orjson.OPT_APPEND_NEWLINE)


def from_line(line: bytes) -> Record:
    """The record that `to_line` wrote."""
    return _from_plain(orjson.loads(line))


def _to_plain(record: Record) -> dict[str, Any]:
    if isinstance(record, Labeled):
        pair = {} if record.text_pair is None else {"text_pair": record.text_pair}
        return {"row": record.source_row, "text": record.text, **pair, "label": record.label}
    if isinstance(record, Passage):
        return {"row": record.source_row, "text": record.text}
    tools = {} if record.tools is None else {"tools": record.tools}
    return {"row": record.source_row, "messages": list(map(_plain_message, record.messages)), **tools}


def _plain_message(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.weight != 1:
        plain["weight"] = message.weight
    if message.tool_calls is not None:
        plain["tool_calls"] = message.tool_calls
    if message.name is not None:
        plain["name"] = message.name
    return plain


def _from_plain(values: dict[str, Any]) -> Record:
    if "label" in values:
        pair = values.get("text_pair")
        return Labeled(text=values["text"], text_pair=pair, label=values["label"], source_row=values["row"])
    if "text" in values:
        return Passage(text=values["text"], source_row=values["row"])
    messages = tuple([Message(**turn) for turn in values["messages"]])
    return Conversation(messages=messages, source_row=values["row"], tools=values.get("tools"))
