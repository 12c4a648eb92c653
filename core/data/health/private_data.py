"""What looks like a key or like personal data in a text, told by shape and checksum, and shown masked alone.

    keys           the published shapes of well-known services' keys and tokens, blocks of private keys
    personal data  mail addresses, bank accounts (IBAN, with its checksum), cards (with Luhn's), telephone numbers

A shape is no proof, and much has none: names, addresses of houses, passwords. Telephone numbers are found where they
are written with + and the country, or as in North America; any longer digits would be taken for one otherwise. A key
whose characters hardly differ (`sk-xxxx…`) is a stand-in in a manual and passes, and so do mail addresses in the
domains that are set aside for examples (RFC 2606).

`candidates` tells from the bytes of many texts at once, at little cost, which of them could hold any of these: a key
has a prefix that is known and no blank in it, an address letters around its @, and numbers many digits close together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from core.data.health.text_columns import TextColumns, places_of

Group: TypeAlias = Literal["key", "mail", "number"]

_LONGEST_SHOWN = 12
_SHORTEST_KEY = 20  # no shape below has fewer characters without a blank in them
_PREFIXES = "sk- sk_ rk_ AKI ASI ghp gho ghu ghs ghr git glp hf_ xox AIz npm pyp SG. eyJ"  # of all of them
_DIGITS, _SPAN = 9, 25  # every number has so many digits within so many bytes
_IN_NUMBERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ .()/-"  # what a digit that is not the last may stand before
_BEFORE_AT = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something that looks private; `shown` never holds enough of it to be of use."""

    is_key: bool
    what: str
    shown: str


def candidates(columns: TextColumns) -> dict[Group, NDArray[np.intp]]:
    """Which texts could hold anything private, by what it would be: all that do, and few others."""
    letters = np.frombuffer(columns.text, np.uint8)
    places: dict[Group, NDArray[np.intp]] = {
        "key": np.concatenate([_key_starts(letters), _block_starts(letters)]),
        "mail": _ats(letters),
        "number": _numbers(letters),
    }
    return {group: np.unique(columns.texts_at(found)) for group, found in places.items()}


def _key_starts(letters: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where a known prefix stands in `_SHORTEST_KEY` characters of which none is a blank, a quote, or beyond `z`."""
    places = _run_starts((letters - np.uint8(43)) < 80, _SHORTEST_KEY)
    return places[_MAY_BEGIN[_code(letters[places], letters[places + 1], letters[places + 2])]]


def _code(first: NDArray[np.uint8], second: NDArray[np.uint8], third: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """A number for three characters; few others have the same."""
    code = np.zeros(len(first), np.uint16)
    for letters, shift in ((first, 10), (second, 5), (third, 0)):
        code ^= np.left_shift(letters.astype(np.uint16), shift)
    return code


def _may_begin() -> NDArray[np.bool_]:
    """Whether a key may begin with the characters of a code."""
    is_known = np.zeros(1 << 16, np.bool_)
    letters = np.array([list(prefix.encode()) for prefix in _PREFIXES.split()], np.uint8)
    is_known[_code(letters[:, 0], letters[:, 1], letters[:, 2])] = True
    return is_known


_MAY_BEGIN = _may_begin()
_GOES_ON = np.isin(np.arange(256), np.frombuffer(_IN_NUMBERS, np.uint8))


def _block_starts(letters: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where `-----B` stands."""
    places = _run_starts(letters == ord("-"), 5)
    places = places[places + 5 < len(letters)]
    found: NDArray[np.intp] = places[letters[places + 5] == ord("B")]
    return found


def _run_starts(flags: NDArray[np.bool_], length: int) -> NDArray[np.intp]:
    """Where `length` of `flags` are true in a row, told 64 at a time."""
    bits = np.packbits(flags, bitorder="little")
    words = np.concatenate([bits, np.zeros(16 - len(bits) % 8, np.uint8)]).view(np.uint64)
    reach = 1
    while reach < length:
        step = min(reach, length - reach)
        words = words & _earlier(words, step)
        reach += step
    found = np.flatnonzero(words != 0)
    inside = np.flatnonzero(np.unpackbits(words[found].view(np.uint8), bitorder="little").view(np.bool_))
    places: NDArray[np.intp] = found[inside >> 6] * 64 + (inside & 63)
    return places


def _earlier(words: NDArray[np.uint64], shift: int) -> NDArray[np.uint64]:
    """The bits of `words` as one row, moved towards its beginning."""
    moved = words >> np.uint64(shift)
    moved[:-1] |= words[1:] << np.uint64(64 - shift)
    return moved


def _ats(letters: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where an @ follows what ends a name."""
    places = places_of(letters == ord("@"))
    is_named = np.isin(letters[places - 1], np.frombuffer(_BEFORE_AT, np.uint8)) if len(places) else places
    return places[is_named & (places > 0)] if len(places) else places


def _numbers(letters: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where `_DIGITS` digits begin that are close together, and none but the last before what ends a number."""
    digits = places_of((letters - np.uint8(48)) < 10)
    ends = np.cumsum(~_GOES_ON[letters[digits[:-1] + 1]])
    ended = np.concatenate([[0], ends])[: len(digits)]  # how often a number ended before each digit
    apart = _DIGITS - 1
    is_one = (digits[apart:] - digits[:-apart] < _SPAN) & (ended[apart:] == ended[:-apart])
    found: NDArray[np.intp] = digits[:-apart][is_one]
    return found


def sightings(text: str, groups: Collection[Group] = ("key", "mail", "number")) -> Iterator[Sighting]:
    """All that looks private in `text` and is of `groups`."""
    for shape in _SHAPES:
        if shape.group in groups and shape.hint in text:
            for match in shape.pattern.finditer(text):
                if shape.is_real(match[0]):
                    yield Sighting(shape.group == "key", shape.what, shape.mask(match[0]))


@dataclass(frozen=True, slots=True)
class _Shape:
    what: str
    pattern: re.Pattern[str]
    hint: str
    group: Group
    is_real: Callable[[str], bool]
    mask: Callable[[str], str]


def _is_varied(found: str) -> bool:
    """Whether the characters differ as those of a real key do."""
    return len(set(found[-16:])) >= 8 and "example" not in found.lower()


def _is_own_mail(found: str) -> bool:
    domain = found.rpartition("@")[2].lower()
    top = domain.rpartition(".")[2]
    is_set_aside = re.fullmatch(r"(?:.*\.)?example\.(?:com|org|net)", domain) is not None
    return not is_set_aside and top not in ("example", "test", "invalid", "localhost") and not top.isdigit()


def _digits(found: str) -> str:
    return "".join(letter for letter in found if letter.isdigit())


def _is_card(found: str) -> bool:
    """Luhn's checksum, and digits that differ: zeros alone pass the former."""
    digits = [int(letter) for letter in _digits(found)]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 2 and (sum(doubled) + sum(digits[::-2])) % 10 == 0


def _is_account(found: str) -> bool:
    """The checksum of ISO 13616: letters as numbers, the first four characters last, one modulo 97."""
    letters = found.replace(" ", "")
    if not 15 <= len(letters) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in letters[4:] + letters[:4])) % 97 == 1


def _is_telephone(found: str) -> bool:
    return 10 <= len(_digits(found)) <= 15


def _mask_key(found: str) -> str:
    """The service's own prefix, as everybody knows it, and how much more there is."""
    prefix = re.match(r"(?:sk-|AKIA|ASIA|AIza|eyJ|SG\.|[a-z]{2,6}[_-])", found)
    return f"{prefix[0] if prefix else ''}… ({len(found)} characters)"


def _mask_block(found: str) -> str:
    return "-----BEGIN … PRIVATE KEY-----"


def _mask_mail(found: str) -> str:
    name, _, domain = found.rpartition("@")
    return f"{name[0]}…@{domain[0]}….{domain.rpartition('.')[2][:_LONGEST_SHOWN]}"


def _mask_digits(found: str) -> str:
    return f"{found[:2].strip()}… ({len(_digits(found))} digits)"


def _key(what: str, pattern: str, hint: str) -> _Shape:
    return _Shape(what, re.compile(pattern), hint, "key", _is_varied, _mask_key)


_EDGE = r"(?<![A-Za-z0-9])"
_SHAPES = (
    _Shape(
        "private key",
        re.compile(r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----(?=[\s\S]{1,300}?[A-Za-z0-9+/]{20})"),
        "-----BEGIN", "key", bool, _mask_block,
    ),
    _key("API key", _EDGE + r"sk-(?:proj-|ant-|or-|svcacct-)?[A-Za-z0-9_-]{20,200}", "sk-"),
    _key("AWS access key", _EDGE + r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])", "A"),
    _key("GitHub token", _EDGE + r"gh[pousr]_[A-Za-z0-9]{36,255}", "gh"),
    _key("GitHub token", _EDGE + r"github_pat_[A-Za-z0-9_]{22,255}", "github_pat_"),
    _key("GitLab token", _EDGE + r"glpat-[A-Za-z0-9_-]{20,64}", "glpat-"),
    _key("Hugging Face token", _EDGE + r"hf_[A-Za-z0-9]{30,64}", "hf_"),
    _key("Slack token", _EDGE + r"xox[abeoprs]-[A-Za-z0-9-]{15,250}", "xox"),
    _key("Google key", _EDGE + r"AIza[0-9A-Za-z_-]{35}", "AIza"),
    _key("payment key", _EDGE + r"[rs]k_live_[A-Za-z0-9]{16,200}", "k_live_"),
    _key("npm token", _EDGE + r"npm_[A-Za-z0-9]{36}", "npm_"),
    _key("PyPI token", _EDGE + r"pypi-[A-Za-z0-9_-]{50,250}", "pypi-"),
    _key("SendGrid key", _EDGE + r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", "SG."),
    _key("web token", _EDGE + r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}", "eyJ"),
    _Shape(
        "mail address",
        re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}"
                   r"(?![A-Za-z0-9-])"),
        "@", "mail", _is_own_mail, _mask_mail,
    ),
    _Shape(
        "bank account",
        re.compile(_EDGE + r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"),
        "", "number", _is_account, _mask_digits,
    ),
    _Shape(
        "card number",
        re.compile(r"(?<![0-9A-Za-z.+-])(?:[45][0-9]{3}|2[2-7][0-9]{2}|3[47][0-9]{2}|6[0-9]{3})"
                   r"(?:(?:[ -]?[0-9]{4}){3}|[ -]?[0-9]{6}[ -]?[0-9]{5})(?![0-9A-Za-z-]|\.[0-9])"),
        "", "number", _is_card, _mask_digits,
    ),
    _Shape(
        "telephone number",
        re.compile(r"(?<![0-9A-Za-z+])\+[1-9][0-9]{0,2}(?:[ .()/-]{0,2}[0-9]{2,5}){2,6}(?![0-9A-Za-z])"),
        "+", "number", _is_telephone, _mask_digits,
    ),
    _Shape(
        "telephone number",
        re.compile(r"(?<![0-9A-Za-z(+.-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4}"
                   r"(?![0-9A-Za-z-])"),
        "", "number", _is_telephone, _mask_digits,
    ),
)  # fmt: skip
