"""What a file is, told by its first bytes, where its name says something else."""

from __future__ import annotations

PARQUET_MAGIC = b"PAR1"
GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # the second is that of an empty one

_MAGIC = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an Excel or Word document"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document"),
    (GZIP_MAGIC, "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (PARQUET_MAGIC, "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "a SQLite database"),
    (b"GGUF", "a GGUF model"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)
_WEB_PAGE = (b"<!doctype html", b"<html")


def binary_kind(head: bytes) -> str:
    """What a file that begins with `head` is, such as `a PNG image`, or an empty string for text and the unknown."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    return ""


def text_kind(head: bytes) -> str:
    """As `binary_kind`, for text that is told by its beginning: a web page or JSON; else an empty string."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:20].lower()
    if start.startswith(_WEB_PAGE):
        return "a web page"
    return "JSON" if start.startswith((b"{", b"[")) else ""
