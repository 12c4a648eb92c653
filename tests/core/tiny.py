"""A tiny real model, rows to feed it, and adapters that change it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from core.adapters.inject import inject, lora_layers
from core.config import LoraConfig
from core.data.records import Conversation, Message
from core.data.tokens.encoding import IGNORE, Row

VOCABULARY = 49152
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """Two random layers of width 64, drawn wide enough that attention and every layer matter to the logits.

    No token pads: a padding token's embedding would be zero, and with a tied head it could never be learned.
    """
    settings = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": VOCABULARY, "tie_word_embeddings": True, "initializer_range": 0.1,
        "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).float().eval()
    model.model.norm.weight.data.fill_(3.0)  # so that the frozen head can be certain of a token, as a trained one can
    return model


def random_rows(lengths: Sequence[int], seed: int = 0, labeled: float = 0.6) -> list[Row]:
    """Rows of random tokens; about the share `labeled` of the positions, and always the last, have a random label."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        tokens, labels = torch.randint(3, VOCABULARY, (2, length), generator=generator)
        masked = torch.rand(length, generator=generator) >= labeled
        masked[-1] = False
        rows.append(Row(tokens.tolist(), labels.masked_fill(masked, IGNORE).tolist()))
    return rows


def adapt(
    model: nn.Module,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    targets: tuple[str, ...] = LINEARS,
    key: str = "a",
    seed: int = 1,
    use_dora: bool = False,
) -> LoraConfig:
    """Inject an adapter whose B is not zero, so that it changes what the model says; returns its settings."""
    config = LoraConfig(rank=rank, alpha=alpha, targets=targets, use_dora=use_dora)
    inject(model, config, key=key, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        update = layer.update(key)
        if update is not None:
            update.b.data.copy_(torch.randn(update.b.shape, generator=generator) * 0.1)
    return config


def packed_inputs(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """What a model that attends with `packed_attention` is called with."""
    ends = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return {
        "input_ids": torch.tensor([token for row in rows for token in row])[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
        "cu_seq_lens_q": ends.to(torch.int32),
    }


def packed_logits(model: Any, tokens: Sequence[int]) -> Tensor:
    """`[length, vocab]` logits of one row, by a model that attends with `packed_attention`."""
    with torch.no_grad():
        logits: Tensor = model(**packed_inputs([tokens]), use_cache=False).logits[0]
    return logits


def plain_logits(model: Any, tokens: Sequence[int]) -> Tensor:
    """`[length, vocab]` logits of one row, by a model that attends with an attention of transformers'."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return logits


def bits(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of `model`, to compare with later."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def conversation(*turns: str, system: str | None = None, row: int = 1) -> Conversation:
    """Turns by the user and the assistant in alternation."""
    roles = ("user", "assistant")
    messages = [Message(role=roles[i % 2], content=text) for i, text in enumerate(turns)]
    if system is not None:
        messages.insert(0, Message(role="system", content=system))
    return Conversation(messages=tuple(messages), source_row=row)


def padded_loss(model: Any, rows: Sequence[Row]) -> Tensor:
    """The textbook's step: pad to the longest row, mask, form all logits, take the mean over the labels."""
    longest = max(len(row.tokens) for row in rows)
    padding = [longest - len(row.tokens) for row in rows]
    tokens = torch.tensor([row.tokens + [2] * extra for row, extra in zip(rows, padding, strict=True)])
    labels = torch.tensor([row.labels + [IGNORE] * extra for row, extra in zip(rows, padding, strict=True)])
    mask = torch.tensor([[1] * len(row.tokens) + [0] * extra for row, extra in zip(rows, padding, strict=True)])
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    return cross_entropy(logits.reshape(-1, VOCABULARY), labels.reshape(-1), ignore_index=IGNORE)


def rows_of_step(rows: Sequence[Row], step: int, batch_size: int, seed: int) -> list[Row]:
    """The rows of optimizer step `step`, by shuffling all of them anew at each step."""
    epoch, index = divmod(step, math.ceil(len(rows) / batch_size))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(rows), generator=generator).tolist()
    return [rows[number] for number in order[index * batch_size : (index + 1) * batch_size]]
