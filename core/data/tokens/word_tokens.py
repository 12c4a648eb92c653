"""Tokens of many texts at a multiple of the tokenizer's own speed, by asking it once for each word.

Most of a byte-level tokenizer's time goes into cutting text into words with a regular expression, before it looks any
of them up. A dataset is made of the same words over and over. So a text is cut here where the tokenizer is sure to cut
it as well, and the tokens of each piece are remembered; only pieces not seen before go through the tokenizer, many at
once, in its own threads.

Where is it sure to cut? Before a single space between two characters that are no white space. Let such a text be u v,
where u ends in c, and v begins with a space and then d. In each of the expressions in `_KNOWN` (those of GPT-2,
Llama 3, Qwen 2 and GPT-4o), and where digits are cut off:

- a match that begins in u ends in u, as it would if u were all: runs of letters, of digits and of other characters
  end at a space, `[\\r\\n]*` behind them does, contractions have no space in them, and a run of white space in u ends
  before c. Its lookahead `(?!\\S)` looks no further than c.
- so a match begins at v's space, and none of them looks back; v is cut as if it were all.

Then the tokens of u v are those of u and those of v, because each word is tokenized on its own. Special tokens are cut
out before; with no white space in them and none that they swallow (`rstrip`), each lies in one piece. Nor does NFC join
anything across a space. What a tokenizer has beside that (a prefix to each text, other normalizers, other expressions,
dropout) is reason enough not to use this at all: `WordTokens.of` is None then.

Tokens also tell their place in the text: each stands for some bytes. Where the bytes of a piece's tokens are the
piece's (they are not where a normalizer changed it, or bytes are missing from the vocabulary), adding them up gives the
places that the tokenizer tells, but for those within a character, which it rounds to the whole. A span begins and ends
between characters, so a token lies in it by the one count if it does by the other.

No more than `PIECES` are remembered, of at most `LETTERS` characters, so the memory is bounded whatever the dataset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

PIECES = 100_000  # about 20 MB
LETTERS = 64
TOGETHER = 64

_SURE_CUT = re.compile(r" (?=\S)(?<=\S )")  # a space between what is no white space; this way round it is quickest
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_KNOWN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    *(
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        for digits in (r"\p{N}{1,3}", r"\p{N}")
    ),
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTIONS + "?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTIONS + "?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


class WordTokens:
    """A byte-level tokenizer that remembers the tokens of words; made by `of`.

    `sizes` `[vocabulary]` int64 is how many bytes of text each token stands for.
    """

    def __init__(self, backend: Any, spellings: list[bytes], dtype: DTypeLike) -> None:
        self.sizes: NDArray[np.int64] = np.array([len(spelling) for spelling in spellings])
        self._backend, self._spellings, self._dtype = backend, spellings, dtype
        self._known: dict[str, bytes] = {}
        self._misspelled: set[str] = set()

    @classmethod
    def of(cls, tokenizer: Any, dtype: DTypeLike) -> WordTokens | None:
        """For `tokenizer`, with tokens of `dtype`; None where words cannot be tokenized apart, or places told."""
        backend = tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder.values()
        if (
            type(backend.model).__name__ != "BPE"
            or backend.model.dropout
            or _state(backend.normalizer).get("type", "NFC") != "NFC"
            or not _cuts_before_spaces(_state(backend.pre_tokenizer))
            or not _keeps_offsets(_state(backend.post_processor))
            or any(token.rstrip or re.search(r"\s", token.content) for token in added)
        ):
            return None
        return cls(backend, _spellings(backend, {token.content for token in added}), dtype)

    def __call__(self, texts: Sequence[str]) -> list[NDArray[Any] | None]:
        """The tokens of each text, without any that the tokenizer puts around a text; None where they do not spell it
        byte for byte, so that `sizes` does not tell their places.
        """
        rows = [_pieces(text) for text in texts]
        pieces = set().union(*rows)
        self._learn(pieces.difference(self._known))
        known, misspelled = self._known.__getitem__, self._misspelled
        found = [
            np.frombuffer(b"".join(map(known, row)), self._dtype)
            if not misspelled or misspelled.isdisjoint(row)
            else None
            for row in rows
        ]
        self._forget(pieces)
        return found

    def _learn(self, pieces: Iterable[str]) -> None:
        """Have the tokens of new `pieces`: many to a text, since a text by itself costs more than a word."""
        apart = [piece for piece in pieces if piece[0] == " " or piece[-1].isspace()]  # may not stand between others
        others = list(set(pieces).difference(apart))
        groups = [others[start : start + TOGETHER] for start in range(0, len(others), TOGETHER)]
        for group, encoding in zip(groups, self._encode([f" {' '.join(group)}" for group in groups]), strict=True):
            if not self._learn_together(group, encoding.ids):
                apart += group
        texts = [piece[1:] if piece[0] == " " else f" {piece}" for piece in apart]
        for piece, text, encoding in zip(apart, texts, self._encode(texts), strict=True):
            self._known[piece] = np.array(encoding.ids, self._dtype).tobytes()
            if not self._spell(encoding.ids, text):
                self._misspelled.add(piece)

    def _learn_together(self, pieces: list[str], ids: list[int]) -> bool:
        """Take `ids`, the tokens of `pieces` one behind the other, apart, if they tell where each ends."""
        if not self._spell(ids, f" {' '.join(pieces)}"):
            return False
        tokens = np.array(ids, self._dtype)
        ends = np.cumsum([1 + len(piece.encode()) for piece in pieces])
        counts = (self.sizes[tokens].cumsum().searchsorted(ends) + 1) * tokens.itemsize
        content, start = tokens.tobytes(), 0
        for piece, end in zip(pieces, counts.tolist(), strict=True):
            self._known[piece] = content[start:end]
            start = end
        return True

    def _spell(self, ids: list[int], text: str) -> bool:
        """Whether the tokens stand for just the bytes of `text`."""
        return b"".join([self._spellings[token] for token in ids]) == text.encode()

    def _encode(self, texts: list[str]) -> list[Any]:
        encodings: list[Any] = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return encodings

    def _forget(self, latest: set[str]) -> None:
        """Drop long pieces, among the `latest`, and everything where there is too much of it."""
        for piece in latest:
            if len(piece) > LETTERS:
                del self._known[piece]
                self._misspelled.discard(piece)
        if len(self._known) > PIECES:
            self._known.clear()
            self._misspelled.clear()


def _pieces(text: str) -> list[str]:
    """`text`, cut at each sure place and without the spaces there; the first piece is marked with a space before it,
    which no other piece begins with.
    """
    pieces = _SURE_CUT.split(text)
    pieces[0] = f" {pieces[0]}"
    return pieces


def _state(part: Any) -> dict[str, Any]:
    """The settings of a part of a tokenizer; nothing where it has no such part."""
    state: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {}
    return state


def _cuts_before_spaces(state: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer is byte-level and cuts as the module says."""
    *others, last = state.get("pretokenizers", [state])
    match last:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": has_words}:
            return all(map(_leaves_spaces, others)) and (has_words or any(map(_cuts_words, others)))
    return False


def _leaves_spaces(state: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer leaves a sure cut sure."""
    return state.get("type") == "Digits" or _cuts_words(state)


def _cuts_words(state: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer cuts words by an expression that is known."""
    match state:
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": inverted}:
            # the matches are the words: they are kept, or all but them is removed
            return pattern in _KNOWN and (behavior, inverted) in (("Isolated", False), ("Removed", True))
    return False


def _keeps_offsets(state: dict[str, Any]) -> bool:
    """Whether a post-processor leaves a token the white space that it stands for."""
    match state:
        case {"type": "Sequence", "processors": parts}:
            return all(map(_keeps_offsets, parts))
        case {"type": "ByteLevel", "trim_offsets": False} | {"type": "TemplateProcessing"}:
            return True
    return not state


def _spellings(backend: Any, added: set[str]) -> list[bytes]:
    """By token, the bytes that it stands for. Tokens of words are written in 256 letters, one for each byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {byte: byte for byte in visible} | {256 + place: byte for place, byte in enumerate(hidden)}
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    spellings = [b""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        is_added = token in added
        spellings[number] = token.encode() if is_added else token.translate(letters).encode("latin-1", "replace")
    return spellings
