"""Tokenizers of many families, made of the starter's words or of a few learned here, and texts hard on them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from core.data.tokens import word_tokens

GPT2, LLAMA3, QWEN2, GPT4O = word_tokens._KNOWN
BYTES = pre.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre.ByteLevel(add_prefix_space=False, use_regex=True)


def _split(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre.Sequence([pre.Split(Regex(pattern), behavior, invert), BYTES])


def _with(**parts: Any) -> Callable[[Any], Any]:
    def change(tokenizer: Any) -> Any:
        for name, part in parts.items():
            setattr(tokenizer._tokenizer, name, part)
        return tokenizer

    return change


def _with_token(token: AddedToken) -> Callable[[Any], Any]:
    def change(tokenizer: Any) -> Any:
        tokenizer.add_tokens([token])
        return tokenizer

    return change


# Words can be looked up in these.
WORDWISE: dict[str, Callable[[Any], Any]] = {
    "gpt-2": _with(pre_tokenizer=_split(GPT2)),
    "byte level": _with(pre_tokenizer=WORDS),
    "digits apart": _with(pre_tokenizer=pre.Sequence([pre.Digits(individual_digits=True), WORDS])),
    "llama 3": _with(
        pre_tokenizer=_split(LLAMA3),
        post_processor=processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]),
        ]),
    ),
    "qwen 2": _with(pre_tokenizer=_split(QWEN2), normalizer=normalizers.NFC()),
    "gpt-4o": _with(pre_tokenizer=_split(GPT4O, "removed", True)),
    "a token that swallows the space before it": _with_token(AddedToken("<mask>", lstrip=True)),
    "a token that is a word": _with_token(AddedToken("hello", single_word=True, normalized=True)),
}  # fmt: skip

# And not in these: each is tokenized in whole texts.
OTHERS: dict[str, Callable[[Any], Any]] = {
    "whole texts": _with(pre_tokenizer=BYTES),
    "digits apart and nothing else": _with(pre_tokenizer=pre.Sequence([pre.Digits(), BYTES])),
    "space put before": _with(pre_tokenizer=pre.ByteLevel(add_prefix_space=True)),
    "places trimmed": _with(post_processor=processors.ByteLevel(trim_offsets=True)),
    "places trimmed among others": _with(
        post_processor=processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.ByteLevel()])
    ),
    "an unknown expression": _with(pre_tokenizer=_split(r"\S+ \S+|\s|\S+")),
    "a known one, the other way round": _with(pre_tokenizer=_split(GPT2, "merged_with_next")),
    "lower case": _with(normalizer=normalizers.Lowercase()),
    "compatible": _with(normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])),
    "a token that swallows the space behind it": _with_token(AddedToken("<mask>", rstrip=True)),
    "a token with a space in it": _with_token(AddedToken("hello world")),
    "no byte level": _with(pre_tokenizer=pre.Whitespace()),
    "sentencepiece": lambda tokenizer: _sentencepiece(tokenizer),
    "words alone": lambda tokenizer: _word_level(tokenizer),
}

_SAMPLE = ["Say hello world, don't! 12 345 words", "Jack and Jill\nwent up", "quick fox", "naïve café 日本"] * 3


def _sentencepiece(tokenizer: Any) -> Any:
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(_SAMPLE, trainers.BpeTrainer(vocab_size=500, special_tokens=special))
    return _wrapped(backend, tokenizer)


def _word_level(tokenizer: Any) -> Any:
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre.Whitespace()
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    backend.train_from_iterator(_SAMPLE, trainers.WordLevelTrainer(special_tokens=special))
    return _wrapped(backend, tokenizer)


def _wrapped(backend: Tokenizer, like: Any) -> Any:
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=like.chat_template, **names)


def made(name: str, starter: Any) -> Any:
    """The tokenizer `name`, made of the starter's, which is left as it is."""
    return (WORDWISE | OTHERS)[name](copy.deepcopy(starter))


PARTS = [
    "hello", "world", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "a", "Jack", "the", "I'm",
    "don't", "'S", "'", "\"", ".", ",", "...", "!?", "(", ")", "[x]", "/", "//", "-", "--", "_", "#", "1", "12", "345",
    "6789", "½", "²", "é", "e\u0301", "\u0301", "ſ", "'ſ", "ß", "İ", "Ⅷ", "ａ", "日本", "語", "。", "\u3000", "\xa0",
    "\x85", "\x1c", "\x1f", "\u200b", "\u200d", "\u2028", "\ufeff", "😀", "👩‍👩‍👧", "🏳️‍🌈", "\U0001d54f", "\x00",
    "\x7f", "\xad", "ĠĊ", "Ġ", "▁", "שלום", "नमस्ते", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<mask>", "<|im",
    "_end|>", "<unk>", "<0x0A>",
]  # fmt: skip
_LETTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
TEXTS = st.lists(st.sampled_from(PARTS) | _LETTERS, max_size=14).map("".join)
