"""Tiny random models of many architectures, loaded as a run loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.data.tokens.encoding import IGNORE, Row
from core.data.tokens.labeling import ClassRow
from core.kernels import packed_attention
from core.models.load import LoadedModel
from tests.core.tiny import random_rows

VOCABULARY = 300
WIDTH = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96}
OLD_STYLE = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY}
CAUSAL: dict[str, dict[str, Any]] = {
    "opt": WIDTH | {"ffn_dim": 96, "word_embed_proj_dim": 64, "max_position_embeddings": 64},
    "falcon": WIDTH | {"alibi": False, "multi_query": True, "new_decoder_architecture": False},
    "gptj": OLD_STYLE | {"rotary_dim": 8, "n_positions": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "state_size": 8},
    "gemma2": WIDTH | GROUPED,
    "gpt_oss": WIDTH | GROUPED | {"num_local_experts": 4},
    "bert": WIDTH | {"intermediate_size": 96},
}
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
DISENTANGLED = {
    "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16,
    "max_position_embeddings": 64,
}  # fmt: skip
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": SMALL | {"max_position_embeddings": 66},
    "deberta-v2": SMALL | DISENTANGLED,
    "llama": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
}


def causal(kind: str) -> LoadedModel:
    """A model whose attention looks at something in particular: at nothing, it would hide a leak."""
    return _loaded(AutoModelForCausalLM, CONFIG_MAPPING[kind](**CAUSAL[kind]))


def classifier(kind: str, classes: int = 3) -> LoadedModel:
    names = tuple(f"class {number}" for number in range(classes))
    config = CONFIG_MAPPING[kind](
        **CLASSIFIERS[kind], vocab_size=VOCABULARY, num_labels=classes, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    return _loaded(AutoModelForSequenceClassification, config, names)


def _loaded(kind: Any, config: Any, labels: tuple[str, ...] = ()) -> LoadedModel:
    packed_attention.register()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(config).float().eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    model.requires_grad_(False)
    device = torch.device("cpu")
    return LoadedModel(model=model, tokenizer=None, dtype=torch.float32, device=device, parameters=0, labels=labels)


def save_with_tokenizer(model: Any, folder: Path, tokenizer_folder: Path) -> Path:
    """A model folder as a user would have it."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


def rows_of(lengths: tuple[int, ...], seed: int = 0) -> list[Row]:
    """`random_rows` within this vocabulary and without the first few tokens, one of which pads."""
    drawn = random_rows(lengths, seed)
    return [
        Row([_low(token) for token in row.tokens], [_low(t) if t != IGNORE else t for t in row.labels]) for row in drawn
    ]


def _low(token: int) -> int:
    return 3 + token % (VOCABULARY - 3)


def class_rows(lengths: tuple[int, ...], classes: int = 3, seed: int = 0) -> list[ClassRow]:
    """Random tokens, none of which pads, with a class each."""
    return [ClassRow(row.tokens, index % classes) for index, row in enumerate(rows_of(lengths, seed))]
