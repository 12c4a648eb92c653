"""Does a base model in 4 bits learn what one in 16 bits learns, and what does it cost and save?

    python app.py bench four_bit
    python app.py bench four_bit --quick     two steps a run that show that the program works; nothing is kept

Both examples are trained on the starter with default settings, once over a base in 16 bits and once in 4, each in a
process of its own through the command line, one after the other. A ratio is 4 bits over 16:

- *evaluation loss*: on the held-out rows after the last step;
- *tokens a second*: in optimizer steps alone;
- *peak memory*: the training process's largest resident memory.

The quantized matrices are counted tensor by tensor (`core.models.footprint`) and compared with the same in bf16.
The figures go to `benchmarks/results/four_bit.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results import keep, note_machine

PROJECT = Path(__file__).parents[1]
QUICK_STEPS = 2
EXAMPLES = ("captain", "to_json")
FIGURES = ("eval_loss", "tokens_per_second", "peak_rss_bytes")
PROMISED = {"eval_loss_ratio": 1.05, "matrices_ratio": 0.27}


def train(example: str, bits: int, folder: Path, steps: int | None) -> dict[str, Any]:
    """One run's figures: the fields of its last event, and of its first the dtype that it computed in."""
    command = [
        sys.executable, "app.py", "train", "--json", "--data", f"examples/{example}.jsonl", "--bits", str(bits),
        "--home", str(folder / "home"), "--output", str(folder / f"{example}-{bits}"),
        *(["--steps", str(steps)] if steps is not None else []),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{example} in {bits} bits ended with {done.returncode}: {done.stderr.strip()}")
    events = {event["event"]: event for event in map(json.loads, done.stdout.splitlines())}
    started, finished = events["started"], events["finished"]
    kept = (*FIGURES, "base_eval_loss", "steps", "tokens", "seconds")
    return {"compute_dtype": started["compute_dtype"], **{name: finished[name] for name in kept}}


def compare(example: str, folder: Path, steps: int | None) -> dict[str, Any]:
    """Both runs of an example and their ratios, printed as they come."""
    runs = {}
    for bits in (16, 4):
        runs[bits] = train(example, bits, folder, steps)
        figures = "   ".join(f"{name} {runs[bits][name]:,.4g}" for name in ("base_eval_loss", *FIGURES))
        print(f"{example:8} {bits:2} bits   {figures}   {runs[bits]['compute_dtype']}", flush=True)
    ratios = {f"{name}_ratio": runs[4][name] / runs[16][name] for name in FIGURES}
    print(f"{example:8} ratio     " + "   ".join(f"{name} {value:.3f}" for name, value in ratios.items()), flush=True)
    return {"16 bits": runs[16], "4 bits": runs[4], **{name: round(value, 4) for name, value in ratios.items()}}


def matrices() -> dict[str, Any]:
    """What the starter's matrices take in 4 bits, by count and by formula, and what else takes more than 16."""
    import torch

    from core.config import QuantConfig
    from core.models.catalogue import default_models_root
    from core.models.footprint import bits_a_weight, footprint
    from core.models.load import load_model
    from core.models.starter import ensure_starter

    quant = QuantConfig(bits=4)
    folder = ensure_starter(default_models_root(), lambda text: print(text, flush=True))
    found = footprint(load_model(folder, dtype=torch.bfloat16, quant=quant).model)
    return {
        "weights": found.quantized_weights,
        "bytes_in_4_bits": found.quantized_bytes,
        "bytes_in_bf16": 2 * found.quantized_weights,
        "matrices_ratio": round(found.quantized_bytes / (2 * found.quantized_weights), 4),
        "bits_a_weight": round(found.bits_a_weight, 4),
        "bits_a_weight_by_formula": round(bits_a_weight(quant, in_features=0), 4),
        "other_bytes": found.other_bytes,
        "in_more_than_16_bits": {tensor.name: f"{tensor.dtype}, {tensor.nbytes} bytes" for tensor in found.wide},
    }


def main() -> None:
    """Measure, print, keep."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench four_bit")
    parser.add_argument("--quick", action="store_true", help="two steps a run; the result is not kept")
    is_quick: bool = parser.parse_args().quick
    steps = QUICK_STEPS if is_quick else None
    with tempfile.TemporaryDirectory() as folder:
        examples = {example: compare(example, Path(folder), steps) for example in EXAMPLES}
    sizes = matrices()
    print("matrices", sizes)
    for name, limit in PROMISED.items():
        worst = max(part[name] for part in (*examples.values(), sizes) if name in part)
        print(f"{name:18} at most {worst:.3f}   promised: at most {limit}   {'kept' if worst <= limit else 'BROKEN'}")
    if not is_quick:
        keep("four_bit", {"examples": examples, "matrices": sizes, "promised": PROMISED})


if __name__ == "__main__":
    main()
