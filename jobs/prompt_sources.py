"""Prompts out of a file or a dataset, for a set of prompts. Files are read as datasets are (`core.data.readers`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.records import Conversation, Record
from core.data.rows import Problem
from core.errors import DataError

if TYPE_CHECKING:
    from jobs.datasets import Datasets

LARGEST_FILE = 20_000_000
LINE_BREAK = "⏎"  # what stands for a line break where each line is a prompt
_NAMES = ("prompt", "question", "instruction", "input", "text", "messages", "conversations", "conversation")


def lines(text: str) -> list[str]:
    """The prompts that somebody typed, one a line."""
    return [line.replace(LINE_BREAK, "\n").strip() for line in text.splitlines() if line.strip()]


def as_lines(prompts: tuple[str, ...]) -> str:
    """The text of which `lines` makes these prompts."""
    return "\n".join(LINE_BREAK.join(prompt.splitlines()) for prompt in prompts)


def read_file(path: Path) -> list[str]:
    """The prompts in a file: lines of text, or of a table the column that asks, of conversations what is said first.

    Raises:
        DataError: it cannot be read, is too large, or no column of it asks.
    """
    from core.data.readers.files import open_table
    from core.data.readers.suffixes import PLAIN_TEXT, kind_of_file

    found: list[str] = []
    is_text = kind_of_file(path.name) == PLAIN_TEXT
    for row in open_table(path, path.name, LARGEST_FILE).rows:
        if isinstance(row, Problem):
            raise DataError(row.title, hint=row.hint)
        values = row.values if isinstance(row.values, Mapping) else {"text": row.values}
        found += lines(str(values["text"])) if is_text else [_asked(values, path.name, row.number)]
    return found


def questions(data: Datasets, dataset_id: str, count: int) -> list[str]:
    """What is asked in `count` rows, spread evenly over the dataset.

    Raises:
        NotFound: there is no such dataset.
        DataError: its rows ask nothing.
    """
    dataset = data.get(dataset_id)
    step = max(1, dataset.rows // count)
    rows = (row for number in range(0, dataset.rows, step) for row in data.rows(dataset_id, number, 1))
    asked = list(dict.fromkeys(question for row in rows if (question := _question(row))))
    if not asked:
        raise DataError(f"The rows of {dataset.name} ask nothing", hint="Choose a dataset of conversations")
    return asked[:count]


def _question(record: Record) -> str:
    if not isinstance(record, Conversation):
        return ""
    return next((message.content for message in record.messages if message.role == "user"), "")


def _asked(values: Mapping[str, Any], name: str, number: int) -> str:
    column = next((key for key in _NAMES if values.get(key)), next(iter(values), "") if len(values) == 1 else "")
    if not column:
        detail = f"It has {', '.join(map(str, values)) or 'none'}"
        raise DataError(f"Row {number} of {name} has no column of prompts", detail, "Call the column prompt")
    said = next(_said(values[column]), "")
    more = values.get("input") if column == "instruction" else None
    return f"{said}\n\n{more}" if isinstance(more, str) and more.strip() else said


def _said(value: Any) -> Iterator[str]:
    """A text, or what a person says in a list of messages."""
    if not isinstance(value, list):
        yield "" if value is None else str(value)
        return
    for message in value:
        if isinstance(message, Mapping) and (message.get("role") or message.get("from")) in ("user", "human"):
            yield str(message.get("content") or message.get("value") or "")
