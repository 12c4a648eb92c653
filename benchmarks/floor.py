"""How close a training step comes to the time of its own matrix products.

    python app.py bench floor
    python app.py bench floor --quick     one round of a small step; nothing is kept

`t_floor / t_measured`, in bf16 and in fp32, for one optimizer step of the starter over eight rows of the workload
(rank 16 on every linear layer). `t_measured` is that step's time, always on the same rows, as the run itself reports
it: rows to tensors, forward, backward, clipping and AdamW. `t_floor` adds up what the step's matrix
products take on this machine, each alone at its best (`benchmarks.instruments.products`):

- every product of two matrices that PyTorch carries out in the step, noted while it ran: frozen layers, A and B, the
  output head, forward and backward;
- attention inside each row: two products forward and four backward, causal half, whatever way it is done in.

The tokens that all rows begin with alike (the system prompt) count once in both, since they need to be computed once.

Nothing else is in it: no norm, rotation, softmax, activation, optimizer or copy. As a check the products' operations
are compared with what the formula says that a step needs (`benchmarks.instruments.flops`): a step that does more than
it must would raise its own floor. What the time goes to is told by PyTorch's profiler (`benchmarks.instruments.costs`).

Each precision has a process of its own, in which steps and products are timed in turns; the middle of the rounds'
fractions is given, with what was measured in that round.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.instruments.process import measured
from benchmarks.results import keep, note_machine

# Eight rows of `benchmarks.workload` whose Σ S and Σ S² are those of its mean batch.
STEP = {"rows": 8, "seed": 3, "rank": 16, "rounds": 11, "steps": 1}
QUICK = {"rows": 1, "seed": 0, "rank": 2, "rounds": 1, "steps": 1}
BITS = {"bf16": 16, "fp32": 32}
WASTE = 1.02  # of the formula's operations, above which the floor is too high


def say(name: str, found: dict[str, Any]) -> None:
    """One precision's figures."""
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in found["costs"]["shares"].items())
    print(
        f"{name} ({found['compute_dtype']}): a step of {found['tokens']} tokens takes {found['measured_seconds']:.2f} s"
        f" ({found['tokens_per_second']:.0f} tokens/s), its products alone {sum(found['floor_seconds'].values()):.2f} s"
        f" ({found['floor_tokens_per_second']:.0f}): {found['fraction']:.2f}\n"
        f"    the products are {found['recorded_over_formula']:.3f} of what the formula asks for\n"
        f"    the step's time: {shares}",
        flush=True,
    )
    if found["recorded_over_formula"] > WASTE:
        print("    WARNING: the step multiplies more than it must, which raises its floor", flush=True)
    if found["operators_not_seen_into"]:
        print(f"    NOT SEEN INTO: {', '.join(found['operators_not_seen_into'])}", flush=True)


def main() -> None:
    """Measure, print, keep."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench floor")
    parser.add_argument("--quick", action="store_true", help="one round of a small step; the result is not kept")
    is_quick: bool = parser.parse_args().quick
    figures = {}
    for name, bits in BITS.items():
        order = {"bits": bits, **(QUICK if is_quick else STEP)}
        figures[name] = measured("benchmarks.instruments.floor_step", order, as_worker=True)
        say(name, figures[name])
    if not is_quick:
        keep("floor", figures)


if __name__ == "__main__":
    main()
