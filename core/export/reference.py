"""What our own engine answers with an adapter on its base: the measure that exports are held against.

A few questions are put as in a chat; after each the likeliest token is written again and again. The logits in front of
each of these tokens are kept. A classifier is asked for its logits alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.adapters.inject import activate
from core.adapters.merge import load_adapted, merged_whole
from core.config import QuantConfig
from core.data.records import Message
from core.data.tokens.templates import ensure_template, render
from core.export.verdict import ORDER_OF_SUMS, ROUNDING
from core.models.load import LoadedModel

QUESTIONS = (
    "Hello! Who are you?",
    "What is a star? Answer in one sentence.",
    "Write a line of Python that prints 17 + 25.",
    "Übersetze: the sea is calm today.",
)
ANSWER_TOKENS = 16
BLOCK = 32  # numbers that share a scale in q8_0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Questions, as tokens with our answers behind them, and the logits `[tail, vocabulary]` fp32 of their last
    positions, each of which names the next token. `prompts` has nothing for a question that was cut, or that no chat
    template of the tokenizer's own was put around: then `template` is empty. `moved` is by how much of their spread
    logits move with weights that are moved as each storage rounds them, by its name in `verdict.ROUNDING`.
    """

    questions: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    sequences: tuple[tuple[int, ...], ...]
    logits: tuple[Tensor, ...]
    labels: int
    template: str
    moved: Mapping[str, float]

    @property
    def tails(self) -> tuple[int, ...]:
        """How many positions of each sequence have logits here."""
        return tuple(each.shape[0] for each in self.logits)


@torch.inference_mode()
def ask(
    adapter_folder: Path,
    model_folder: Path,
    quant: QuantConfig | None = None,
    storages: Sequence[str] = ("float32",),
) -> Reference:
    """Load both in fp32 and ask.

    Args:
        storages: of what the answer is to be compared with.
        quant: how the base is to be quantized, where that is the model the export is to be.

    Raises:
        AdapterError, ModelError: the adapter or the base cannot be read, or do not fit each other.
    """
    loaded, key = load_adapted(adapter_folder, model_folder, dtype=torch.float32, quant=quant)
    activate(loaded.model, key)
    template = "" if loaded.labels or ensure_template(loaded.tokenizer) else str(loaded.tokenizer.chat_template)
    whole = [_tokens(loaded, question) for question in QUESTIONS]
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    prompts = [tokens if limit is None else tokens[-(limit - ANSWER_TOKENS) :] for tokens in whole]
    if loaded.labels:
        sequences, logits = prompts, [_last(loaded, prompt, 1) for prompt in prompts]
    else:
        sequences, logits = zip(*(_answer(loaded, prompt) for prompt in prompts), strict=True)  # type: ignore[assignment]
    with merged_whole(loaded, key, None) if quant is not None else nullcontext():  # packed weights cannot be moved
        moved = _moved(loaded, sequences, logits, storages)
    return Reference(
        questions=QUESTIONS,
        prompts=tuple(
            tuple(tokens) if template and tokens == cut else () for tokens, cut in zip(whole, prompts, strict=True)
        ),
        sequences=tuple(map(tuple, sequences)),
        logits=tuple(logits),
        labels=len(loaded.labels),
        template=template,
        moved=moved,
    )


def _answer(loaded: LoadedModel, prompt: list[int]) -> tuple[list[int], Tensor]:
    """The prompt with the greedy answer but its last token behind it, and the logits from the prompt's end on."""
    tokens = list(prompt)
    output = loaded.model(input_ids=_row(tokens), use_cache=True)
    for _ in range(ANSWER_TOKENS - 1):
        tokens.append(int(output.logits[0, -1].argmax()))
        output = loaded.model(input_ids=_row(tokens[-1:]), past_key_values=output.past_key_values, use_cache=True)
    return tokens, _last(loaded, tokens, ANSWER_TOKENS)


def _moved(
    loaded: LoadedModel, sequences: Sequence[Sequence[int]], logits: Sequence[Tensor], storages: Sequence[str]
) -> dict[str, float]:
    """What moving every weight does, storage by storage, the finest first; the model is spoiled by it."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for storage in sorted(storages, key=ROUNDING.__getitem__):
        for parameter in loaded.model.parameters():
            if parameter.is_floating_point():
                _move(parameter.data, storage, generator)
        pairs = [(ours, _last(loaded, tokens, len(ours))) for ours, tokens in zip(logits, sequences, strict=True)]
        found[storage] = max(difference(ours, moved) for ours, moved in pairs)
    return found


def _move(weight: Tensor, storage: str, generator: torch.Generator) -> None:
    """Move each number by a share of its size, or of the largest of its block, that is drawn evenly from ±ε."""
    size = weight.abs()
    if storage == "q8_0" and weight.ndim > 1 and weight.shape[-1] % BLOCK == 0:
        blocks = size.reshape(*size.shape[:-1], -1, BLOCK)
        size = blocks.amax(-1, keepdim=True).expand_as(blocks).flatten(-2)
    drawn = torch.rand(weight.shape, generator=generator).mul_(2).sub_(1).to(weight.device)
    weight += (ROUNDING[storage] + ORDER_OF_SUMS) * drawn * size


def _last(loaded: LoadedModel, tokens: Sequence[int], positions: int) -> Tensor:
    """Logits `[positions, vocabulary]` of the last positions, or a classifier's `[1, classes]`."""
    found: Tensor = loaded.model(input_ids=_row(tokens)).logits[0].float()
    return (found if found.ndim == 2 else found[None])[-positions:].clone()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, in units of the spread of ours; infinite where theirs are no numbers."""
    found = float((ours - theirs).abs().max() / ours.std())
    return found if found == found else math.inf


def _tokens(loaded: LoadedModel, question: str) -> list[int]:
    if loaded.labels:
        return list(loaded.tokenizer(question)["input_ids"])
    text = render(loaded.tokenizer, (Message(role="user", content=question),), opening=True)
    return list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


def _row(tokens: Sequence[int]) -> Tensor:
    return torch.tensor([list(tokens)])
