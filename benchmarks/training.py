"""Training speed and memory beside TRL's SFTTrainer with peft, and 4 bits beside 16.

    python app.py bench training
    python app.py bench training --quick     one small round that shows that the program works; nothing is kept

Both sides train the starter on the same 400 rows (`benchmarks.workload`): the same tokens in the same order, the same
labels, eight rows an optimizer step, the same fresh adapter of rank 16 on every linear layer, fused AdamW at a constant
rate, gradients clipped at norm 1. What our encoder makes of the rows is handed to TRL tokenized. Each side runs in a
process of its own, one after the other in `ROUNDS` rounds; a figure is the median over rounds, and a ratio is taken in
each round before its median.

- *tokens a second*: real tokens of the measured steps over the seconds of these steps; filling is no token. The first
  step warms up and is not among them.
- *peak memory*: the largest resident memory of the process, loading and saving included.
- *TRL at its best*: of the settings in `benchmarks.instruments.trl_settings` that train the same, the one with the most
  tokens a second in a short run, whatever memory it takes; they run in the environment of our own workers, the
  best also without it. Grouped by length, TRL begins with the longest rows: what is measured of that
  are large batches with hardly any filling, and the memory that these take.
- *losses*: of the first steps of both, from the same weights on the same rows. They differ by rounding.

The order of rows is that of `SEED`, under which the measured steps are filled up about as much as an epoch is.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.instruments import our_training
from benchmarks.instruments.process import MeasurementFailed, measured
from benchmarks.instruments.requirements import require
from benchmarks.instruments.rounds import loss_difference, memory_ratio, side, speed_ratio, tokens_per_second
from benchmarks.instruments.starting_point import LEARNING_RATE, Bits, our_config
from benchmarks.instruments.trl_settings import AS_IT_COMES, CANDIDATES, PADDING_FREE, Setting
from benchmarks.results import keep, note_machine
from core.config import to_dict

SEED, RANK, ALPHA = 72, 16, 32
ROUNDS, STEPS, CANDIDATE_STEPS = 3, 4, 3  # steps with the one that warms up
OURS, OURS_4_BITS, OURS_FP32 = "ours, 16 bits", "ours, 4 bits", "ours, fp32"
BITS: dict[str, Bits] = {OURS: 16, OURS_4_BITS: 4, OURS_FP32: 32}
PLAIN, BEST = "TRL as it comes", "TRL at its best"
ORDER = (OURS, PLAIN, OURS_4_BITS, BEST, OURS_FP32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Where both sides begin, and how long they train."""

    folder: Path
    candidates: tuple[Setting, ...] = CANDIDATES
    rows: int = 400
    batch_size: int = 8
    rounds: int = ROUNDS
    steps: int = STEPS

    def prepare(self) -> dict[str, Any]:
        """Write what both begin with; the base's folder and what the rows are like."""
        settings = {"rank": RANK, "alpha": ALPHA, "seed": SEED, "batch_size": self.batch_size}
        order = {"folder": str(self.folder), "rows": self.rows, "settings": settings}
        found = measured("benchmarks.instruments.starting_point", order)
        return {name: found[name] for name in ("model", "rows", "tokens", "labels", "filled_up", "shared_beginning")}

    def ours(self, bits: Bits) -> dict[str, Any]:
        """One run of our engine over a base in `bits` bits."""
        config = our_config(rank=RANK, alpha=ALPHA, seed=SEED, batch_size=self.batch_size, steps=self.steps, bits=bits)
        return our_training.train(self.folder / "rows.jsonl", to_dict(config))

    def theirs(self, setting: Setting, model: str, steps: int) -> dict[str, Any]:
        """One run of TRL."""
        order = {
            "folder": str(self.folder), "model": model, "steps": steps, "learning_rate": LEARNING_RATE,
            "rows_at_once": min(setting.sequences, self.batch_size), "setting": asdict(setting),
        }  # fmt: skip
        return measured("benchmarks.instruments.trl_training", order, as_worker=setting.is_tuned)


def say(label: str, run: dict[str, Any]) -> None:
    """One run's figures, as they come."""
    print(
        f"{label:72} {tokens_per_second(run):7.1f} tokens/s {run['peak_rss_bytes'] / 1e9:6.2f} GB"
        f"   first loss {run['losses'][0]:.4f}   others took {run['others_share']:.0%} of the machine",
        flush=True,
    )


@dataclass(slots=True)
class Trials:
    """Short runs of TRL: what they took by their setting's label, and why some could not be done."""

    comparison: Comparison
    model: str
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def best(self) -> Setting:
        """The fastest candidate that trains the same, with our environment or without it.

        Raises:
            MeasurementFailed: none can be run.
        """
        fastest = self._fastest([setting for setting in self.comparison.candidates if self._try(setting)])
        bare = replace(fastest, is_tuned=False, label=f"{fastest.label}; in its own environment")
        return self._fastest([fastest, *([bare] if self._try(bare) else [])])

    def leanest_bytes(self) -> int:
        """The least memory that any candidate that trains the same took at its peak."""
        eligible = {setting.label for setting in self.comparison.candidates if setting.trains_the_same}
        return min(int(run["peak_rss_bytes"]) for label, run in self.runs.items() if label in eligible)

    def _try(self, setting: Setting) -> bool:
        try:
            run = self.comparison.theirs(setting, self.model, CANDIDATE_STEPS)
        except MeasurementFailed as error:  # a setting may be refused by another version; the others still stand
            self.failures[setting.label] = str(error)
            print(f"TRL, {setting.label}: {error}", flush=True)
            return False
        self.runs[setting.label] = run
        say(f"TRL, {setting.label}", run)
        return True

    def _fastest(self, settings: Sequence[Setting]) -> Setting:
        eligible = [setting for setting in settings if setting.trains_the_same]
        if not eligible:
            raise MeasurementFailed("TRL ran with none of the settings")
        return max(eligible, key=lambda setting: tokens_per_second(self.runs[setting.label]))


def compete(comparison: Comparison, best: Setting, model: str) -> dict[str, list[dict[str, Any]]]:
    """All runs of all sides, round by round."""
    runs: dict[str, list[dict[str, Any]]] = {label: [] for label in ORDER}
    for number in range(comparison.rounds):
        print(f"round {number + 1} of {comparison.rounds}", flush=True)
        for label in ORDER:
            if label in BITS:
                run = comparison.ours(BITS[label])
            else:
                run = comparison.theirs(AS_IT_COMES if label == PLAIN else best, model, comparison.steps)
            runs[label].append(run)
            say(label, run)
    return runs


def compare(comparison: Comparison) -> dict[str, Any]:
    """All figures."""
    shared = comparison.prepare()
    model = str(shared.pop("model"))
    trials = Trials(comparison, model)
    best = trials.best()
    runs = compete(comparison, best, model)
    ours = side(runs[OURS])["peak_rss_bytes"]
    return {
        "shared": {**shared, "batch_size": comparison.batch_size, "rank": RANK, "alpha": ALPHA, "seed": SEED},
        "settings": {PLAIN: asdict(AS_IT_COMES), BEST: asdict(best)},
        "candidates": {label: side([run]) for label, run in trials.runs.items()},
        "failures": trials.failures,
        "sides": {label: side(found) for label, found in runs.items()},
        "ratios": {**ratios(runs), "memory_of_leanest": ours / trials.leanest_bytes()},
        "losses": losses(comparison, runs, trials.runs),
    }


def ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """What is promised, by the names that `benchmarks.promises` knows."""
    return {
        "speed_over_plain": speed_ratio(runs[OURS], runs[PLAIN]),
        "speed_over_best": speed_ratio(runs[OURS], runs[BEST]),
        "memory_of_plain": memory_ratio(runs[OURS], runs[PLAIN]),
        "memory_of_best": memory_ratio(runs[OURS], runs[BEST]),
        "four_bits_over_sixteen": speed_ratio(runs[OURS_4_BITS], runs[OURS]),
        "fp32_over_plain": speed_ratio(runs[OURS_FP32], runs[PLAIN]),
    }


def losses(
    comparison: Comparison, runs: dict[str, list[dict[str, Any]]], tried: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """How far our losses are from TRL's on the same rows: fp32 beside fp32, and bf16 beside each bf16 setting."""
    alike = [
        setting.label
        for setting in comparison.candidates
        if setting.takes_our_batches and setting.model.get("dtype") == "bfloat16" and setting.label in tried
    ]
    return {
        "fp32": loss_difference(runs[OURS_FP32][0], runs[PLAIN][0]),
        "bf16": {label: loss_difference(runs[OURS][0], tried[label]) for label in alike},
        "bf16_beside_fp32": loss_difference(runs[OURS][0], runs[OURS_FP32][0]),
    }


def main() -> None:
    """Measure, print, keep."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench training")
    parser.add_argument("--quick", action="store_true", help="one small round; the result is not kept")
    is_quick: bool = parser.parse_args().quick
    require("trl", "peft", "datasets")
    with tempfile.TemporaryDirectory() as name:
        small = {"candidates": (PADDING_FREE,), "rows": 12, "batch_size": 2, "rounds": 1, "steps": 2}
        figures = compare(Comparison(folder=Path(name), **(small if is_quick else {})))  # type: ignore[arg-type]
    for label, value in {**figures["ratios"], "largest difference of fp32 losses": figures["losses"]["fp32"]}.items():
        print(f"{label:36} {value:9.3g}")
    if not is_quick:
        keep("training", figures)


if __name__ == "__main__":
    main()
