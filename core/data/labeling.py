"""From a labeled text to tokens and the number of its class.

Classes are numbered in the order of their names. A pair of texts is joined as the model's tokenizer does it, which may
also say which of the two a token belongs to (`types`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from core.data.encoding import Encoding
from core.data.records import Labeled, Record
from core.errors import DataError

LABELS_FILE = "labels.json"  # beside a classifier's adapter: the names of its classes, in the order of the logits


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One text as tokens, with the number of its class; `types` tells the texts of a pair apart, where given."""

    tokens: list[int]
    label: int
    types: list[int] | None = None

    @property
    def trained(self) -> int:
        """How many answers the row asks for."""
        return 1


def require_labeled(records: Iterable[Record]) -> tuple[Labeled, ...]:
    """`records`, each of which has a label.

    Raises:
        DataError: a record has none.
    """
    found = []
    for record in records:
        if not isinstance(record, Labeled):
            raise DataError(
                f"Row {record.source_row} has no label, which classification needs",
                hint="Choose a dataset with the columns text and label, or the task chat",
            )
        found.append(record)
    return tuple(found)


def label_names(records: Sequence[Labeled]) -> tuple[str, ...]:
    """The names of the classes, sorted.

    Raises:
        DataError: there are fewer than two, or every row has a class of its own.
    """
    names = tuple(sorted({record.label for record in records}))
    if len(names) < 2:
        raise DataError(
            f"All {len(records)} rows have the label {names[0]!r}", hint="Add rows of at least one other class"
        )
    if len(names) == len(records) > 2:
        raise DataError(
            f"Each of the {len(names)} rows has a label of its own",
            f"the first are {names[0]!r} and {names[1]!r}",
            "Choose a dataset whose labels repeat",
        )
    return names


def encode_labeled(
    tokenizer: Any, records: Iterable[Labeled], names: Sequence[str], max_tokens: int
) -> Encoding[ClassRow]:
    """Rows of at most `max_tokens` tokens, the end of a longer text (the longer of two) cut off.

    Args:
        names: the classes in the order of their numbers.
    """
    rows: list[ClassRow] = []
    truncated = 0
    numbers = {name: number for number, name in enumerate(names)}
    for record in records:
        encoded = tokenizer(record.text, record.text_pair, verbose=False)
        if len(encoded["input_ids"]) > max_tokens:
            truncated += 1
            encoded = tokenizer(record.text, record.text_pair, truncation=True, max_length=max_tokens)
        types = encoded.get("token_type_ids")
        rows.append(ClassRow(list(encoded["input_ids"]), numbers[record.label], list(types) if types else None))
    return Encoding(rows, truncated, 0)
