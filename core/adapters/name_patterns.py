"""Patterns from an adapter's config, matched against module names in linear time.

peft takes regular expressions for targets, ranks and alphas, and Python's `re` can be made to run for ages on a short
one (`(a+)+$`). RE2 cannot: it compiles to an automaton and has no backtracking. What it has no word for, look-around
and back-references, is refused. No module name that a config gives is ever taken for more than text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import re2  # type: ignore[import-untyped]

from core.errors import AdapterError

MAX_PATTERN = 20_000  # characters; the longest in use, Unsloth's for models that see, have some 1,500

_Value = TypeVar("_Value")


class NamePattern:
    """One regular expression.

    Args:
        text: as the config has it. setting: where, for the complaint.
        around: a regular expression with `{}` where `text` belongs.

    Raises:
        AdapterError: RE2 cannot compile it.
    """

    def __init__(self, text: str, setting: str, around: str = "{}") -> None:
        options = re2.Options()
        options.log_errors = False
        try:
            if len(text) > MAX_PATTERN:
                raise re2.error("it is too long")
            self._compiled = re2.compile(around.replace("{}", f"(?:{text})"), options)
        except re2.error as error:
            why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
            shown = text if len(text) <= 80 else f"{text[:79]}…"
            raise AdapterError(
                f"The adapter's {setting} has a pattern that cannot be matched in linear time: {shown}",
                why,
                "List the modules' names in its place",
            ) from None

    def is_all_of(self, name: str) -> bool:
        """Whether the pattern matches `name` from end to end."""
        return self._compiled.fullmatch(name) is not None

    def number_in(self, name: str) -> int | None:
        """What the group `number` matched at the beginning of `name`."""
        found = self._compiled.match(name)
        return None if found is None else int(found.group("number"))


class Pattern(Generic[_Value]):
    """Values for the modules that regular expressions name (`rank_pattern`, `alpha_pattern`), the first match wins.

    Raises:
        AdapterError: one of them cannot be compiled.
    """

    def __init__(self, values: Mapping[str, _Value], setting: str) -> None:
        self.values = dict(values)
        self._compiled = [
            (NamePattern(key, setting, around=r"(?:.*\.)?{}"), value) for key, value in self.values.items()
        ]

    def of(self, name: str, default: _Value) -> _Value:
        """What the first pattern that matches the dotted `name`, or its last parts, says; else `default`."""
        return next((value for pattern, value in self._compiled if pattern.is_all_of(name)), default)
