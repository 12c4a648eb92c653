"""Rows with adapters of their own in one batch, under transformers' `generate`: each gets what it gets alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from core.adapters.inject import activate, routed
from core.adapters.layer import Mix
from tests.core.parity.architectures import FIRST_WORD, VOCABULARY
from tests.core.parity.cases import CASES
from tests.core.parity.twins import KEY, NEIGHBOR, Twins

MIXES: tuple[Mix, ...] = ((), ((KEY, 1.0),), ((NEIGHBOR, 1.0),), ((KEY, -1.0),), ((KEY, 0.6), (NEIGHBOR, 0.8)))
PROMPT, ANSWER = 5, 7  # tokens
NAMES = (
    "llama-linear-plain",
    "gpt2-linear-bias-all-dora",
    "llama-linear-4-bit-dora",
    "gemma3_text-tied-plain",
    "phi3-part-plain",
    "mixtral-experts-plain",
    "llama-tokens-plain",
    "opt-whole-dora",
)


class Lots:
    """Makes greedy decoding a sampling one: Gumbel noise on the scores, drawn for each row by its number (a logits
    processor in transformers' sense). Drawing from a batch's shared stream, a row would depend on its neighbors."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = rows

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        noise = [self._drawn(row, tokens.shape[1]) for row in self.rows]
        return scores + torch.stack(noise)

    def _drawn(self, row: int, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * row + length)
        return -torch.empty(VOCABULARY).exponential_(generator=generator).log()


@pytest.fixture(scope="module", params=NAMES)
def adapted(request: pytest.FixtureRequest) -> Twins:
    return Twins(next(case for case in CASES if str(case) == request.param))


def prompts() -> Tensor:
    """The same words for all rows, so that what differs between answers is the adapters' doing."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(FIRST_WORD, VOCABULARY, (1, PROMPT), generator=generator)
    return words.expand(len(MIXES), -1)


def answers(model: Any, rows: Sequence[int], **how: Any) -> Tensor:
    """What the rows of those numbers are answered with, `[rows, tokens]`, in one batch."""
    tokens = prompts()[list(rows)]
    activate(model, None)
    with routed(model, [MIXES[row] for row in rows], torch.float32):
        given: Tensor = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            min_new_tokens=ANSWER,
            max_new_tokens=ANSWER,
            **how,
        )
    return given[:, PROMPT:]


def test_sampling_a_mixed_batch_gives_each_row_what_it_gets_alone(adapted: Twins) -> None:
    every = range(len(MIXES))
    together = answers(adapted.ours, every, logits_processor=[Lots(every)])
    for row in every:
        assert torch.equal(together[row : row + 1], answers(adapted.ours, [row], logits_processor=[Lots([row])]))


def test_beam_search_over_a_mixed_batch_gives_each_row_what_it_gets_alone(adapted: Twins) -> None:
    every = range(len(MIXES))
    together = answers(adapted.ours, every, num_beams=3)
    for row in every:
        assert torch.equal(together[row : row + 1], answers(adapted.ours, [row], num_beams=3))
    assert len(together.unique(dim=0)) > 2  # adapters matter
