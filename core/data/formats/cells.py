"""What a cell of a row says: text that is sound, or one sentence on why it is not.

Text is never changed: no stripping, no normalization.
"""

from __future__ import annotations

import ast
import warnings
from typing import Any, TypeAlias

import orjson

from core.data.rows import BadRow, Fault, kind_of

Values: TypeAlias = dict[str, Any]  # a row's, by column

MISSING = object()
_LONGEST_LITERAL = 1_000_000


def key_of(name: str) -> str:
    """A column's name as it is compared with others: `System Prompt`, `system_prompt` and `systemPrompt` are one."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def cell(values: Values, column: str) -> Any:
    """What stands in a column; `MISSING` where the row has none of that name."""
    found = values.get(column, MISSING)
    return found if found is not MISSING else _cell_elsewhere(values, column)


def _cell_elsewhere(values: Values, column: str) -> Any:
    """By another spelling of the name, or by a path into objects."""
    key = key_of(column)
    for name, value in values.items():
        if key_of(str(name)) == key:
            return value
    first, _, rest = column.partition(".")
    inner = decoded(values.get(first, MISSING)) if rest else MISSING
    return cell(inner, rest) if isinstance(inner, dict) else MISSING


def is_nothing(value: object) -> bool:
    """Whether an optional cell says nothing: missing, null, empty, or the NaN that stands for a gap."""
    return value is MISSING or value is None or value == "" or value != value


def text_of(values: Values, column: str, fault: Fault = "empty") -> str:
    """The text of a column; `fault` is what it is to miss it.

    Raises:
        BadRow: it is missing, or no sound text.
    """
    value = values.get(column, MISSING)
    if type(value) is str and value.isascii() and "\x00" not in value:
        return value
    value = cell(values, column)
    if value is MISSING:
        raise missing(column, fault)
    return sound_text(value, column)


def filled(values: Values, column: str) -> str:
    """The text of a column, which must say something.

    Raises:
        BadRow: it does not, or is no sound text.
    """
    text = text_of(values, column)
    if not text or text.isspace():
        raise empty(column)
    return text


def optional_text(values: Values, column: str | None) -> str:
    """The text of a column that need not be there, or need not say anything; then it is empty."""
    if column is None or is_nothing(value := cell(values, column)):
        return ""
    return sound_text(value, column)


def empty(what: str, fault: Fault = "empty") -> BadRow:
    """The refusal of a text that says nothing."""
    return BadRow(f"has an empty {what}", f"Write the {what} or remove the row", fault)


def missing(column: str, fault: Fault) -> BadRow:
    """The refusal of a row without a column that it needs."""
    return BadRow(f"has no {column}", f"Add {column} or remove the row", fault)


def sound_text(value: object, what: str) -> str:
    """`value`, which is text that can be written down.

    Raises:
        BadRow: it is not.
    """
    if not isinstance(value, str):
        what = with_article(what)
        raise BadRow(f"has {what} that is {kind_of(value)}, not text", "Write it as text or remove the row")
    if "\x00" in value:
        raise BadRow(f"has a NUL character in its {what}", "Remove the character or the row")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            hint = "Correct or remove the row"
            raise BadRow(f"has half a character (a lone surrogate) in its {what}", hint) from None
    return value


def with_article(noun: str) -> str:
    """`a prompt`, `an answer`."""
    return f"{'an' if noun[:1].lower() in ('a', 'e', 'i', 'o') else 'a'} {noun}"


def decoded(value: Any) -> Any:
    """A list or an object that a cell holds as text, as CSV does: JSON, or what Python prints; else `value` itself."""
    if not isinstance(value, str):
        return value
    start = value.lstrip()[:1]
    if start not in ("[", "{"):
        return value
    try:
        found = orjson.loads(value)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        found = _printed(value)
    return found if isinstance(found, (list, dict)) else value


def _printed(text: str) -> object:
    if len(text) > _LONGEST_LITERAL:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on backslashes in it
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def json_text(value: object, what: str) -> str:
    """`value` as JSON text.

    Raises:
        BadRow: it holds something that JSON has no way to write.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # such as bytes, a lone surrogate, or a number of a hundred digits
        raise BadRow(f"has {what} that cannot be written as JSON", "Correct or remove the row") from None
