"""A row as the model sees it: token by token, with special tokens by their names, and what is trained of it.

A token may be a part of a character only: an emoji is four bytes, which a tokenizer knows as one, two or four tokens.
Such tokens make sense together alone, so the text stands with the first of them, and each says which part it is. All
texts, joined, are what the tokenizer makes of the tokens.

It takes the files of a profile and the `tokenizers` library; transformers is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from core.data.tokens.profile import TOKENIZER, ProfiledRow
from core.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token. `part` of `parts` tokens (from 1) that make up their text together, which stands with part 1. `is_cut`
    tells that a limit takes it away.
    """

    text: str
    id: int
    is_special: bool
    is_trained: bool
    is_cut: bool = False
    part: int = 1
    parts: int = 1


def read_tokenizer(profile: Path) -> Tokenizer:
    """The tokenizer of the profile in that folder.

    Raises:
        ModelError: it cannot be had as a file.
    """
    if not (profile / TOKENIZER).is_file():
        raise ModelError(
            "The base model's tokenizer has no file from which its tokens could be shown",
            hint="Choose a base model that has a tokenizer.json",
        )
    return Tokenizer.from_file(str(profile / TOKENIZER))


def row_pieces(row: ProfiledRow, tokenizer: Tokenizer, limit: int | None = None) -> list[Piece]:
    """The tokens of `row`, in their order.

    Args:
        limit: of a conversation or a passage: how many tokens are fed to the model; the one after these is learned
            still.
    """
    tokens: list[int] = row.tokens.tolist()
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    pieces = []
    for first, count, text in _groups(tokens, tokenizer, special):
        for place in range(first, first + count):
            piece = Piece(
                text=text if place == first else "",
                id=tokens[place],
                is_special=tokens[place] in special,
                is_trained=bool(row.trained[place]),
                is_cut=limit is not None and place > limit,
                part=place - first + 1,
                parts=count,
            )
            pieces.append(piece)
    return pieces


def _groups(tokens: list[int], tokenizer: Tokenizer, special: set[int]) -> Iterator[tuple[int, int, str]]:
    """Where tokens that make up a text together begin, how many they are, and the text; one after the other."""
    stream = DecodeStream(skip_special_tokens=False)
    first = letters = 0
    for place, token in enumerate(tokens):
        text = stream.step(tokenizer, token)
        if text is None:
            continue
        letters += len(text)
        name = tokenizer.id_to_token(token) if token in special else None
        if name and first < place and text.endswith(name):  # what came before was left unfinished
            yield first, place - first, text.removesuffix(name)
            first, text = place, name
        yield first, place + 1 - first, text
        first = place + 1
    if first < len(tokens):
        yield first, len(tokens) - first, tokenizer.decode(tokens, skip_special_tokens=False)[letters:]
