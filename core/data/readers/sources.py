"""Where a dataset's bytes come from: a file as it lies on the disk, one in gzip, or one inside a zip.

A source is read from its beginning as often as is needed, in blocks, so that no reader holds more of it than it must.
What comes out is counted: a few kilobytes of gzip are gigabytes as soon as somebody wants them to be.
"""

from __future__ import annotations

import gzip
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from zipfile import BadZipFile

from core.errors import DataError

MAX_BYTES = 8 * 10**9  # of one dataset, unpacked
MAX_ROW_BYTES = 64 << 20  # of one row, or of what should be one and has no end
HEAD_BYTES = 4 << 20  # from which a format, an encoding and a separator are told
BLOCK_BYTES = 1 << 20

_BROKEN = (EOFError, zlib.error, BadZipFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of bytes.

    Args:
        name: what errors call it.
        open_file: opens it at its beginning.
        max_bytes: more than these cannot be read from it.
        path: where it lies as it is, unpacked; None for what is inside something else.
    """

    name: str
    open_file: Callable[[], IO[bytes]]
    max_bytes: int
    path: Path | None = None

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, in order.

        Raises:
            DataError: it cannot be opened, is damaged, or holds more than `max_bytes`.
        """
        count = 0
        try:
            with self.open_file() as file:
                while block := file.read(BLOCK_BYTES):
                    count += len(block)
                    if count > self.max_bytes:
                        raise too_much(self.name, self.max_bytes)
                    yield block
        except OSError as error:
            raise (unopened if self.path else _damaged)(self.name, error) from None
        except _BROKEN as error:
            raise _damaged(self.name, error) from None

    def head(self) -> bytes:
        """Its first `HEAD_BYTES`, or all of it where it is shorter."""
        parts: list[bytes] = []
        for block in self.blocks():
            parts.append(block)
            if sum(map(len, parts)) >= HEAD_BYTES:
                break
        return b"".join(parts)

    @contextmanager
    def anywhere(self) -> Iterator[IO[bytes]]:
        """The file, opened so that one can read anywhere in it. What is packed is put into a file without a name."""
        if self.path is not None:
            with _opened(self.path, self.name) as file:
                yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            for block in self.blocks():
                unpacked.write(block)
            unpacked.seek(0)
            yield unpacked


def file_source(path: Path, name: str, max_bytes: int, is_gzip: bool) -> Source:
    """The file at `path`, or what it holds as gzip.

    Raises:
        DataError: it cannot be opened, or its size alone is too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise DataError(f"{name} is no file", "a device or a pipe", "Choose a file")
        path.open("rb").close()
    except OSError as error:
        raise unopened(name, error) from None
    if (size := status.st_size) > max_bytes:
        raise DataError(f"{name} is too large to read: it has {size / 1e9:.1f} GB", hint=_split(max_bytes))
    if is_gzip:
        return Source(name=name, open_file=lambda: _gunzipped(path), max_bytes=max_bytes)
    return Source(name=name, open_file=lambda: path.open("rb"), max_bytes=max_bytes, path=path)


def _gunzipped(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb")  # type: ignore[return-value]


def _opened(path: Path, name: str) -> AbstractContextManager[IO[bytes]]:
    try:
        return path.open("rb")
    except OSError as error:
        raise unopened(name, error) from None


def unopened(name: str, error: OSError) -> DataError:
    """What is said of a file or folder that the system does not give."""
    reason = (error.strerror or "it cannot be read").lower()
    return DataError(f"{name} cannot be opened", reason, "Check the path and that you may read it")


def too_much(name: str, max_bytes: int) -> DataError:
    """What is said of a file that holds more than it may."""
    title = f"{name} is too large to read: it unpacks to more than {max_bytes / 1e9:.1f} GB"
    return DataError(title, hint=_split(max_bytes))


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(f"{name} is damaged", str(error), "Pack it again, or copy it again from where it came")


def _split(max_bytes: int) -> str:
    return f"Split it, or keep a part of at most {max_bytes / 1e9:.1f} GB"
