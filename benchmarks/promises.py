"""What the project promises about speed and memory, and whether the last results keep it.

Each promise names the figure that it is about by its place in a result file. A figure that was never measured is no
kept promise: it is said to be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MISSING, KEPT, BROKEN = "NOT MEASURED", "KEPT", "BROKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """`at_least` or `at_most` bounds the figure at `place` in the results of `benchmark`; in print `unit` follows."""

    about: str
    against: str
    benchmark: str
    place: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"

    @property
    def bound(self) -> str:
        """The promise itself, as it is printed."""
        sign, value = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {value:g}{self.unit}"

    def judge(self, results: Mapping[str, Any] | None) -> Verdict:
        """What the results say of it."""
        found: Any = results
        for name in self.place:
            found = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(found, int | float):
            return Verdict(self, None)
        return Verdict(self, float(found))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise beside what was measured, None where nothing was."""

    promise: Promise
    measured: float | None

    @property
    def word(self) -> str:
        """Kept, broken or not measured."""
        if self.measured is None:
            return MISSING
        above = self.promise.at_least is None or self.measured >= self.promise.at_least
        below = self.promise.at_most is None or self.measured <= self.promise.at_most
        return KEPT if above and below else BROKEN

    @property
    def figure(self) -> str:
        """What was measured, as it is printed."""
        return "–" if self.measured is None else f"{self.measured:.3g}{self.promise.unit}"


PLAIN, BEST, OURSELVES = "TRL + peft as it comes", "TRL + peft at its best", "our own 16 bits"
FLOOR = "its own matrix products"

PROMISES = (
    Promise(about="tokens a second in training, 16-bit base", against=PLAIN, benchmark="training",
            place=("ratios", "speed_over_plain"), at_least=8),
    Promise(about="tokens a second in training, 16-bit base", against=BEST, benchmark="training",
            place=("ratios", "speed_over_best"), at_least=4.5),
    Promise(about="peak memory of the training process", against=PLAIN, benchmark="training",
            place=("ratios", "memory_of_plain"), at_most=0.14),
    Promise(about="peak memory of the training process", against=BEST, benchmark="training",
            place=("ratios", "memory_of_best"), at_most=0.17),
    Promise(about="tokens a second in training, 4-bit base", against=OURSELVES, benchmark="training",
            place=("ratios", "four_bits_over_sixteen"), at_least=0.9),
    Promise(about="t_floor / t_measured in bf16", against=FLOOR, benchmark="floor",
            place=("bf16", "fraction"), at_least=0.55, unit=""),
    Promise(about="t_floor / t_measured in fp32", against=FLOOR, benchmark="floor",
            place=("fp32", "fraction"), at_least=0.7, unit=""),
    Promise(about="time of 4 chat panes", against="1 pane, same length", benchmark="chat",
            place=("ratios", "four_panes_over_one"), at_most=1.4),
    Promise(about="speed of 4 chat panes", against="transformers and peft, one after another", benchmark="chat",
            place=("ratios", "over_transformers"), at_least=4),
    Promise(about="first token of a warm pane, 100-token prompt", against="", benchmark="chat",
            place=("ratios", "first_token_seconds"), at_most=0.3, unit=" s"),
    Promise(about="text tokenized and packed a core", against="", benchmark="tokenizing",
            place=("ratios", "megabytes_per_second_a_core"), at_least=3, unit=" MB/s"),
    Promise(about="text tokenized a second", against="datasets.map with the same tokenizer", benchmark="tokenizing",
            place=("ratios", "over_datasets_map"), at_least=2),
    Promise(about="peak memory of tokenizing 1,000,000 rows", against="1,000 rows", benchmark="tokenizing",
            place=("ratios", "memory_growth"), at_most=1.1),
    Promise(about="time a token, 100 to 100,000 rows: longest", against="shortest", benchmark="growth",
            place=("ratios", "rows_spread"), at_most=1.1),
    Promise(about="time a token, rank 1 to 64: its growth", against="the FLOPs'", benchmark="growth",
            place=("ratios", "rank_over_flops"), at_most=1.1),
    Promise(about="time a token, rows of 128 to 2,048 tokens", against="a line in the length", benchmark="growth",
            place=("ratios", "row_length_over_line"), at_most=1.1),
    Promise(about="peak memory as estimated, 36 runs: furthest off", against="as measured", benchmark="memory_estimate",
            place=("ratios", "furthest"), at_most=0.15, unit=""),
    Promise(about="a million rows taken in with health", against="datasets reading the file", benchmark="profile_rows",
            place=("ratios", "over_datasets"), at_least=1.0),
    Promise(about="a run of 100,000 steps made ready for its page", against="", benchmark="pages",
            place=("page", "opened_seconds"), at_most=1, unit=" s"),
    Promise(about="what 100,000 steps add to a run's page in a browser", against="a run of 60 steps", benchmark="pages",
            place=("browser", "long_over_short_seconds"), at_most=1, unit=" s"),
    Promise(about="what 500 runs add to their list in a browser", against="one run", benchmark="pages",
            place=("browser", "many_over_one_seconds"), at_most=1, unit=" s"),
    Promise(about="greedy tokens of f32 GGUF files in llama.cpp", against="our engine in fp32", benchmark="llama_cpp",
            place=("ratios", "same_tokens_of_f32_files"), at_least=1.0),
)  # fmt: skip


def verdicts(read: Callable[[str], Mapping[str, Any] | None]) -> list[Verdict]:
    """What the results that `read` gives by a benchmark's name say of every promise."""
    return [promise.judge(read(promise.benchmark)) for promise in PROMISES]


def table(found: list[Verdict]) -> str:
    """All of them in Markdown, a promise a line; columns are padded, so that it reads well in a terminal as well."""
    rows = [("", "against", "promised", "measured", ""), *((
        verdict.promise.about, verdict.promise.against, verdict.promise.bound, verdict.figure, verdict.word
    ) for verdict in found)]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * max(3, width) for width in widths))
    return "".join(f"| {line} |\n" for line in lines)
