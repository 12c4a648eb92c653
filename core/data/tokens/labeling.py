"""From a labeled text to tokens and the number of its class.

Classes are numbered in the order of their names. A pair of texts is joined as the model's tokenizer does it, which may
also say which of the two a token belongs to (`types`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.data.records import Labeled, Record
from core.data.tokens.encoding import Encoding, backend_of, batches
from core.data.tokens.store import TokenStore, narrowest
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


class ClassRows(TokenStore[ClassRow]):
    """Rows of a classifier: tokens, a byte each for their types where there are such, and the class's number."""

    def __init__(self, scratch: Path | None, token_type: np.dtype[Any], *, has_types: bool) -> None:
        super().__init__(scratch, token_type, stride=token_type.itemsize + has_types, fixed=4)
        self._has_types = has_types

    def put(self, tokens: Sequence[int], types: Sequence[int], label: int, source_row: int) -> None:
        """Keep a row; `types` `[tokens]` are looked at where the store has them."""
        fed = np.array(tokens, self.token_type).tobytes()
        kinds = np.array(types, np.uint8).tobytes() if self._has_types else b""
        self._put(fed + kinds + label.to_bytes(4, "little"), fed, 1, source_row)

    def _row(self, content: bytes) -> ClassRow:
        length = (len(content) - self._fixed) // self._stride
        tokens = np.frombuffer(content, self.token_type, length)
        types = np.frombuffer(content, np.uint8, length, tokens.nbytes).tolist() if self._has_types else None
        return ClassRow(tokens.tolist(), int.from_bytes(content[-4:], "little"), types)


def require_labeled(record: Record) -> Labeled:
    """`record`, which has a label.

    Raises:
        DataError: it has none.
    """
    if not isinstance(record, Labeled):
        raise DataError(
            f"Row {record.source_row} has no label, which classification needs",
            hint="Choose a dataset with the columns text and label, or the task chat",
        )
    return record


def label_names(records: Iterable[Record]) -> tuple[str, ...]:
    """The names of the classes, sorted.

    Raises:
        DataError: a record has no label, there are fewer than two names, or every row has a class of its own.
    """
    count, found = 0, set()
    for record in records:
        count += 1
        found.add(require_labeled(record).label)
    names = tuple(sorted(found))
    if len(names) < 2:
        raise DataError(f"All {count} rows have the label {names[0]!r}", hint="Add rows of at least one other class")
    if len(names) == count > 2:
        raise DataError(
            f"Each of the {len(names)} rows has a label of its own",
            f"the first are {names[0]!r} and {names[1]!r}",
            "Choose a dataset whose labels repeat",
        )
    return names


def encode_labeled(
    tokenizer: Any, records: Iterable[Record], names: Sequence[str], max_tokens: int, scratch: Path | None = None
) -> Encoding[ClassRow]:
    """All that `encode_labeled_gradually` makes of `records`."""
    *_, whole = encode_labeled_gradually(tokenizer, records, names, max_tokens, scratch)
    return whole


def encode_labeled_gradually(
    tokenizer: Any, records: Iterable[Record], names: Sequence[str], max_tokens: int, scratch: Path | None = None
) -> Iterator[Encoding[ClassRow]]:
    """Rows of at most `max_tokens` tokens, the end of a longer text (the longer of two) cut off.

    Args:
        names: the classes in the order of their numbers.
        scratch: the folder for the rows' file.

    Yields:
        The same encoding after every batch of records, by which it has grown; in the end it is whole.
    """
    numbers = {name: number for number, name in enumerate(names)}
    has_types = "token_type_ids" in tokenizer.model_input_names
    store = ClassRows(scratch, narrowest(tokenizer), has_types=has_types)
    found: Encoding[ClassRow] = Encoding(store, max_tokens)
    for batch in batches(records):
        labeled = [require_labeled(record) for record in batch]
        for record, (tokens, types) in zip(labeled, encode_texts(tokenizer, labeled), strict=True):
            if len(tokens) > max_tokens:
                found.truncated += 1
                cut = tokenizer(record.text, record.text_pair, truncation=True, max_length=max_tokens)
                tokens, types = cut["input_ids"], cut.get("token_type_ids", [])
            store.put(tokens, types, numbers[record.label], record.source_row)
        store.write()
        found.records += len(batch)
        yield found


def encode_texts(tokenizer: Any, records: Sequence[Labeled]) -> list[tuple[list[int], list[int]]]:
    """All tokens of each record, and which of two texts each belongs to."""
    backend = backend_of(tokenizer)
    if backend is None:
        called = [tokenizer(record.text, record.text_pair, verbose=False) for record in records]
        return [(list(each["input_ids"]), list(each.get("token_type_ids", []))) for each in called]
    texts = [(record.text, record.text_pair) if record.text_pair else record.text for record in records]
    return [(encoding.ids, encoding.type_ids) for encoding in backend.encode_batch_fast(texts)]
