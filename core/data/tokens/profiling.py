"""Counts a dataset's tokens once, by the encoder that training uses, and writes a profile (`core.data.tokens.profile`).

Every row is kept whole, so that one pass answers for every limit. What is added up is added up over whole batches: a
row by itself costs little more than its encoding.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from core.data.records import Record
from core.data.tokens.encoding import Encoder, Trained, batches, require_unlabeled
from core.data.tokens.labeling import encode_texts, require_labeled
from core.data.tokens.profile import (
    COUNTED,
    FIRSTS,
    LENGTHS,
    NO_LABEL,
    PLACES,
    SETTINGS,
    SOURCE_ROWS,
    TOKENIZER,
    TOKENS,
    TRAINED,
    ProfileSettings,
)
from core.data.tokens.store import narrowest
from core.data.tokens.templates import choose_template

COMMIT_SECONDS = 0.5  # between two moments at which readers see more


def write_profile(
    tokenizer: Any,
    records: Iterable[Record],
    folder: Path,
    settings: ProfileSettings,
    *,
    positions: int | None = None,
    report: Callable[[int], None] = lambda _rows: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Fill `folder`, which exists and is empty, with the profile of `records`; False where it was stopped before.

    Args:
        tokenizer: the base model's; it is given the template that `settings` name.
        positions: how many tokens the base model reads, where that has an end.
        report: told now and then how many rows can be read by now.
        stop: asked after every batch whether to leave it there.

    Raises:
        DataError: a record is of another task, or the template cannot render it.
        ModelError: the tokenizer cannot tell the places of its tokens.
        OSError: the disk is full.
    """
    remarks = choose_template(tokenizer, settings.template) if settings.task == "chat" else ()
    token_type = narrowest(tokenizer)
    described = {"settings": asdict(settings), "remarks": remarks, "token_type": token_type.str, "positions": positions}
    (folder / SETTINGS).write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    with _Files(folder) as files:
        told = time.monotonic()
        encode = _labeled_rows(tokenizer, token_type) if settings.task == "classification" else None
        encode = encode or _chat_rows(tokenizer, token_type, settings)
        for batch in batches(records):
            if stop():
                return False
            files.put(encode(batch), [record.source_row for record in batch], is_chat=settings.task == "chat")
            if time.monotonic() - told >= COMMIT_SECONDS:
                files.commit()
                report(files.rows)
                told = time.monotonic()
        files.commit(is_whole=True)
    report(files.rows)
    return True


def _chat_rows(
    tokenizer: Any, token_type: np.dtype[Any], settings: ProfileSettings
) -> Callable[[list[Record]], Iterator[Trained]]:
    encoder = Encoder(tokenizer, token_type, settings.train_on)
    return lambda batch: encoder([require_unlabeled(record) for record in batch])


def _labeled_rows(tokenizer: Any, token_type: np.dtype[Any]) -> Callable[[list[Record]], Iterator[Trained]]:
    def encode(batch: list[Record]) -> Iterator[Trained]:
        for tokens, _ in encode_texts(tokenizer, [require_labeled(record) for record in batch]):
            yield np.array(tokens, token_type), np.zeros(len(tokens), np.bool_)

    return encode


class _Files:
    """The files of a profile while it grows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows = 0
        self._end = 0
        self._labels_at = np.zeros(0, np.int64)

    def __enter__(self) -> _Files:
        with ExitStack() as stack:
            names = (LENGTHS, TRAINED, FIRSTS, SOURCE_ROWS, PLACES, TOKENS)
            self._open: dict[str, BinaryIO] = {
                name: stack.enter_context((self._folder / name).open("wb")) for name in names
            }
            self._stack = stack.pop_all()
        self.commit()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def put(self, rows: Iterable[Trained], source_rows: list[int], *, is_chat: bool) -> None:
        """Add the next rows: all tokens of each, and which are trained."""
        tokens, trained = zip(*rows, strict=True)
        sizes = np.array([len(row) for row in tokens], np.int64)
        if is_chat:
            counts, firsts, labels_at = _labels(trained, sizes)
        else:  # a row has one label, which no cut takes away
            counts, firsts = np.ones_like(sizes), np.zeros_like(sizes)
            labels_at = np.array([len(sizes)], np.int64)
        marks = [np.packbits(row).tobytes() for row in trained]
        contents = [row.tobytes() + bits for row, bits in zip(tokens, marks, strict=True)]
        ends = self._end + np.cumsum([len(content) for content in contents])
        self._open[TOKENS].write(b"".join(contents))
        self._open[PLACES].write(ends.astype("<u8").tobytes())
        self._open[LENGTHS].write((np.maximum(sizes - 1, 0) if is_chat else sizes).astype("<u4").tobytes())
        self._open[TRAINED].write(counts.astype("<u4").tobytes())
        self._open[FIRSTS].write(firsts.astype("<u4").tobytes())
        self._open[SOURCE_ROWS].write(np.array(source_rows, "<u4").tobytes())
        self.rows += len(sizes)
        self._end = int(ends[-1])
        if len(labels_at) > len(self._labels_at):
            self._labels_at = np.pad(self._labels_at, (0, len(labels_at) - len(self._labels_at)))
        self._labels_at[: len(labels_at)] += labels_at

    def commit(self, *, is_whole: bool = False) -> None:
        """Let readers see all rows that were put so far."""
        for file in self._open.values():
            file.flush()
        draft = self._folder / f"{COUNTED}.new"
        np.concatenate([[self.rows, is_whole], self._labels_at]).astype("<i8").tofile(draft)
        os.replace(draft, self._folder / COUNTED)


def _labels(
    trained: tuple[NDArray[np.bool_], ...], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each row how many labels it has, and where the first is; of all together how many there are at each position.

    The label at position p is token p + 1, so the first token is nobody's label.
    """
    is_trained = np.concatenate(trained)
    begins = np.cumsum(sizes) - sizes
    places = np.flatnonzero(is_trained)
    rows = np.repeat(np.arange(len(sizes)), sizes)[places]
    positions = places - begins[rows] - 1
    rows, positions = rows[positions >= 0], positions[positions >= 0]
    firsts = np.full(len(sizes), NO_LABEL, np.int64)
    firsts[rows[::-1]] = positions[::-1]  # where an index is there twice, the last assignment stays
    return np.bincount(rows, minlength=len(sizes)), firsts, np.bincount(positions)
