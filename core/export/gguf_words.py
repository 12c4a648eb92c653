"""A tokenizer as llama.cpp reads it, for byte-level BPE: the metadata `tokenizer.*` of a GGUF file.

llama.cpp does not read regular expressions from the file. It knows some ways of cutting a text by name, each written
out in its source (`llama-vocab.cpp`), and the name here says which of them the tokenizer's own rules are:

    gpt-2      the rule that tokenizers' ByteLevel has built in
    smollm     single digits first, then that rule
    llama-bpe  Llama 3's expression, digits by threes, and words that are tokens are taken whole
    qwen2      nearly the same, digits one by one; the text is in NFC (which llama.cpp leaves to its callers)

A tokenizer of any other make is refused: the same text would become other tokens.
"""

from __future__ import annotations

import json
from typing import Any

import gguf

from core.errors import ModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BY_EXPRESSION = {
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"\p{N}" + _REST: "qwen2",
}


def write_words(writer: gguf.GGUFWriter, tokenizer: Any, rows: int) -> None:
    """Put the tokenizer into `writer`, with a word for each of the embedding's `rows`.

    Raises:
        ModelError: llama.cpp would cut texts in another way.
    """
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    words, types = _words(said, rows)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(way_of_cutting(said))
    writer.add_token_list(words)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in said["model"]["merges"]])
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if token is not None:
            add(token)
    plain, marked = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    writer.add_add_bos_token(marked[0] != plain[0] and marked[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(marked[-1] != plain[-1] and marked[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def way_of_cutting(said: dict[str, Any]) -> str:
    """llama.cpp's name for how the tokenizer `said`, a tokenizer.json, cuts a text before it merges.

    Raises:
        ModelError: it has none.
    """
    model = said["model"]
    is_plain = model["type"] == "BPE" and not any(
        model.get(key) for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout")
    )
    name = _name(said.get("pre_tokenizer") or {}) if is_plain else None
    normalizer = (said.get("normalizer") or {}).get("type")
    takes_whole = bool(model.get("ignore_merges"))
    if (
        name is None
        or takes_whole != (name == "llama-bpe")
        or normalizer not in ({None, "NFC"} if name == "qwen2" else {None})
    ):
        raise ModelError(
            "llama.cpp has no name for the way in which this model's tokenizer cuts a text",
            hint="Export the merged model in transformers' format, and convert it with llama.cpp's own program",
        )
    return name


def _name(cutting: dict[str, Any]) -> str | None:
    steps = cutting["pretokenizers"] if cutting.get("type") == "Sequence" else [cutting]
    *before, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if last.get("use_regex", True):
        if not before:
            return "gpt-2"
        digits = {"type": "Digits", "individual_digits": True}
        return "smollm" if before == [digits] else None
    if (
        len(before) != 1
        or before[0].get("type") != "Split"
        or before[0].get("behavior") != "Isolated"
        or before[0].get("invert")
    ):
        return None
    return _BY_EXPRESSION.get(before[0]["pattern"].get("Regex", ""))


def _words(said: dict[str, Any], rows: int) -> tuple[list[str], list[gguf.TokenType]]:
    """Every token as it is spelled, in order, and what it is for."""
    words = [f"[PAD{number}]" for number in range(rows)]
    types = [gguf.TokenType.UNUSED] * rows
    found = [(word, number, gguf.TokenType.NORMAL) for word, number in said["model"]["vocab"].items()]
    for token in said["added_tokens"]:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        found.append((token["content"], token["id"], kind))
    for word, number, kind in found:
        if number >= rows:
            raise ModelError(f"The token {word!r} has no row in the embedding", hint="Choose another base model")
        words[number], types[number] = word, kind
    return words, types
