"""To how many rows a step is filled up, so that none of its numbers depend on how many there are.

A library that multiplies matrices takes other roads for other numbers of rows: one for a single row, another for some,
and their sums are ordered in other ways. So steps are taken in a few sizes alone, which are tried with the loaded model
itself: different rows take a step, each alone and beside others, in all sizes from a smallest one on, and the logits of
each must be the same to the bit. What the smallest is that lets them be is a matter of the machine. Where it is two, a
row alone costs next to nothing more, as the time goes into reading the weights; where it is sixteen, an answer that is
written alone costs as much as that many.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.generate.attention import NAME

if TYPE_CHECKING:
    from core.generate.decoder import Decoder, Row

SIZES = (2, 4, 8, 16)
TRIED = 6  # rows that differ
PROMPTS = ((3, 1, 4, 1, 5), (2, 7, 1, 8, 2, 8, 1, 8, 2, 8))
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}  # of the norm, joined beside alone

log = logging.getLogger(__name__)


@torch.inference_mode()
def equal_sizes(decoder: Decoder) -> tuple[int, ...]:
    """The sizes that give equal numbers, the largest of them `SIZES[-1]`; none where rows cannot be joined at all."""
    if getattr(decoder.loaded.model.config, "_attn_implementation", None) != NAME:
        return ()
    try:
        rows = [decoder.read(prompt, None, keeps=False) for prompt in PROMPTS]
        if not _can_be_joined(decoder, rows):
            return ()
        steps = [(rows[at % len(rows)], at) for at in range(TRIED)]
        for least, size in enumerate(SIZES):
            alone = [_logits(decoder, [step], size)[0] for step in steps]
            if all(_are_equal(decoder, steps, alone, larger) for larger in SIZES[least:]):
                return SIZES[least:]
    except Exception as error:  # noqa: BLE001, a model that was not made for this may raise anything
        log.info("Rows of this model are written one after the other: %s", error)
    finally:
        decoder.rest()
    return ()


def _can_be_joined(decoder: Decoder, rows: list[Row]) -> bool:
    """Whether the model attends to each row's own keys; if it did not, its logits would be quite other ones."""
    joined = _logits(decoder, [(row, 1) for row in rows], SIZES[0])
    alone = torch.stack([decoder.step_alone(row.branch(), 1) for row in rows])
    return bool((joined - alone).float().norm() <= TOLERANCE[alone.dtype] * alone.float().norm())


def _logits(decoder: Decoder, steps: list[tuple[Row, int]], size: int) -> Tensor:
    """`[rows, vocab]` behind one more token of each row, as if they had never taken it."""
    return decoder.step_together([row.branch() for row, _ in steps], [token for _, token in steps], size)


def _are_equal(decoder: Decoder, steps: list[tuple[Row, int]], alone: list[Tensor], size: int) -> bool:
    """Whether a step of so many rows gives each what it gets `alone`, wherever it stands."""
    order = [at % len(steps) for at in range(size)]
    together = _logits(decoder, [steps[at] for at in order], size)
    return all(torch.equal(found, alone[at]) for at, found in zip(order, together, strict=True))
