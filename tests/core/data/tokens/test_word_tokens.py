from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models
from transformers import AutoTokenizer

from core.data.tokens import word_tokens
from core.data.tokens.word_tokens import WordTokens
from tests.core.data.tokens.tokenizers_at_hand import OTHERS, PARTS, TEXTS, WORDWISE, made


@pytest.fixture(scope="module")
def starter(starter_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(starter_folder)


@pytest.fixture(scope="module", params=WORDWISE)
def tokenizer(request: pytest.FixtureRequest, starter: Any) -> Any:
    return made(request.param, starter)


@pytest.fixture(scope="module")
def words(tokenizer: Any) -> WordTokens:
    """Remembers more with every text of a test."""
    return words_of(tokenizer)


def words_of(tokenizer: Any) -> WordTokens:
    words = WordTokens.of(tokenizer, np.uint32)
    assert words is not None
    return words


def whole(tokenizer: Any, text: str) -> Any:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)


def check(words: WordTokens, tokenizer: Any, texts: list[str]) -> None:
    """Tokens are those of whole texts, and so are places, but for those within a character."""
    for text, tokens in zip(texts, words(texts), strict=True):
        expected = whole(tokenizer, text)
        if tokens is None:
            continue
        assert tokens.tolist() == expected.ids, text
        lasts = words.sizes[tokens].cumsum()
        places = np.cumsum([0, *(len(letter.encode()) for letter in text)])  # of characters, in bytes
        assert lasts.tolist()[-1:] == places.tolist()[-1:] or not text
        for first, last, offsets in zip(lasts - words.sizes[tokens], lasts, expected.offsets, strict=True):
            rounded = places.searchsorted(first, "right") - 1, places.searchsorted(last, "left")
            assert rounded == offsets, text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_the_tokens_and_places_are_those_of_the_whole_text(tokenizer: Any, words: WordTokens, texts: list[str]) -> None:
    check(words, tokenizer, texts)


def test_words_that_are_remembered_are_as_good_as_new_ones(tokenizer: Any) -> None:
    """And in many thousand random texts no piece takes another's place."""
    words, chance = words_of(tokenizer), random.Random(0)
    for _ in range(20):
        check(words, tokenizer, ["".join(chance.choices(PARTS, k=chance.randint(0, 20))) for _ in range(150)])


def test_plain_text_is_spelled(words: WordTokens) -> None:
    assert all(tokens is not None for tokens in words(["Say hello, world.\n\n  It's 12 \N{GRINNING FACE}."]))


def test_a_text_that_the_tokenizer_changes_is_not_taken_for_spelled(starter: Any) -> None:
    texts = ["e\u0301 and more", "plain", "\u212b e\u0301\u0301"]  # in NFC the first and the last are other texts
    assert [tokens is None for tokens in words_of(made("qwen 2", starter))(texts)] == [True, False, True]


@pytest.mark.parametrize("name", OTHERS)
def test_tokenizers_that_may_not_cut_at_spaces_are_left_alone(starter: Any, name: str) -> None:
    assert WordTokens.of(made(name, starter), np.uint32) is None


def test_a_tokenizer_that_draws_its_tokens_is_left_alone(starter: Any) -> None:
    drawing = made("gpt-2", starter)
    assert isinstance(drawing.backend_tokenizer.model, models.BPE)
    model = drawing.backend_tokenizer.model
    model.dropout = 0.1
    drawing.backend_tokenizer.model = model
    assert WordTokens.of(drawing, np.uint32) is None


def test_a_piece_is_tokenized_once(starter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words, asked = words_of(starter), []
    encode = words._encode
    monkeypatch.setattr(words, "_encode", lambda texts: asked.extend(texts) or encode(texts))
    words(["one two two", "two one"])
    words(["one one three"])
    assert sorted(" ".join(asked).split()) == ["one", "one", "three", "two", "two"]  # two of them begin a text


def test_what_is_remembered_is_bounded(starter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tokens, "PIECES", 50)
    words = words_of(starter)
    for start in range(0, 1000, 10):
        texts = [f"say {number} words {'long' * number}" for number in range(start, start + 10)]
        check(words, starter, texts)
        assert len(words._known) <= 50
        assert all(len(piece) <= word_tokens.LETTERS for piece in words._known)
        assert words._misspelled <= words._known.keys()
