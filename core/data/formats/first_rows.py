"""What the columns of a file hold, seen in its first rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from core.data.formats.cells import decoded, is_nothing, key_of
from core.data.formats.conversations import is_talk, talk_in, transcript

Shape: TypeAlias = Literal["text", "number", "boolean", "talk", "texts", "list", "object"]

_SAMPLE_LETTERS = 80
_NAME_WORDS, _NAME_LETTERS = 5, 40
_NUMERAL = re.compile(r"[-+]?[\d.,]+(?:e[-+]?\d+)?%?", re.IGNORECASE)
_TRUTHS = frozenset({"true", "false", "yes", "no"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its name in the file, how names are compared, its values that say something, and what they are."""

    name: str
    key: str
    values: tuple[Any, ...]
    shapes: Counter[Shape]

    @classmethod
    def of(cls, name: str, values: Sequence[Any], inner: str = "") -> Column:
        """The column `name` with all its `values`; `inner` is the name by which it is known, where that is another."""
        told = tuple(value for value in values if not is_nothing(value))
        return cls(name=name, key=key_of(inner or name), values=told, shapes=Counter(map(shape_of, told)))

    @property
    def shape(self) -> Shape | None:
        """What most of its values are; None where it has none."""
        return self.shapes.most_common(1)[0][0] if self.shapes else None

    @property
    def has_text(self) -> bool:
        """Whether any of its values is text, so that a text column with a few bad rows is still one."""
        return self.shapes["text"] > 0

    @property
    def has_talk(self) -> bool:
        """Whether any of its values is a list of turns."""
        return self.shapes["talk"] > 0

    @property
    def is_truth(self) -> bool:
        """Whether its values are true and false, perhaps as words."""
        return self.shape == "boolean" or (
            bool(self.values) and all(str(value).strip().lower() in _TRUTHS for value in self.values)
        )

    @property
    def are_numerals(self) -> bool:
        """Whether its values are numbers, perhaps as text."""
        return all(_NUMERAL.fullmatch(str(value).strip()) for value in self.values)

    @property
    def distinct(self) -> int:
        """How many different values it has."""
        return len({str(value) for value in self.values})

    @property
    def is_brief(self) -> bool:
        """Whether hardly any of its texts has more than a few words."""
        words = [value for value in self.values if isinstance(value, str)]
        return sum(map(_is_short, words)) >= 0.9 * len(words)

    @property
    def are_names(self) -> bool:
        """Whether its values could be names of classes: numbers, or a few words, and hardly ever new ones."""
        return self.is_brief and (len(self.values) < 10 or self.distinct <= 0.8 * len(self.values))

    @property
    def repeats(self) -> bool:
        """Whether its values are names of classes by what they are, whatever the column is called."""
        return self.are_names and 2 <= self.distinct <= max(2, len(self.values) // 3) and len(self.values) >= 4

    @property
    def asks(self) -> float:
        """The share of its values that end with a question mark."""
        ends = sum(str(value).rstrip().endswith(("?", "？", "؟")) for value in self.values)
        return ends / len(self.values) if self.values else 0.0

    @property
    def is_transcript(self) -> bool:
        """Whether its texts are transcripts of a talk."""
        return any(map(transcript, self.values))

    @property
    def sample(self) -> str:
        """One of its values as a short text."""
        shown = " ".join(str(self.values[0]).split()) if self.values else ""
        return shown if len(shown) <= _SAMPLE_LETTERS else shown[: _SAMPLE_LETTERS - 2] + " …"


class Columns:
    """The columns of a file, in the order in which its first rows have them."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.all = tuple(columns)

    @classmethod
    def of(cls, tables: Iterable[dict[Any, Any]]) -> Columns:
        """Those of all `tables` together."""
        values: dict[str, list[Any]] = {}
        for table in tables:
            for name, value in table.items():
                values.setdefault(str(name), []).append(value)
        return cls([Column.of(name, found) for name, found in values.items()])

    @property
    def names(self) -> tuple[str, ...]:
        """As the file has them."""
        return tuple(column.name for column in self.all)

    def named(self, names: Iterable[str]) -> list[Column]:
        """Those that go by one of `names`, in the order of the names."""
        by_key = {column.key: column for column in reversed(self.all)}
        return [by_key[key] for name in names if (key := key_of(name)) in by_key]

    def first(self, names: Iterable[str], fits: Callable[[Column], bool] = lambda column: True) -> Column | None:
        """The first of `named` that fits."""
        return next(filter(fits, self.named(names)), None)

    def inside(self, column: Column) -> Columns:
        """What the objects in a column hold, each by its path."""
        objects = [value for value in map(decoded, column.values) if isinstance(value, dict)]
        found = Columns.of(objects).all
        return Columns([Column.of(f"{column.name}.{each.name}", each.values, inner=each.name) for each in found])


def shape_of(value: Any) -> Shape:
    """What a value is; JSON text of a list of turns or texts counts as what it holds."""
    if isinstance(value, str):
        if talk_in(value) is not None:
            return "talk"
        return "texts" if value.lstrip().startswith("[") and _are_texts(decoded(value)) else "text"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if is_talk(value):
        return "talk"
    if isinstance(value, list):
        return "texts" if _are_texts(value) else "list"
    return "object"


def _are_texts(value: Any) -> bool:
    """Whether `value` is a list of two texts or more, or of pairs of texts."""
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(item, list) and len(item) == 2 for item in value):
        return all(isinstance(text, str) for item in value for text in item)
    return len(value) > 1 and all(isinstance(item, str) for item in value)


def _is_short(text: str) -> bool:
    return len(text) <= _NAME_LETTERS and len(text.split()) <= _NAME_WORDS and "\n" not in text
