"""Row formats: which columns mean what, and how a row of them becomes a record.

    OpenAI messages        messages: a list of {role, content}
    ShareGPT               conversations: a list of {from, value}, optional system
    Alpaca                 instruction, optional input and system, output
    prompt and completion  prompt (or question, query, input), completion (or response, answer, output), optional system
    text and label         text (or sentence, review, …) or two of them (premise and hypothesis, …), label (or class, …)
    text                   text, every token of which is trained

A file has one format, the first of these that the columns of its first rows allow. Column names are compared without
regard to case. Text is never changed: no stripping, no normalization. White space around a label is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import orjson

from core.data.documents import CHAT_COLUMNS
from core.data.records import Conversation, Labeled, Message, Passage, Record, Role
from core.data.rows import BadRow, Row, kind_of
from core.errors import DataError

Columns: TypeAlias = Mapping[str, Any]

_PROMPTS = ("prompt", "question", "query", "input")
_ANSWERS = ("completion", "response", "answer", "output")
_INSTRUCTION = "instruction"
_CONTEXTS = ("input", "context")
_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "ai": "assistant",
}  # fmt: skip
_PAIRS = (
    ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("text1", "text2"), ("text_a", "text_b"), ("question", "sentence"), ("question", "passage"),
)  # fmt: skip
_TEXTS = (
    "text", "sentence", "review", "content", "comment", "tweet", "message", "body", "headline", "title", "question",
)  # fmt: skip
_LABELS = (
    "label_text", "label_name", "label", "labels", "class", "category", "sentiment", "emotion", "intent", "topic",
)  # fmt: skip
_EXPECTED = (
    "Name them prompt and completion, instruction and output, messages, conversations, text and label, or text alone"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFormat:
    """A row format's name for people, and what turns a row's columns (names in lower case) into a record."""

    name: str
    convert: Callable[[Columns, int], Record]


def detect(rows: Sequence[Row], name: str) -> RowFormat:
    """The format of the file called `name`, told from the columns of its first `rows` taken together.

    Raises:
        DataError: the columns fit no format; lists those found.
    """
    tables = [row.values for row in rows if isinstance(row.values, dict)]
    found = list(dict.fromkeys(str(column) for table in tables for column in table))
    known = {column.strip().lower() for column in found}
    if column := next((column for column in CHAT_COLUMNS if column in known), None):
        return _chat_format(column, tables)
    answer = next((column for column in _ANSWERS if column in known), None)
    if answer and _INSTRUCTION in known:
        return _alpaca_format(answer)
    prompt = next((column for column in _PROMPTS if column in known), None)
    if answer and prompt:
        return _pair_format(prompt, answer)
    label = next((column for column in _LABELS if column in known), None)
    if label and not answer and (texts := _text_columns(known)):
        return _labeled_format(texts, label)
    if "text" in known:
        return RowFormat(name="text", convert=_passage)
    shown = ", ".join(found[:20]) + (" …" if len(found) > 20 else "")
    raise DataError(f"{name} has no columns that can be trained on", f"found: {shown or 'none'}", _EXPECTED)


def to_record(row: Row, row_format: RowFormat) -> Record:
    """`row` as a record.

    Raises:
        BadRow: it cannot be trained on.
    """
    if not isinstance(row.values, dict):
        raise BadRow(f"is {kind_of(row.values)}, not an object with columns", "Correct or remove the row")
    columns = {str(column).strip().lower(): value for column, value in row.values.items()}
    return row_format.convert(columns, row.number)


def _chat_format(column: str, tables: Sequence[dict[str, Any]]) -> RowFormat:
    cells = (value for table in tables for key, value in table.items() if key.strip().lower() == column)
    turns = (turn for cell in cells for turn in _list_of(cell) if isinstance(turn, dict))
    first = next(turns, {})
    is_sharegpt = "from" in first or ("role" not in first and column != "messages")

    def convert(columns: Columns, number: int) -> Record:
        if column not in columns:
            raise BadRow(f"has no {column}", f"Add {column} or remove the row")
        return _conversation(_system(columns) + _messages(columns[column], column), number)

    return RowFormat(name="ShareGPT" if is_sharegpt else "OpenAI messages", convert=convert)


def _alpaca_format(answer: str) -> RowFormat:
    def convert(columns: Columns, number: int) -> Record:
        context = next((column for column in _CONTEXTS if columns.get(column) not in (None, "")), None)
        parts = [_text(columns, _INSTRUCTION)] + ([_text(columns, context)] if context else [])
        prompt = "\n\n".join(part for part in parts if part.strip())
        return _exchange(columns, prompt, _INSTRUCTION, answer, number)

    return RowFormat(name="Alpaca", convert=convert)


def _pair_format(prompt: str, answer: str) -> RowFormat:
    def convert(columns: Columns, number: int) -> Record:
        if isinstance(columns.get(prompt), list) and isinstance(columns.get(answer), list):
            turns = _messages(columns[prompt], prompt) + _messages(columns[answer], answer)
            return _conversation(_system(columns) + turns, number)
        return _exchange(columns, _text(columns, prompt), prompt, answer, number)

    return RowFormat(name="prompt and completion", convert=convert)


def _text_columns(known: set[str]) -> tuple[str, ...]:
    """The columns of the texts that are to be classified: two, one, or none at all."""
    pair = next((pair for pair in _PAIRS if known.issuperset(pair)), None)
    return pair or tuple(column for column in _TEXTS if column in known)[:1]


def _labeled_format(texts: tuple[str, ...], label: str) -> RowFormat:
    def convert(columns: Columns, number: int) -> Record:
        first, *second = (_filled(columns, column) for column in texts)
        name = _class_name(columns, label)
        return Labeled(text=first, text_pair=second[0] if second else None, label=name, source_row=number)

    return RowFormat(name="text and label", convert=convert)


def _class_name(columns: Columns, column: str) -> str:
    """The name of a class, which may be written as a number (also 1.0, as columns with gaps hold it) or as true."""
    value = columns.get(column)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, str) and not value.strip():
        raise BadRow(f"has an empty {column}", f"Write the {column} or remove the row")
    return _text(columns, column).strip()


def _exchange(columns: Columns, prompt: str, prompt_column: str, answer_column: str, number: int) -> Record:
    """A conversation of one question and one answer."""
    answer = _text(columns, answer_column)
    for text, column in ((prompt, prompt_column), (answer, answer_column)):
        if not text.strip():
            raise BadRow(f"has an empty {column}", f"Write the {column} or remove the row")
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Conversation(messages=_system(columns) + messages, source_row=number)


def _passage(columns: Columns, number: int) -> Record:
    return Passage(text=_filled(columns, "text"), source_row=number)


def _system(columns: Columns) -> tuple[Message, ...]:
    """The message of a `system` column, where it says something."""
    if columns.get("system") in (None, ""):
        return ()
    return (Message(role="system", content=_text(columns, "system")),)


def _filled(columns: Columns, column: str) -> str:
    """The text of a column, which must say something."""
    text = _text(columns, column)
    if not text.strip():
        raise BadRow(f"has an empty {column}", f"Write the {column} or remove the row")
    return text


def _text(columns: Columns, column: str) -> str:
    if column not in columns:
        raise BadRow(f"has no {column}", f"Add {column} or remove the row")
    return _sound_text(columns[column], column)


def _sound_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadRow(
            f"has {_with_article(what)} that is {kind_of(value)}, not text", "Write it as text or remove the row"
        )
    if "\x00" in value:
        raise BadRow(f"has a NUL character in its {what}", "Remove the character or the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"has half a character (a lone surrogate) in its {what}", "Correct or remove the row") from None
    return value


# Conversations


def _conversation(messages: tuple[Message, ...], number: int) -> Conversation:
    """The messages up to the last of the assistant: what follows it has no answer to learn."""
    last = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=None)
    if last is None:
        raise BadRow("has no assistant message", "Add one or remove the row")
    kept = messages[: last + 1]
    for message in kept:
        if message.role != "system" and not message.content.strip():
            raise BadRow(f"has an empty {message.role} message", "Write the message or remove the row")
    return Conversation(messages=kept, source_row=number)


def _messages(cell: object, column: str) -> tuple[Message, ...]:
    turns = list(_list_of(cell))
    if not turns and not isinstance(cell, list):
        raise BadRow(f"has {column} that are {kind_of(cell)}, not a list of messages", "Correct or remove the row")
    return tuple(_message(turn) for turn in turns)


def _list_of(cell: object) -> Iterator[Any]:
    """The items of a list, also of one written as JSON text, as a CSV cell holds it; none for all else."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = orjson.loads(cell)
        except orjson.JSONDecodeError:
            return
    if isinstance(cell, list):
        yield from cell


def _message(turn: object) -> Message:
    if not isinstance(turn, dict):
        raise BadRow(f"has a message that is {kind_of(turn)}, not an object", "Correct or remove the row")
    role = next((turn[key] for key in ("role", "from") if key in turn), None)
    if not isinstance(role, str):
        raise BadRow("has a message without a role", "Add role or from to it, or remove the row")
    known = _ROLES.get(role.strip().lower())
    if known is None:
        raise BadRow(f"has a message of the role {role!r}", "Use system, user and assistant, or remove the row")
    content = next((turn[key] for key in ("content", "value", "text") if key in turn), None)
    return Message(role=cast(Role, known), content=_content(content, f"{known} message"))


def _content(value: object, what: str) -> str:
    """The text of a message, whose content may also be a list of `{"type": "text", "text": …}`."""
    if not isinstance(value, list):
        return _sound_text(value, what)
    for part in value:
        if not isinstance(part, dict) or part.get("type", "text") != "text":
            raise BadRow(
                f"has {_with_article(what)} with something else than text", "Keep the text only, or remove the row"
            )
    return "".join(_sound_text(part.get("text"), what) for part in value)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"
