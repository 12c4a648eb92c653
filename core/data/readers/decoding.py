"""Bytes to text without guessing wrong in silence, block by block.

A byte order mark decides; without one the bytes are UTF-8 if they are valid UTF-8. Only what remains is guessed, from
the lines that hold other bytes than ASCII. charset-normalizer ranks encodings by how orderly the text looks, and
on a few accented words takes Windows-1250 or Mac code pages for Windows-1252 as readily as not (tried on sentences in
twenty languages), so a guess counts only

- as Windows-1252, by far the most frequent one, where that is about as orderly as the best, or
- as the best, where the text also resembles a language (`_MIN_COHERENCE`);

and neither where symbols stand as letters (`wi±c` for `więc`). A file of mostly valid UTF-8 with a few broken bytes is
damaged, not of another encoding. Everything else is refused with the place of the first byte that is no UTF-8: text
that is wrong in a few letters would be trained on as it is.

All this is told from the first blocks of a file. What follows is decoded as it comes: a byte that breaks later is told
with its place, except where all before it was ASCII. Then nothing has been decided yet, and the guess is made there.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Callable, Iterator
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
_BLOCKS_TO_SAMPLE = 10
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


_COMMON_NAMES = {
    "cp1250": "Windows-1250", "cp1251": "Windows-1251", "cp1252": "Windows-1252", "cp1253": "Windows-1253",
    "cp1254": "Windows-1254", "cp1255": "Windows-1255", "cp1256": "Windows-1256", "cp1257": "Windows-1257",
    "cp874": "Windows-874", "cp932": "Shift JIS", "cp949": "EUC-KR", "iso8859_2": "ISO 8859-2", "koi8_r": "KOI8-R",
    "koi8_u": "KOI8-U", "big5": "Big5", "gb18030": "GB 18030", "euc_jp": "EUC-JP",
    "utf-16-le": "UTF-16", "utf-16-be": "UTF-16",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a file's bytes are to be read: a codec, the length of the mark before them, and whether it was guessed."""

    codec: str
    mark_bytes: int = 0
    is_guessed: bool = False
    is_old_mac: bool = False  # carriage returns alone end its lines

    @property
    def common_name(self) -> str:
        """What people call it."""
        return _COMMON_NAMES.get(self.codec, self.codec)


def detect(head: bytes, is_whole: bool, name: str) -> Encoding:
    """The encoding of the file `name`, which begins with `head`; `is_whole` where there is no more of it.

    Raises:
        DataError: no encoding fits; the place of the first unreadable byte is given.
    """
    found = _detect_codec(head, is_whole, name)
    start = _decode_start(head, found, is_whole, name)
    is_old_mac = "\r" in start and "\n" not in start
    return Encoding(codec=found.codec, mark_bytes=found.mark_bytes, is_guessed=found.is_guessed, is_old_mac=is_old_mac)


def decode_head(head: bytes, encoding: Encoding, is_whole: bool, name: str) -> str:
    """The text of a file's beginning, with `\\n` as its only line break; half a character at its end is left out."""
    start = _decode_start(head, encoding, is_whole, name).replace("\r\n", "\n")
    return start.replace("\r", "\n") if encoding.is_old_mac else start


def utf8_blocks(raw: Iterator[bytes], encoding: Encoding, name: str, notice: Callable[[str], None]) -> Iterator[bytes]:
    """The text of `raw` as UTF-8, in blocks of whole characters, with `\\n` as its only line break.

    Args:
        notice: told where the encoding shows itself only later than `detect` could see.

    Raises:
        DataError: a byte that is none of this encoding, with its place.
    """
    if encoding.codec == "utf-8":
        return _plain_breaks(_checked(raw, encoding, name, notice), encoding.is_old_mac)
    return _plain_breaks(_decoded(raw, encoding, name), encoding.is_old_mac)


def _detect_codec(head: bytes, is_whole: bool, name: str) -> Encoding:
    for mark, codec in _BOMS:
        if head.startswith(mark):
            return Encoding(codec=codec, mark_bytes=len(mark))
    if wide := _unmarked_utf16(head):
        return Encoding(codec=wide, is_guessed=True)
    try:
        codecs.utf_8_decode(head, "strict", is_whole)
        return Encoding(codec="utf-8")
    except UnicodeDecodeError as error:
        codec = _guess_codec(head)
        guessed = Encoding(codec=codec, is_guessed=True)
        if codec and _can_be(head, codec, is_whole):
            return guessed
        raise _unreadable(name, head[error.start], error.start, "UTF-8") from None


def _decode_start(head: bytes, encoding: Encoding, is_whole: bool, name: str) -> str:
    try:
        return codecs.getincrementaldecoder(encoding.codec)().decode(head[encoding.mark_bytes :], is_whole)
    except UnicodeDecodeError as error:
        place = encoding.mark_bytes + error.start
        raise _unreadable(name, head[place], place, encoding.codec.upper()) from None


def _can_be(head: bytes, codec: str, is_whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(codec)().decode(head, is_whole)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(raw: Iterator[bytes], encoding: Encoding, name: str, start: int = 0) -> Iterator[bytes]:
    """`raw`, which begins at byte `start` of the file, as UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding.codec)()
    offset, to_skip = start, encoding.mark_bytes
    for block in itertools.chain(raw, [b""]):
        begun = len(decoder.getstate()[0])
        part = block[to_skip:]
        try:
            text = decoder.decode(part, final=not block)
        except UnicodeDecodeError as error:
            place = offset + to_skip - begun + error.start
            raise _unreadable(name, error.object[error.start], place, encoding.codec.upper()) from None
        yield text.encode()
        offset, to_skip = offset + len(block), 0


def _checked(raw: Iterator[bytes], encoding: Encoding, name: str, notice: Callable[[str], None]) -> Iterator[bytes]:
    """`raw` as it is, cut between characters, as long as it is UTF-8; else what it turns out to be."""
    offset, is_ascii, rest = encoding.mark_bytes, True, b""
    first = next(raw, b"")[encoding.mark_bytes :]
    for block in itertools.chain(filter(None, [first]), raw, [b""]):
        part = rest + block
        if part.isascii():
            end = len(part)
        else:
            try:
                _, end = codecs.utf_8_decode(part, "strict", not block)
            except UnicodeDecodeError as error:
                refusal = _unreadable(name, part[error.start], offset + error.start, "UTF-8")
                if encoding.mark_bytes or not (is_ascii and part[: error.start].isascii()):
                    raise refusal from None
                yield from _decoded_late(part, raw, offset, refusal, name, notice)
                return
            is_ascii = is_ascii and part[:end].isascii()
        yield part[:end]
        offset, rest = offset + end, part[end:]


def _decoded_late(
    part: bytes, raw: Iterator[bytes], offset: int, refusal: DataError, name: str, notice: Callable[[str], None]
) -> Iterator[bytes]:
    """What follows a long stretch of ASCII, from `part` on, in the encoding that it and the next blocks look like."""
    ahead = list(itertools.islice(raw, _BLOCKS_TO_SAMPLE))
    codec = _guess_codec(b"".join([part, *ahead]))
    if not codec:
        raise refusal
    encoding = Encoding(codec=codec, is_guessed=True)
    notice(f"read as {encoding.common_name}")
    yield from _decoded(itertools.chain([part], ahead, raw), encoding, name, offset)


def _guess_codec(window: bytes) -> str:
    """The encoding that the lines of `window` with other bytes than ASCII look like, or an empty string."""
    sample = _accented_lines(window)
    return "" if _is_damaged_utf8(sample) else _guess(sample)


def _accented_lines(window: bytes) -> bytes:
    """Up to `_SAMPLE_BYTES` of the lines that hold bytes beyond ASCII."""
    lines: list[bytes] = []
    size = 0
    for line in window.split(b"\n"):
        if not line.isascii() and size < _SAMPLE_BYTES:
            lines.append(line)
            size += len(line)
    return b"\n".join(lines)[:_SAMPLE_BYTES]


def _unmarked_utf16(data: bytes) -> str:
    """The byte order of UTF-16 without a mark, told by the zero byte of each ASCII character, else an empty string."""
    head = data[:2048]
    for encoding, high_bytes in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
        zeros = high_bytes.count(0)
        if len(data) % 2 == 0 and zeros == head.count(0) and zeros > _MANY_NULS * len(high_bytes):
            return encoding
    return ""


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


def _plain_breaks(blocks: Iterator[bytes], is_old_mac: bool) -> Iterator[bytes]:
    """`blocks` with Windows' line breaks, and those of old Macs where there are no others, turned into `\\n`."""
    held = b""
    for block in blocks:
        part = held + block
        held = b""
        if b"\r" in part:
            if is_old_mac:
                part = part.replace(b"\r", b"\n")
            elif part.endswith(b"\r"):
                part, held = part[:-1], b"\r"
            part = part.replace(b"\r\n", b"\n")
        if part:
            yield part
    if held:
        yield held


def _unreadable(name: str, byte: int, offset: int, encoding: str) -> DataError:
    return DataError(
        f"{name} is not readable as text: byte {offset:,} (0x{byte:02x}) is no valid {encoding}",
        "no other encoding fits without doubt",
        "Save the file as UTF-8 and add it again",
    )
