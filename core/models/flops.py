"""How many floating-point operations a token takes in training, from a model's shapes, without torch.

N weights in the blocks' matrices, N' of them from the lowest trained block up, d the width, V the vocabulary, L blocks,
S a row's length; a multiplication with its addition counts two:

    forward      2 N + 2 d V + 2 L S d_query       (attention is causal: half of 4 L S d_query)
    backward     2 N' + 2 d V + twice the attention, and 2 N' + 2 d V more where the weights themselves are trained
    updates      6 for each number of A and B
    checkpointed blocks are computed twice: the forward pass once more, but for the head

Every token counts as one with a label, so it is an upper bound for rows whose prompts have none.
"""

from __future__ import annotations

from core.config import RunConfig
from core.models.memory import ModelShape, Trained


def flops_a_token(config: RunConfig, shape: ModelShape, trained: Trained, length: float) -> float:
    """What a token costs in a row of `length` tokens."""
    weights = sum(out * inside for out, inside in shape.matrices.values())
    reached = max(0, shape.blocks - trained.first_block) / max(1, shape.blocks)
    head = 2 * shape.width * shape.vocabulary if config.task == "chat" else 0
    attention = 2 * shape.blocks * length * shape.query
    forward = 2 * weights + attention
    backward = reached * (2 * weights + 2 * attention)
    again = reached * forward if config.optim.checkpointing else 0
    own = 2 * weights + head if config.method == "full" else 6 * trained.parameters
    return forward + backward + again + 2 * head + own
