"""A probe takes the run's own first steps, on its longest batch, and leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.config import parse
from core.events import Preparing, StepDone
from core.train.memory import rss_bytes
from core.train.probe import LONG_STEP_SECONDS, Probed, Probing, probe
from tests.core.tiny import LINEARS, conversation
from tests.core.train.running import Run, of_kind

# One row is far longer than the others.
RECORDS = [
    conversation(f"Say {number}", "one two " * (40 if number == 7 else 2), row=number) for number in range(1, 13)
]
OPTIM = {"batch_size": 2, "micro_tokens": 64, "epochs": 2.0, "learning_rate": 1e-3}


def config_of(base: Path, **parts: Any) -> Any:
    return parse({
        "name": "a probe", "base_model": str(base), "data": {"dataset_id": "none", "holdout": 0.0},
        "lora": {"rank": 4, "targets": LINEARS}, "quant": {"bits": 32}, "optim": OPTIM, "seed": 3, **parts,
    })  # fmt: skip


def probed(base: Path, scratch: Path, stop: Any = lambda: None, **parts: Any) -> list[Any]:
    config = config_of(base, **parts)
    return list(probe(config, records=RECORDS, scratch=scratch, models_root=scratch / "none", stop=stop))


def test_the_batch_with_the_most_tokens_goes_through_and_is_told_with_its_time(
    tiny_folder: Path, tmp_path: Path
) -> None:
    events = probed(tiny_folder, tmp_path)
    (figures,), steps = of_kind(events, Probed), of_kind(events, StepDone)
    (probing,) = of_kind(events, Probing)
    assert [event.phase for event in of_kind(events, Preparing)][:2] == ["fetching", "loading"]
    assert events[-1] is figures and len(steps) == 2
    assert figures.longest == probing.longest > 80  # the long row
    assert figures.longest < figures.tokens < figures.longest + 60  # with one of the others
    assert figures.seconds == pytest.approx(steps[1].seconds - steps[0].seconds) and figures.seconds > 0
    assert figures.steps == 12  # 12 rows, 2 a step, twice
    assert figures.mean_tokens < figures.tokens
    assert rss_bytes() <= figures.peak_bytes
    assert (figures.device, figures.device_bytes, figures.compute_dtype) == ("cpu", None, "float32")
    assert figures.micro_tokens == 64


def test_a_probe_sees_the_rows_and_the_steps_of_the_run_itself(tiny_folder: Path, tmp_path: Path) -> None:
    run = Run(tiny_folder, tmp_path / "run", records=RECORDS, data={"holdout": 0.0}, optim=OPTIM | {"steps": None})
    started = next(event for event in run.events() if event.event == "started")
    (figures,) = of_kind(probed(tiny_folder, tmp_path / "scratch"), Probed)
    assert figures.steps == started.steps
    assert figures.mean_tokens * 6 == pytest.approx(started.tokens_per_epoch)


def test_nothing_stays_but_the_precision_in_the_scratch_folder(tiny_folder: Path, tmp_path: Path) -> None:
    probed(tiny_folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precision.json"]


def test_a_probe_that_is_to_end_has_no_figures(tiny_folder: Path, tmp_path: Path) -> None:
    assert of_kind(probed(tiny_folder, tmp_path, stop=lambda: "cancel"), Probed) == []


def test_a_run_of_one_step_is_probed_on_that_step(tiny_folder: Path, tmp_path: Path) -> None:
    (figures,) = of_kind(probed(tiny_folder, tmp_path, optim=OPTIM | {"steps": 1}), Probed)
    assert figures.steps == 1
    assert figures.seconds < LONG_STEP_SECONDS


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_method_is_probed(tiny_folder: Path, tmp_path: Path, method: str) -> None:
    (figures,) = of_kind(probed(tiny_folder, tmp_path, method=method), Probed)
    assert figures.tokens_per_second == pytest.approx(figures.tokens / figures.seconds)
