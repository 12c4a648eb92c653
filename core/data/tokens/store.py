"""Tokenized rows in a file: written once, one behind the other, and read back by number, in any order.

A million rows as Python lists take gigabytes; here a row takes 20 bytes of memory, and a few bytes a token on disk.
A row's bytes are `stride` for each of its tokens and `fixed` more, as its kind of row says, so that where rows begin
tells their lengths as well. Kept in memory are these places (8 bytes a row), how many labels each has (4), a checksum
of its tokens (4) by which equal rows are found, and where it stands in the dataset (4).

Rows are read with `os.pread` and not through a memory map: the pages of a map count as the process's memory, and a
random order would touch all of them, so that the memory would grow with the dataset after all (it could be taken back
at any time, but who looks at it can't tell). One read of some hundred bytes takes microseconds, where a training step
takes a second. The same goes for Arrow's files, which are read by maps or by whole batches of rows.

The file has no name: it is gone when the store is, or the process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
import zlib
from abc import abstractmethod
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from core.errors import RunError

StoredRow = TypeVar("StoredRow")


class TokenStore(Sequence[StoredRow], Generic[StoredRow]):
    """Rows of one kind in a file of their own; what they are in bytes is for the kind to say.

    Args:
        scratch: the folder of the file, made if it is missing; None for the system's folder of temporary files.
        token_type: unsigned, wide enough for every token.
        stride, fixed: a row of n tokens has `stride * n + fixed` bytes.
    """

    def __init__(self, scratch: Path | None, token_type: np.dtype[Any], *, stride: int, fixed: int) -> None:
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        self.token_type = token_type
        self._stride, self._fixed = stride, fixed
        self._file = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115, it lives as long as the store
        weakref.finalize(self, self._file.close)
        self._unwritten: list[bytes] = []
        self._places = array("q", [0])  # where rows begin, and where the last ends
        self._trained = array("I")
        self._checksums = array("I")
        self._source_rows = array("I")

    @abstractmethod
    def _row(self, content: bytes) -> StoredRow:
        """The row that was put down as `content`."""

    def _put(self, content: bytes, tokens: bytes, trained: int, source_row: int) -> None:
        """Put `content` down as the next row, with `tokens` for the part of it that makes rows equal; `source_row` is
        where it stands in the dataset, from 1.
        """
        assert (len(content) - self._fixed) % self._stride == 0
        self._unwritten.append(content)
        self._places.append(self._places[-1] + len(content))
        self._trained.append(trained)
        self._checksums.append(zlib.crc32(tokens))
        self._source_rows.append(source_row)

    def write(self) -> None:
        """Write all rows that were put down so far; before that they cannot be read.

        Raises:
            RunError: the disk is full.
        """
        left = memoryview(b"".join(self._unwritten))
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            what = error.strerror or str(error)
            raise RunError("The tokenized rows could not be kept", what, "Make room on the disk") from error
        self._unwritten.clear()

    def __len__(self) -> int:
        return len(self._trained)

    @overload
    def __getitem__(self, index: int) -> StoredRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[StoredRow]: ...
    def __getitem__(self, index: int | slice) -> StoredRow | list[StoredRow]:
        """The row, or rows, as they were put down.

        Raises:
            RunError: the file is shorter than it was, or cannot be read.
        """
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        begin, end = self._places[number], self._places[number + 1]
        try:
            content = os.pread(self._file.fileno(), end - begin, begin)
        except OSError as error:
            raise _damaged(number, error.strerror or str(error)) from error
        if len(content) != end - begin:
            raise _damaged(number, f"{len(content)} of its {end - begin} bytes are there")
        return self._row(content)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[rows]`, how many tokens each has."""
        places: NDArray[np.int64] = np.frombuffer(self._places, np.int64)
        return (places[1:] - places[:-1] - self._fixed) // self._stride

    @property
    def trained(self) -> NDArray[np.uint32]:
        """`[rows]`, how many labels each has."""
        return np.array(self._trained, np.uint32)

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """`[rows]`, equal for rows of equal tokens."""
        return np.array(self._checksums, np.uint32)

    @property
    def source_rows(self) -> NDArray[np.uint32]:
        """`[rows]`, where each stands in the dataset, from 1."""
        return np.array(self._source_rows, np.uint32)


def narrowest(tokenizer: Any) -> np.dtype[Any]:
    """The smallest type that holds every token of `tokenizer`."""
    return np.min_scalar_type(max(tokenizer.get_vocab().values(), default=0) | 0xFFFF)


def _damaged(number: int, what: str) -> RunError:
    return RunError(f"The file of tokenized rows is damaged at row {number + 1}", what, "Start the run again")
