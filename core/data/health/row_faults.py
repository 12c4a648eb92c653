"""What is wrong with the texts of records, found over columns of them: blank ones, turns out of order, broken letters.

Each function gives `[n] bool`, whether a record has the fault. Bytes are looked at by the million in numpy; only texts
that may have a fault are looked at as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from core.data.health.text_columns import ASSISTANT, SYSTEM, TEXT, TOOL, USER, TextColumns, places_of

# First bytes of all white space in UTF-8, of the blanks beyond ASCII too
_BLANK_BEGINNINGS = np.array([*range(33), 0xC2, 0xE1, 0xE2, 0xE3], np.uint8)
_LAYOUT = np.frombuffer(b"\t\n\r", np.uint8)
_ESCAPE_CODES = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]|\x0c(?!\n)")
# What UTF-8 became that was read as Windows-1252 or Latin-1: its first byte, then the second and the third. Capitals
# before a closing quote look like it too, so what is rarer than accents and dashes counts only where it goes on.
_SECOND = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MISREAD = re.compile(
    f"[ÂÃ](?![‘’“”–—…]){_SECOND}|â[\x80€]{_SECOND}|(?:[\xc4-\xdf]{_SECOND}){{2,}}|(?:[\xe0-\xef]{_SECOND}{{2}}){{2,}}"
)
_SECOND_BEGINNINGS = np.array([0xC2, 0xC5, 0xC6, 0xCB, 0xE2], np.uint8)  # of those characters, in UTF-8
_REPLACEMENT = "\ufffd"


def blank_texts(columns: TextColumns) -> NDArray[np.intp]:
    """The numbers of the texts that hold nothing, or white space alone."""
    lengths = columns.lengths
    letters = np.frombuffer(columns.text + b" ", np.uint8)
    beginnings = letters[columns.starts[:-1]]
    may_be = np.flatnonzero((lengths == 0) | (_in_table(beginnings, _BLANK_BEGINNINGS)))
    return np.array([number for number in may_be.tolist() if not columns.text_of(number).strip()], np.intp)


def empty(columns: TextColumns, blank: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether a text is blank that is neither a system message nor an answer, or there is none at all.

    Args:
        blank: the numbers of the blank texts.
    """
    is_asked = (columns.roles[blank] == USER) | (columns.roles[blank] == TEXT)
    is_empty: NDArray[np.bool_] = columns.counts == 0
    return is_empty | _of_records(columns, blank[is_asked])


def without_answer(columns: TextColumns, blank: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether a conversation has no answer, or a blank one; `blank` are the numbers of the blank texts."""
    is_answer, is_plain = columns.roles == ASSISTANT, columns.roles == TEXT
    has_none = _per_record(columns, is_answer | is_plain) == 0
    found = _of_records(columns, blank[is_answer[blank]])
    found[has_none & (columns.counts > 0)] = True
    return found


def out_of_order(columns: TextColumns) -> NDArray[np.bool_]:
    """Whether an assistant begins, somebody speaks twice in a row, or a system message comes later than first.

    What a tool says may come between turns of the assistant, and several tools may speak in a row.
    """
    roles = columns.roles
    is_first = np.zeros(len(roles), np.bool_)
    is_first[columns.first[:-1][np.diff(columns.first) > 0]] = True
    before = np.roll(roles, 1)
    before[is_first] = SYSTEM  # a system message that comes first changes nothing
    is_wrong = (roles == SYSTEM) & ~is_first
    is_wrong |= ((roles == ASSISTANT) | (roles == TOOL)) & (before == SYSTEM)
    is_wrong |= ((roles == USER) | (roles == ASSISTANT)) & (roles == before)
    return _of_records(columns, np.flatnonzero(is_wrong))


def with_control_characters(columns: TextColumns) -> NDArray[np.bool_]:
    """Whether there are characters that steer a terminal or nothing: not line ends, tabs and page breaks."""
    letters = np.frombuffer(columns.text, np.uint8)
    low = places_of(letters < 32)
    places = np.concatenate([low[~np.isin(letters[low], _LAYOUT)], places_of(letters == 127)])
    return _confirmed(columns, places, lambda text: _ESCAPE_CODES.search(text) is not None)


def garbled(columns: TextColumns) -> NDArray[np.bool_]:
    """Whether letters were lost (U+FFFD), or UTF-8 was read as Latin-1, so that `ü` became `Ã¼`."""
    if columns.text.isascii():
        return np.zeros(len(columns), np.bool_)
    letters = np.frombuffer(columns.text, np.uint8)
    # U+00C2 to U+00EF, the first bytes of UTF-8 as Latin-1 has them, before a character as above; or a lost letter
    beyond = places_of(letters[:-2] >= 0xC3)
    accents = beyond[letters[beyond] == 0xC3]
    is_first = (letters[accents + 1] >= 0x82) & (letters[accents + 1] <= 0xAF)
    accents = accents[is_first & np.isin(letters[accents + 2], _SECOND_BEGINNINGS)]
    lost = beyond[letters[beyond] == 0xEF]
    lost = lost[(letters[lost + 1] == 0xBF) & (letters[lost + 2] == 0xBD)]
    return _confirmed(columns, np.concatenate([accents, lost]), _is_garbled)


def _is_garbled(text: str) -> bool:
    return _REPLACEMENT in text or any(_was_misread(match[0]) for match in _MISREAD.finditer(text))


def _was_misread(letters: str) -> bool:
    """Whether they are UTF-8 when they are written as what they were read as."""
    for code in ("cp1252", "latin-1"):
        try:
            letters.encode(code).decode()
        except UnicodeError:
            continue
        return True
    return False


def _confirmed(columns: TextColumns, places: NDArray[np.intp], is_real: Callable[[str], bool]) -> NDArray[np.bool_]:
    """Which records have a text with one of `places` in it of which `is_real` says yes."""
    texts = np.unique(np.searchsorted(columns.starts, places, side="right") - 1)
    return _of_records(columns, [number for number in texts if is_real(columns.text_of(number))])


def _of_records(columns: TextColumns, texts: Iterable[int] | NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which records have one of `texts`."""
    found = np.zeros(len(columns), np.bool_)
    found[np.searchsorted(columns.first, np.array(texts, np.intp), side="right") - 1] = True
    return found


def _per_record(columns: TextColumns, of_texts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`[n]`, how many texts of each record are true."""
    total = np.concatenate([[0], np.cumsum(of_texts)])
    found: NDArray[np.int64] = total[columns.first[1:]] - total[columns.first[:-1]]
    return found


def _in_table(letters: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.bool_]:
    is_in = np.zeros(256, np.bool_)
    is_in[table] = True
    return is_in[letters]
