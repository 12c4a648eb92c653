"""Runs that take turns, for `benchmarks.growth`: python -m benchmarks.instruments.growth_step ORDER

The order names runs, each with its settings (`Settings`); the answer has for each of them what every step took, round
by round. Texts are made of the workload's, long enough that a row is cut at exactly the length that is asked for. Each
begins with a number of its own: were there a beginning that all share, it would be computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.instruments.process import answer, order
from benchmarks.instruments.starting_point import Bits, our_config
from benchmarks.instruments.stepping import Step, Stepping, conversations
from benchmarks.workload import rows

WARM_STEPS = 1
CHARACTERS_PER_TOKEN = 7  # above what any text here has, so that each is long enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run: `rows` rows of `length` tokens each, `batch_size` a step; `optim` are further settings of the config."""

    rows: int
    length: int
    batch_size: int
    rank: int = 16
    bits: Bits = 16
    optim: dict[str, Any] = field(default_factory=dict)

    def start(self) -> Stepping:
        """Such a run, before its start."""
        config = our_config(rank=self.rank, alpha=32, seed=0, batch_size=self.batch_size, bits=self.bits)
        data = replace(config.data, max_tokens=self.length)
        config = replace(config, data=data, optim=replace(config.optim, **self.optim))
        return Stepping(config, conversations(texts(self.rows, self.length * CHARACTERS_PER_TOKEN), numbered=True))


def texts(count: int, characters: int) -> Iterator[tuple[str, str]]:
    """`count` questions, each with an answer of at least that many characters."""
    drawn = rows(count * (characters // 100 + 1))  # more than are looked at
    for _ in range(count):
        row = next(drawn)
        answers = [row["output"]]
        while sum(map(len, answers)) < characters:
            answers.append(next(drawn)["output"])
        yield row["instruction"], " ".join(answers)


def measure(given: dict[str, Any]) -> dict[str, Any]:
    """Every run's figures."""
    wanted = {name: Settings(**settings) for name, settings in given["runs"].items()}
    with ExitStack() as stack:
        runs = {name: stack.enter_context(settings.start()) for name, settings in wanted.items()}
        steps: dict[str, list[Step]] = {name: [] for name in runs}
        for number in range(WARM_STEPS + given["rounds"]):
            for name, run in runs.items():
                step = run.step()
                if number >= WARM_STEPS:
                    steps[name].append(step)
        return {name: figures(wanted[name], runs[name], steps[name]) for name in runs}


def figures(settings: Settings, run: Stepping, steps: list[Step]) -> dict[str, Any]:
    """One run's figures."""
    tokens = settings.batch_size * settings.length
    assert {step.tokens for step in steps} == {tokens}, "a row is not as long as it was to be"
    labels = run.started.trained_tokens_per_epoch * settings.batch_size / settings.rows
    return {
        "tokens_a_step": tokens,
        "labels_a_step": labels,
        "seconds_per_token_by_round": [step.seconds / step.tokens for step in steps],
    }


if __name__ == "__main__":
    answer({"runs": measure(order())})
