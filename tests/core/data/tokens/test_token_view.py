"""Rows as one sees them, over many tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from core.data.tokens.profile import ProfiledRow, ProfileSettings, TokenProfile
from core.data.tokens.profiling import write_profile
from core.data.tokens.view import Piece, read_tokenizer, row_pieces
from core.errors import ModelError
from tests.core.data.tokens.tokenizers_at_hand import OTHERS, TEXTS, WORDWISE, made
from tests.core.tiny import conversation

TRICKY = ["😀👩‍👩‍👧‍👦", "שלום עולם", "مرحبا بالعالم", "日本語のテキスト", "नमस्ते", "naïve café", "a\u202eb", " x\n\ty "]


@pytest.fixture(scope="module")
def starter(starter_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(starter_folder)


@pytest.fixture(scope="module", params=[*WORDWISE, *OTHERS])
def backend(request: pytest.FixtureRequest, starter: Any) -> Tokenizer:
    return made(request.param, starter).backend_tokenizer


def row_of(tokens: list[int]) -> ProfiledRow:
    return ProfiledRow(source_row=1, tokens=np.array(tokens, np.uint32), trained=np.zeros(len(tokens), np.bool_))


def check_parts(pieces: list[Piece]) -> None:
    """Parts stand side by side, counted from 1, and the text with the first of them."""
    place = 0
    while place < len(pieces):
        group = pieces[place : place + pieces[place].parts]
        assert [piece.part for piece in group] == list(range(1, len(group) + 1))
        assert {piece.parts for piece in group} == {len(group)}
        assert not any(piece.text for piece in group[1:])
        place += len(group)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS | st.sampled_from(TRICKY), cut=st.integers(0, 30))
def test_pieces_joined_are_what_the_tokenizer_decodes(backend: Tokenizer, text: str, cut: int) -> None:
    """Also where the row ends in the middle of a character; there, bytes that stand for missing characters are given up
    by the tokenizer from the first of them on, so that it shows less than the pieces do.
    """
    gives_up = "ByteFallback" in repr(backend.decoder)
    tokens = backend.encode(text).ids[: None if gives_up else cut or None]
    pieces = row_pieces(row_of(tokens), backend)
    assert [piece.id for piece in pieces] == tokens
    assert "".join(piece.text for piece in pieces) == backend.decode(tokens, skip_special_tokens=False)
    check_parts(pieces)


def test_two_tokens_of_one_emoji_show_it_once_and_say_so(starter: Any) -> None:
    tokens = starter("🦜", add_special_tokens=False)["input_ids"]
    assert len(tokens) > 1
    first, *others = row_pieces(row_of(tokens), starter.backend_tokenizer)
    assert (first.text, first.part, first.parts) == ("🦜", 1, len(tokens))
    assert [(piece.text, piece.part) for piece in others] == [("", part) for part in range(2, len(tokens) + 1)]


def test_a_special_token_behind_half_a_character_keeps_its_name(starter: Any) -> None:
    half = starter("🦜", add_special_tokens=False)["input_ids"][0]
    one, end = row_pieces(row_of([half, starter.eos_token_id]), starter.backend_tokenizer)
    assert (end.text, end.is_special, one.is_special) == ("<|im_end|>", True, False)
    assert one.text == "\ufffd"


def test_a_row_shows_its_template_its_special_tokens_and_what_is_trained(starter: Any, tmp_path: Path) -> None:
    talk = conversation("Say ahoy.", "Ahoy! 🦜", system="Be brief.")
    write_profile(starter, [talk], tmp_path, ProfileSettings(task="chat"))
    tokenizer = read_tokenizer(tmp_path)
    row = TokenProfile(tmp_path).row(0)
    pieces = row_pieces(row, tokenizer)
    assert "".join(piece.text for piece in pieces) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay ahoy.<|im_end|>\n"
        "<|im_start|>assistant\nAhoy! 🦜<|im_end|>\n"
    )
    assert "".join(piece.text for piece in pieces if piece.is_trained) == "Ahoy! 🦜<|im_end|>"
    assert [piece.text for piece in pieces if piece.is_special] == ["<|im_start|>", "<|im_end|>"] * 3
    limit = len(pieces) - 4
    cut = row_pieces(row, tokenizer, limit)
    assert [piece.is_cut for piece in cut] == [False] * (limit + 1) + [True] * 3


def test_a_tokenizer_that_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no file"):
        read_tokenizer(tmp_path)
