"""Which dtype this machine computes matrix products fastest in, found by measuring.

bf16 halves memory everywhere, but a CPU without bf16 instructions emulates it slowly. A few products of a
transformer's shape, which take milliseconds, tell more than a list of processor flags.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

TOKENS, WIDTH, REPEATS = 512, 1024, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The dtype to store and compute in, and the sentence that says why."""

    dtype: torch.dtype
    reason: str


def best_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def choose_precision(device: torch.device, bits: int) -> Precision:
    """fp32 if `bits` asks for it; else bf16 where it is at least as fast as fp32 on `device`, else fp32."""
    if bits == 32:
        return Precision(dtype=torch.float32, reason="fp32, as asked")
    half, full = _seconds(device, torch.bfloat16), _seconds(device, torch.float32)
    ratio = full / half
    if ratio >= 1:
        return Precision(
            dtype=torch.bfloat16, reason=f"bf16: measured {ratio:.1f} times as fast as fp32 on this machine"
        )
    return Precision(dtype=torch.float32, reason=f"fp32: bf16 measured {1 / ratio:.1f} times slower on this machine")


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    x = torch.ones(TOKENS, WIDTH, device=device, dtype=dtype)
    w = torch.ones(WIDTH, WIDTH, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        (x @ w)[0, 0].item()  # the read waits for a GPU
        best = min(best, time.perf_counter() - begin)
    return best
