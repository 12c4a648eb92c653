"""Dataset files inside a zip, read where they lie: nothing is unpacked under a name that the zip gives.

A zip says of each file how large it is once unpacked, and no more than that is ever read of it; so the sum of what it
says is checked before anything is. Its table of contents is checked before that, because it alone can be larger than
memory. What could lead elsewhere is refused by its looks: links, paths that leave the zip, archives in archives.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from core.data.readers.sources import Source, too_much, unopened
from core.data.readers.suffixes import is_archive
from core.errors import DataError

MAX_FILES = 10_000
_MAX_CONTENTS_BYTES = 16 << 20
_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_BYTES, _LOCATOR_BYTES, _END64_BYTES = 22, 20, 56
_LONGEST_COMMENT = 1 << 16
_IS_ENCRYPTED, _IS_PATCH = 0x1 | 0x40, 0x20


@contextmanager
def opened_zip(file: IO[bytes], name: str, max_bytes: int) -> Iterator[ZipFile]:
    """A zip whose table of contents has been looked at, and unpacks to no more than `max_bytes`.

    Raises:
        DataError: it is damaged, or could not be read without harm.
    """
    _check_contents(file, name)
    try:
        archive = ZipFile(file)
    except (BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise damaged_zip(name, str(error)) from None
    with archive:
        infos = archive.infolist()
        if len(infos) > MAX_FILES:
            raise _too_many(name)
        if sum(info.file_size for info in infos) > max_bytes:
            raise too_much(name, max_bytes)
        for info in infos:
            _check_packing(info, name)
        yield archive


def members(archive: ZipFile, name: str) -> tuple[ZipInfo, ...]:
    """The files that a person put into a zip, by name; without folders and what systems hide in it.

    Raises:
        DataError: one of them has no name, is a link, an archive, or leads out of the zip.
    """
    found = []
    for info in archive.infolist():
        if not info.filename:
            raise damaged_zip(name, "one of its files has no name")
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{name} holds a file whose path leads out of it", info.filename, "Pack it again without")
        if info.is_dir() or path.parts[:1] == ("__MACOSX",) or any(part.startswith(".") for part in path.parts):
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{name} holds a link", info.filename, "Pack the file itself in its place")
        if is_archive(path.name):
            raise DataError(f"{name} holds another archive", info.filename, "Unpack it, and pack its files instead")
        found.append(info)
    return tuple(sorted(found, key=lambda info: (info.filename, info.header_offset)))


def member_source(archive: ZipFile, info: ZipInfo, name: str) -> Source:
    """One file of a zip, which stays open as long as it is read."""
    return Source(name=f"{info.filename} in {name}", open_file=lambda: archive.open(info), max_bytes=info.file_size)


@contextmanager
def opened_zip_at(path: Path, name: str, max_bytes: int) -> Iterator[ZipFile]:
    """As `opened_zip`, for a file on the disk."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise unopened(name, error) from None
    with file, opened_zip(file, name, max_bytes) as archive:
        yield archive


def damaged_zip(name: str, reason: str) -> DataError:
    """What is said of a zip that cannot be read."""
    return DataError(f"{name} is damaged", reason, "Pack it again, or copy it again from where it came")


def _check_packing(info: ZipInfo, name: str) -> None:
    if info.flag_bits & _IS_ENCRYPTED:
        raise DataError(f"{name} is encrypted", info.filename, "Pack it again without a password")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED) or info.flag_bits & _IS_PATCH:
        raise DataError(f"{name} is packed in a way that is not read", info.filename, "Pack it again as a plain zip")


def _check_contents(file: IO[bytes], name: str) -> None:
    """Refuse a zip whose table of contents is larger than any that a person makes."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _LONGEST_COMMENT - _END_BYTES - _LOCATOR_BYTES - _END64_BYTES))
    tail = file.read()
    at = tail.rfind(_END)
    end = tail[at : at + _END_BYTES]
    if at < 0 or len(end) < _END_BYTES:
        raise damaged_zip(name, "its table of contents is missing")
    count, contents_bytes = struct.unpack_from("<HL", end, 10)
    before = tail[max(0, at - _END64_BYTES - _LOCATOR_BYTES) : at]  # for large archives: the same once more, wider
    if before.startswith(_END64) and before[_END64_BYTES:].startswith(_LOCATOR):
        count, contents_bytes = struct.unpack_from("<QQ", before, 32)
    if count > MAX_FILES or contents_bytes > _MAX_CONTENTS_BYTES:
        raise _too_many(name)
    file.seek(0)


def _too_many(name: str) -> DataError:
    hint = "Join them to fewer, or pack a part of them"
    return DataError(f"{name} holds more than {MAX_FILES:,} files", hint=hint)
