"""Small datasets as text and bytes, and what should be read from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
from pyarrow import parquet

from core.data.records import Conversation, Record

PAIRS = [
    {"prompt": "Hello?", "completion": "Ahoy!"},
    {"prompt": '  Name, "please"\nnow', "completion": "Jack 🏴‍☠️ مرحبا "},
]

ANSWER = [("user", "Hi"), ("assistant", "Ahoy")]
ROLES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]
SPEAKERS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ahoy"}]

EXPECTED = [[("user", row["prompt"]), ("assistant", row["completion"])] for row in PAIRS]

Writer = Callable[[str, Any], Path]


def json_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) + "\n" for line in lines)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def texts(record: Record) -> list[tuple[str, str]]:
    assert isinstance(record, Conversation)
    return [(message.role, message.content) for message in record.messages]


def exchanges(records: tuple[Record, ...]) -> list[list[tuple[str, str]]]:
    return [texts(record) for record in records]
