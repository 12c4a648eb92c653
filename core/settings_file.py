"""A run's settings as YAML text, read for the page and the command line alike, and the words in which it is written.

What is read is a mapping of names to numbers, texts, lists and mappings, by YAML 1.2's rules for plain words: `1e-4` is
a number, `no` is a text, a date is a text. Nothing is constructed from tags, so a text can make no object, and aliases
are refused, so a short text cannot become a large value. Each setting's line is kept, to say where a wrong one stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from core.errors import ConfigError

LARGEST = 100_000  # characters
DEEPEST = 6
MOST_EVENTS = 20_000  # about as many values; each costs a tenth of a millisecond
_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
# What YAML 1.1 makes of plain words and YAML 1.2 does not: texts here.
_OLD_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "merge", "value")}
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NOT_PLAIN = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsText:
    """What a text says: nested plain values, and the line, from 1, of each setting by its dotted name."""

    values: dict[str, Any]
    lines: dict[str, int]

    def located(self, error: ConfigError) -> ConfigError:
        """`error`, with the line on which its setting stands, where it stands in the text."""
        name = error.field
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        if not name:
            return error
        where = f"line {self.lines[name]}"
        detail = f"{where}, {error.detail}" if error.detail else where
        return ConfigError(error.title, detail, error.hint, error.field)


def read_settings(content: str | bytes, source: str = "The file") -> SettingsText:
    """The settings in `content`; `source` is what errors call it.

    Raises:
        ConfigError: it is too large, no YAML, no mapping, has aliases, tags or too many levels, or a setting twice.
    """
    if len(content) > LARGEST:
        raise ConfigError(f"{source} is too large for settings", f"{LARGEST:,} characters are the most", "Shorten it")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        _check_events(text, source)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source} is not YAML", where, "Correct it, or go on without it") from error
    reader = _Reader(source)
    values = reader.value(root, "") if root is not None else None
    if values is None:
        return SettingsText(values={}, lines={})
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds no settings", hint="Write them as NAME: VALUE, one a line")
    return SettingsText(values=values, lines=reader.lines)


def write_value(value: Any) -> str:
    """`value`, of texts, numbers, lists and mappings, on one line of YAML; `read_settings` gives it back."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write_value(key)}: {write_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(write_value, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.casefold() not in _NOT_PLAIN:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    style = '"' if isinstance(value, str) else None
    written: str = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=float("inf"))
    return written.removesuffix("\n").removesuffix("\n...")


def _check_events(text: str, source: str) -> None:
    """Refuse what is to be refused before a tree is made of it: aliases, and more values or levels than may be."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"{source} has an anchor or alias", line, "Write the value out in each place")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if count > MOST_EVENTS:
            raise ConfigError(f"{source} is too large for settings", f"{count:,} values and more", "Shorten it")
        if depth > DEEPEST:
            raise ConfigError(f"{source} has too many levels", line, "Settings have two; correct it")


class _Reader:
    """Makes plain values of a tree of nodes, and notes the line of each name."""

    def __init__(self, source: str) -> None:
        self.lines: dict[str, int] = {}
        self._source = source

    def value(self, node: Any, path: str) -> Any:
        """What `node`, which stands under that dotted name, says."""
        if node.tag not in _CORE_TAGS and not (node.tag in _OLD_TAGS and isinstance(node, yaml.ScalarNode)):
            raise self._error(f"has a tag, {node.tag}", node, "Leave the tag out")
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(inner, path) for inner in node.value]
        return node.value if node.style else _plain(node.value)

    def _pairs(self, node: Any, path: str) -> Iterable[tuple[str, Any]]:
        seen = set()
        for key, inner in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error("has a name that is no text", key, "Write NAME: VALUE")
            name = str(key.value)
            if name in seen:
                raise self._error(f"has {name} twice", key, "Leave one of them out")
            seen.add(name)
            full = f"{path}.{name}" if path else name
            self.lines.setdefault(full, key.start_mark.line + 1)
            yield name, self.value(inner, full)

    def _error(self, what: str, node: Any, hint: str) -> ConfigError:
        return ConfigError(f"{self._source} {what}", f"line {node.start_mark.line + 1}", hint)


def _plain(word: str) -> Any:
    """What an unquoted word stands for."""
    if word.lower() in _WORDS and word in (word.lower(), word.capitalize(), word.upper()):
        return _WORDS[word.lower()]
    if _INTEGER.fullmatch(word):
        return int(word) if len(word) < 100 else word
    return float(word) if _FLOAT.fullmatch(word) else word
