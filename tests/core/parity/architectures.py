"""Tiny random models of every architecture that the suite compares on, and padded batches for them.

Their own dropout is 0, so that training mode draws none but the adapters'. Weights are drawn wide: with the usual
narrow ones attention is nearly uniform, and a wrong q or k would hardly be seen in the logits.
"""

from __future__ import annotations

import functools
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY, CLASSES, WIDTH = 160, 3, 32
PAD, FIRST_WORD = 0, 3
LENGTHS = (9, 6, 4)
IGNORED = -100  # by transformers' losses

_SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_GROUPED = _SHAPE | {"num_key_value_heads": 2, "head_dim": 8}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DISENTANGLED = {
    "relative_attention": True, "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16,
    "norm_rel_ebd": "layer_norm", "position_biased_input": False,
}  # fmt: skip
_CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64}
    | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "mistral": _GROUPED,
    "gemma3_text": _GROUPED,
    "phi3": _GROUPED,
    "gpt_neox": _SHAPE,
    "opt": _SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": WIDTH, "dropout": 0.0},
    "falcon": _SHAPE,
    "mixtral": _GROUPED | {"num_local_experts": 4},
    "qwen3_moe": _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "gpt_oss": _GROUPED
    | {"num_local_experts": 4, "num_experts_per_tok": 2}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "roberta": _SHAPE | _NO_DROPOUT,
    "deberta-v2": _SHAPE | _NO_DROPOUT | _DISENTANGLED,
    "bert": _SHAPE | _NO_DROPOUT,
}
MIXTURES = ("mixtral", "qwen3_moe", "gpt_oss")
ARCHITECTURES = tuple(name for name in _CONFIGS if name not in MIXTURES[1:])
CLASSIFIERS = ("roberta", "deberta-v2", "bert")


class Convolutions(nn.Module):
    """A text classifier without attention: embeddings seen as a picture, then convolutions of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.picture = nn.Conv2d(1, 6, kernel_size=(3, 2), stride=(1, 2), padding=(1, 0))
        self.line = nn.Conv1d(6 * 8, 12, kernel_size=3, padding=1)
        self.point = nn.Conv1d(12, 12, kernel_size=1)
        self.classifier = nn.Linear(12, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Logits `[batch, classes]`, and the loss where there are `labels` `[batch]`."""
        seen = attention_mask[:, None, :, None]
        drawn = self.picture(self.embed(input_ids)[:, None] * seen).tanh() * seen  # [batch, 6, length, 8]
        line = self.point(self.line(drawn.permute(0, 1, 3, 2).flatten(1, 2)).tanh()).tanh()
        logits = self.classifier((line * seen[..., 0]).sum(-1))
        found = {"logits": logits}
        return found if labels is None else found | {"loss": nn.functional.cross_entropy(logits, labels)}


@functools.cache
def _pristine(architecture: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if architecture == "convolutions":
            model: nn.Module = Convolutions()
        else:
            kind = AutoModelForSequenceClassification if architecture in CLASSIFIERS else AutoModelForCausalLM
            model = kind.from_config(_config(architecture), dtype=torch.float32)
            _widen(model)
    return model.eval()


def _config(architecture: str) -> Any:
    """With a vocabulary of its own, so that no special token of a real model lies outside."""
    return CONFIG_MAPPING[architecture](
        **_CONFIGS[architecture],
        vocab_size=VOCABULARY,
        num_labels=CLASSES,
        max_position_embeddings=64,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=2,
    )


def _widen(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(5)
        else:
            parameter.data.add_(0.1 * torch.randn(parameter.shape))  # biases are zero and gains one otherwise


def build(architecture: str) -> nn.Module:
    """A model of its own, in fp32 and evaluation mode; the same each time."""
    return deepcopy(_pristine(architecture))


def batch(architecture: str, seed: int) -> dict[str, Tensor]:
    """Padded rows of random tokens with their mask and labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST_WORD, VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    ids = ids * mask + PAD * (1 - mask)
    if architecture in (*CLASSIFIERS, "convolutions"):
        labels = torch.randint(CLASSES, (len(LENGTHS),), generator=generator)
    else:
        labels = ids.masked_fill(mask == 0, IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
