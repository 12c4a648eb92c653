"""Lists and patterns as a person types them, on the page and on the command line alike.

    layers     0-3, 7                               numbers and ranges, both ends meant
    names      embed_tokens, lm_head                commas between
    pattern    q_proj=16, layers.3.mlp.up_proj=4    a number for each name, commas between
    lines      one text a line                      in JSON's quotes where blanks at its ends or line breaks matter

Each `read_…` gives back what its `show_…` was given. What a value may be is for `core.config` to say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

from core.errors import ConfigError

LAST_LAYER = 9999


def read_layers(text: str) -> list[int] | None:
    """The numbers that `text` lists, in its order; None where it lists none.

    Raises:
        ConfigError: a part of it is neither a number nor a range.
    """
    numbers = [number for part in _parts(text) for number in _range(part)]
    return numbers or None


def show_layers(layers: Iterable[int] | None) -> str:
    """Neighbors as a range: `0-3, 7`."""
    ranges: list[list[int]] = []
    for layer in layers or ():
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def read_names(text: str) -> list[str]:
    """The names in `text`."""
    return _parts(text)


def show_names(names: Iterable[str]) -> str:
    """The names with commas between."""
    return ", ".join(names)


def read_pattern(text: str) -> dict[str, float]:
    """A number for each name in `text`.

    Raises:
        ConfigError: a part of it is no NAME=NUMBER, or a name is there twice.
    """
    pattern: dict[str, float] = {}
    for part in _parts(text):
        name, _, value = (piece.strip() for piece in part.partition("="))
        number = _number(value)
        if not name or number is None:
            hint = "Write a name, an equals sign and a number, such as q_proj=16"
            raise ConfigError(f"{part!r} is no name with its number", hint=hint)
        if name in pattern:
            raise ConfigError(f"{name} is there twice", f"as {pattern[name]:g} and {number:g}", "Leave one of them out")
        pattern[name] = number
    return pattern


def show_pattern(pattern: Mapping[str, float]) -> str:
    """Each name with its number."""
    return ", ".join(f"{name}={value:.12g}" for name, value in pattern.items())


def read_lines(text: str) -> list[str]:
    """The texts in `text`; empty lines and blanks around a text are dropped.

    Raises:
        ConfigError: a line begins with a quotation mark and is no JSON string.
    """
    return [_unquoted(line.strip()) for line in text.splitlines() if line.strip()]


def show_lines(texts: Iterable[str]) -> str:
    """One text a line."""
    return "\n".join(map(_quoted, texts))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _range(part: str) -> range:
    first, dash, last = (piece.strip() for piece in part.partition("-"))
    last = last if dash else first
    is_whole = all(piece.isascii() and piece.isdigit() and len(piece) < 6 for piece in (first, last))
    if not is_whole or not int(first) <= int(last) <= LAST_LAYER:
        raise ConfigError(f"{part!r} is no layer's number and no range", hint="Write them as 0-3, 7")
    return range(int(first), int(last) + 1)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def _quoted(text: str) -> str:
    is_plain = text == text.strip() and not text.startswith('"') and text.splitlines() == [text]
    return text if is_plain else json.dumps(text, ensure_ascii=True)


def _unquoted(line: str) -> str:
    if not line.startswith('"'):
        return line
    try:
        text: object = json.loads(line)
    except ValueError:
        text = None
    if not isinstance(text, str):
        raise ConfigError(f"{line} begins with a quotation mark and does not end as it should", hint='Write "text"')
    return text
