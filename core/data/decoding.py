"""Bytes to text without guessing wrong in silence.

A byte order mark decides; without one the bytes are UTF-8 if they are valid UTF-8. Only what remains is guessed, from
the lines that hold other bytes than ASCII. charset-normalizer ranks encodings by how orderly the text looks, and
on a few accented words takes Windows-1250 or Mac code pages for Windows-1252 as readily as not (tried on sentences in
twenty languages), so a guess counts only

- as Windows-1252, by far the most frequent one, where that is about as orderly as the best, or
- as the best, where the text also resembles a language (`_MIN_COHERENCE`);

and neither where symbols stand as letters (`wi±c` for `więc`). A file of mostly valid UTF-8 with a few broken bytes is
damaged, not of another encoding. Everything else is refused with the place of the first byte that is no UTF-8: text
that is wrong in a few letters would be trained on as it is.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from charset_normalizer import CharsetMatch, from_bytes

from core.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE_BYTES = 100_000
_WESTERN = "cp1252"
_TURKISH = "cp1254"
# The rest of the hundred encodings that are known hardly occur, and are often the wrong guess.
_IN_USE = frozenset(
    {"cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874", "iso8859_2"}
    | {"koi8_r", "koi8_u", "cp932", "cp949", "big5", "gb18030", "euc_jp"}
)
_CHAOS_MARGIN = 0.05
_COHERENCE_MARGIN = 0.1
_MIN_COHERENCE = 0.3
_MANY_NULS = 0.4
_MISPLACED_SYMBOL = re.compile(r"[^\W\d_][¡-©«¬®-³µ¶¸¹»-¿×÷][^\W\d_]|[¤¦¬±³¶¹¼-¾][^\W\d_]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Text with `\\n` as its only line break, and the encoding's name where it was guessed (else empty)."""

    text: str
    guessed: str = ""


def decode(data: bytes, name: str) -> Decoded:
    """The text of the file `name`.

    Raises:
        DataError: no encoding fits; the place of the first unreadable byte is given.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return Decoded(text=_plain_breaks(_decode_marked(data[len(mark) :], encoding, name, len(mark))))
    if wide := _unmarked_utf16(data):
        return Decoded(text=_plain_breaks(_decode_marked(data, wide, name, 0)), guessed=wide)
    try:
        return Decoded(text=_plain_breaks(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        return _decode_guessed(data, error.start, name)


def _decode_marked(data: bytes, encoding: str, name: str, offset: int) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _unreadable(name, data[error.start], error.start + offset, encoding.upper()) from None


def _unmarked_utf16(data: bytes) -> str:
    """The byte order of UTF-16 without a mark, told by the zero byte of each ASCII character, else an empty string."""
    head = data[:2048]
    for encoding, high_bytes in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
        zeros = high_bytes.count(0)
        if len(data) % 2 == 0 and zeros == head.count(0) and zeros > _MANY_NULS * len(high_bytes):
            return encoding
    return ""


def _decode_guessed(data: bytes, offset: int, name: str) -> Decoded:
    refusal = _unreadable(name, data[offset], offset, "UTF-8")
    sample = _accented_lines(data, offset)
    encoding = "" if _is_damaged_utf8(sample) else _guess(sample)
    if not encoding:
        raise refusal
    try:
        return Decoded(text=_plain_breaks(data.decode(encoding)), guessed=encoding)
    except UnicodeDecodeError:
        raise refusal from None


def _accented_lines(data: bytes, offset: int) -> bytes:
    """Up to `_SAMPLE_BYTES` of the lines that hold bytes beyond ASCII, from the one with the byte at `offset` on."""
    start = data.rfind(b"\n", 0, offset) + 1
    window = data[max(start, offset - _SAMPLE_BYTES) : start + 100 * _SAMPLE_BYTES]
    return b"\n".join(line for line in window.split(b"\n") if not line.isascii())[:_SAMPLE_BYTES]


def _is_damaged_utf8(sample: bytes) -> bool:
    marked = sample.decode("utf-8", errors="surrogateescape")
    broken = sum("\udc80" <= char <= "\udcff" for char in marked)
    sound = sum(char > "\x7f" for char in marked) - broken
    return sound > broken


def _guess(sample: bytes) -> str:
    matches = [match for match in from_bytes(sample) if _names(match) & _IN_USE]
    if not matches:
        return ""
    best = matches[0]
    western = next((match for match in matches if _WESTERN in _names(match)), None)
    if western is not None and _is_as_likely(western, best):
        encoding = _WESTERN
    else:
        encoding = best.encoding if best.coherence >= _MIN_COHERENCE and best.encoding in _IN_USE else ""
    is_orderly = encoding and not _MISPLACED_SYMBOL.search(sample.decode(encoding, errors="replace"))
    return encoding if is_orderly else ""


def _is_as_likely(match: CharsetMatch, best: CharsetMatch) -> bool:
    if best.encoding == _TURKISH:  # differs from Western in six letters, which are Icelandic ones there
        return False
    return match.chaos <= best.chaos + _CHAOS_MARGIN and match.coherence >= best.coherence - _COHERENCE_MARGIN


def _names(match: CharsetMatch) -> set[str]:
    """The match's encoding and those that give the same text."""
    return {match.encoding, *match.could_be_from_charset}


def _plain_breaks(text: str) -> str:
    """`text` with Windows' line breaks, and those of old Macs where there are no others, turned into `\\n`."""
    if "\r" not in text:
        return text
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def _unreadable(name: str, byte: int, offset: int, encoding: str) -> DataError:
    return DataError(
        f"{name} is not readable as text: byte {offset:,} (0x{byte:02x}) is no valid {encoding}",
        "no other encoding fits without doubt",
        "Save the file as UTF-8 and add it again",
    )
