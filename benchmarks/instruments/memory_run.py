"""One run in the worker's own program, for `benchmarks.memory_estimate`:

    python -m benchmarks.instruments.memory_run '{"rank": …, "length": …, "bits": …, "is_checkpointing": …}'

A home folder is made with rows of one length, and `jobs.worker` carries the run out in this very process, so that the
answer's `peak_rss_bytes` is what a worker takes.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.instruments.process import MeasurementFailed, answer, order
from benchmarks.instruments.starting_point import Bits, our_config
from core.config import STARTER, RunConfig, to_dict
from core.data.records import write_records
from core.events import Finished, Started
from jobs import worker
from jobs.home import open_home
from jobs.journal import read_events

STEPS = 1
ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run: `rows` rows of `length` tokens a step go through the model at once."""

    rank: int
    length: int
    rows: int
    bits: Bits
    is_checkpointing: bool
    base_model: str = STARTER

    def order(self) -> dict[str, Any]:
        """As this program is told of it."""
        return asdict(self)

    def config(self) -> RunConfig:
        """As a run is asked for."""
        config = our_config(rank=self.rank, alpha=32, seed=0, batch_size=self.rows, steps=STEPS, bits=self.bits)
        optim = replace(
            config.optim, checkpointing=self.is_checkpointing, micro_tokens=max(64, self.rows * self.length)
        )
        data = replace(config.data, max_tokens=self.length)
        return replace(config, data=data, optim=optim, base_model=self.base_model)


def carry_out(settings: Settings) -> tuple[Started, Finished]:
    """What the run told of its beginning and of its end.

    Raises:
        MeasurementFailed: it did not come to its end.
    """
    from benchmarks.instruments.growth_step import CHARACTERS_PER_TOKEN, texts
    from benchmarks.instruments.stepping import conversations  # both import torch, which who orders must not

    config = settings.config()
    with tempfile.TemporaryDirectory() as place:
        home = open_home(Path(place) / "home")
        records = home.records(config.data.dataset_id)
        records.parent.mkdir(parents=True)
        rows = texts(ROWS, settings.length * CHARACTERS_PER_TOKEN)
        write_records(conversations(rows, numbered=True), records)
        folder = home.run("measured")
        folder.path.mkdir()
        folder.config.write_text(json.dumps(to_dict(config)), encoding="utf-8")
        code = worker.main([str(folder.path)])
        events, _ = read_events(folder.events)
    started, finished = ([event for event in events if isinstance(event, kind)] for kind in (Started, Finished))
    if code or not finished:
        raise MeasurementFailed(str(events[-1]))
    return started[0], finished[0]  # type: ignore[return-value]


def main() -> None:
    """Carry out what is ordered."""
    settings = Settings(**order())
    started, finished = carry_out(settings)
    answer({"compute_dtype": started.compute_dtype, "tokens": finished.tokens, "seconds": finished.seconds})


if __name__ == "__main__":
    main()
