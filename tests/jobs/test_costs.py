"""What a run is said to cost: by the best figure there is, and with what would make it smaller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from core.config import RunConfig, parse
from core.events import Finished, Started, to_json
from core.models.flops import flops_a_token
from jobs.costs import Costs, steps_of
from jobs.fitting import RowFacts, fits
from jobs.fixes import changed
from jobs.home import Home
from jobs.launchers.local import Worker
from jobs.machine import CPU
from jobs.probes import Probes, _machine, probe_key
from jobs.rates import PastRuns, computes_in_bf16
from jobs.room import needed_bytes
from jobs.sizes import sized
from jobs.store import Store
from tests.jobs.conftest import add_dataset_row

ROWS = RowFacts(rows=100, lengths=np.array([200] * 90 + [900] * 10))
PLENTY = 10**12
FIGURES = {
    "peak_bytes": 600_000_000, "device_bytes": None, "tokens": 1000, "longest": 900, "seconds": 2.0, "steps": 3,
    "mean_tokens": 400.0, "micro_tokens": 2048, "device": "cpu", "compute_dtype": "float32",
}  # fmt: skip


@pytest.fixture
def costs(home: Home, store: Store, tmp_path: Path) -> Iterator[Costs]:
    add_dataset_row(store)
    home.probes.mkdir()
    root = tmp_path / "models"
    probes = Probes(home, store, root, {}, devices=lambda: (CPU,))
    yield Costs(home, store, root, probes, lambda: (CPU,), PastRuns(home, store))


def config_for(base: Path, **parts: Any) -> RunConfig:
    values = {"name": "cost", "data": {"dataset_id": "D", "holdout": 0.1}, "base_model": str(base), **parts}
    return parse(values)


def remember(costs: Costs, config: RunConfig, **changes: Any) -> None:
    """As if `config` had been probed."""
    values = {"machine": _machine(), "figures": FIGURES | {"is_beside_run": False} | changes}
    (costs.home.probes / f"{probe_key(config)}.json").write_bytes(orjson.dumps(values))


def finish_a_run(store: Store, config: RunConfig, *, tokens: int = 4000, seconds: float = 10.0) -> None:
    """A run that was carried out here, as its events tell."""
    folder = store.home.run("EARLIER")
    folder.path.mkdir()
    store.add_run("EARLIER", config, None)
    started = Started(
        steps=10, first_step=1, train_rows=20, eval_rows=0, tokens_per_epoch=4000, trained_tokens_per_epoch=2000,
        trainable_parameters=3456, base_parameters=30_000, adapted_modules=14, bits=16, compute_dtype="float32",
        device="cpu",
    )  # fmt: skip
    finished = Finished(
        output="adapter", steps=10, tokens=tokens, seconds=seconds, tokens_per_second=tokens / seconds,
        peak_rss_bytes=1, first_loss=1.0, last_loss=0.5, eval_loss=None,
    )  # fmt: skip
    folder.events.write_text("".join(to_json(event) + "\n" for event in (started, finished)))
    attempt = store.claim(lambda *_: Worker(1, "gone"))
    assert attempt is not None
    adapter = {"name": "a", "folder": "runs/EARLIER/adapter", "base_model": "x", "rank": 8, "alpha": 16.0}
    adapter |= {"targets": "[]", "bytes": 1, "fingerprint": "0" * 8}
    assert store.finish(attempt, adapter)


def test_before_the_model_is_here_nothing_is_said(costs: Costs) -> None:
    assert costs.of(config_for(Path("starter")), ROWS, PLENTY) is None


def test_without_a_probe_memory_is_estimated_and_time_unknown(costs: Costs, tiny_model: Path) -> None:
    config = config_for(tiny_model)
    cost = costs.of(config, ROWS, PLENTY)
    assert cost is not None
    assert (cost.memory.how, cost.memory.bytes) == ("estimated", cost.memory.estimate.total)
    assert (cost.memory.fit, cost.fixes) == ("fits", ())
    assert (cost.duration.how, cost.duration.seconds) == ("unknown", None) and "trial step" in cost.duration.sentence
    found = sized(config, costs.models_root)
    assert found is not None and cost.disk.needed_bytes == needed_bytes(config, found.estimate)


def test_what_was_measured_comes_before_what_is_estimated(costs: Costs, tiny_model: Path) -> None:
    config = config_for(tiny_model, optim={"epochs": 2.0, "batch_size": 8})
    remember(costs, config)
    cost = costs.of(config, ROWS, PLENTY)
    assert cost is not None
    assert (cost.memory.how, cost.memory.bytes) == ("measured", 600_000_000)
    assert cost.duration.steps == 24  # 90 rows, 8 a step, twice
    assert cost.duration.seconds == pytest.approx(24 * 400 / 500)  # 500 tokens a second, 400 a step
    assert cost.duration.how == "measured"


def test_time_is_estimated_from_an_earlier_run_by_operations_a_token(
    costs: Costs, store: Store, tiny_model: Path
) -> None:
    config = config_for(tiny_model, optim={"epochs": 1.0, "batch_size": 10})
    finish_a_run(store, config)
    cost = costs.of(config, ROWS, PLENTY)
    found = sized(config, costs.models_root)
    assert cost is not None and found is not None and cost.duration.how == "estimated"
    trained = replace(found.trained, parameters=3456)
    speed = 400 * flops_a_token(config, found.shape, trained, 200)  # 400 tokens a second, in rows of 200
    expected = 9 * 10 * 270 * flops_a_token(config, found.shape, found.trained, 270) / speed
    assert cost.duration.seconds == pytest.approx(expected)
    uncounted = costs.of(config, RowFacts(rows=100), PLENTY)
    assert uncounted is not None and uncounted.duration.how == "unknown" and "counted" in uncounted.duration.sentence


def test_checkpointing_and_longer_rows_cost_more_operations(tiny_model: Path, tmp_path: Path) -> None:
    plain, checkpointed, full = (
        sized(config_for(tiny_model, **parts), tmp_path)
        for parts in ({}, {"optim": {"checkpointing": True}}, {"method": "full"})
    )
    assert plain is not None and checkpointed is not None and full is not None
    counts = [flops_a_token(found.config, found.shape, found.trained, 100) for found in (plain, checkpointed, full)]
    assert counts[0] < counts[1] and counts[0] < counts[2]
    assert flops_a_token(plain.config, plain.shape, plain.trained, 500) > counts[0]


@pytest.mark.parametrize(
    ("needed", "free", "is_measured", "fit"),
    [
        (80, 100, False, "fits"), (90, 100, False, "tight"), (90, 100, True, "fits"), (101, 100, True, "does not fit"),
        (101, 100, False, "does not fit"), (1, None, False, "unknown"),
    ],
)  # fmt: skip
def test_an_estimate_has_to_leave_room_and_a_measured_figure_has_not(
    needed: int, free: int | None, is_measured: bool, fit: str
) -> None:
    assert fits(needed, free, is_measured=is_measured) == fit


def test_where_it_does_not_fit_every_fix_makes_it_smaller_by_what_it_says(costs: Costs, starter_folder: Path) -> None:
    config = config_for(starter_folder, lora={"rank": 64}, data={"dataset_id": "D", "max_tokens": 1024})
    estimate = costs.estimate(config, ROWS)
    assert estimate is not None
    cost = costs.of(config, ROWS, estimate.total * 3 // 4)
    assert cost is not None and cost.memory.fit == "does not fit"
    titles = [fix.title for fix in cost.fixes]
    assert titles[:3] == ["Feed 1,024 tokens at once", "Turn gradient checkpointing on", "Store the base in 4 bits"]
    assert any(title.startswith("Lower the rank to") for title in titles)
    for fix in cost.fixes:
        other = costs.estimate(changed(config, fix.changes), ROWS)
        assert other is not None and other.total == pytest.approx(fix.total_bytes, rel=1e-6)
        assert fix.total_bytes < estimate.total and fix.is_enough == (fix.total_bytes <= estimate.total * 3 // 4)
    (cut,) = [fix for fix in cost.fixes if fix.title.startswith("Cut rows")]
    assert f"Cuts {int((ROWS.lengths > cut.changes['data.max_tokens']).sum())} of 100 rows" in cut.sentence


def test_where_no_single_change_is_enough_the_mildest_few_are_offered_together(
    costs: Costs, starter_folder: Path
) -> None:
    config = config_for(starter_folder, lora={"rank": 64})
    singles = costs.of(config, ROWS, 1)
    assert singles is not None and not any(fix.is_enough for fix in singles.fixes)
    least = min(fix.total_bytes for fix in singles.fixes)
    cost = costs.of(config, ROWS, least - 10_000_000)
    assert cost is not None
    *single, together = cost.fixes
    assert together.is_enough and not any(fix.is_enough for fix in single)
    assert set(together.changes) > set(single[0].changes)
    other = costs.estimate(changed(config, together.changes), ROWS)
    assert other is not None and other.total <= least - 10_000_000


def test_full_fine_tuning_is_offered_an_adapter_and_no_four_bits(costs: Costs, starter_folder: Path) -> None:
    cost = costs.of(config_for(starter_folder, method="full"), ROWS, 10**9)
    assert cost is not None
    titles = [fix.title for fix in cost.fixes]
    assert "Train a LoRA adapter" in titles and "Store the base in 4 bits" not in titles


def test_a_probe_that_found_more_scales_what_fixes_promise(costs: Costs, starter_folder: Path) -> None:
    config = config_for(starter_folder, lora={"rank": 64})
    remember(costs, config)  # which also says in which dtype this machine computes
    estimate = costs.estimate(config, ROWS)
    assert estimate is not None
    remember(costs, config, peak_bytes=2 * estimate.total)
    cost = costs.of(config, ROWS, estimate.total)
    assert cost is not None and cost.memory.fit == "does not fit"
    for fix in cost.fixes:
        other = costs.estimate(changed(config, fix.changes), ROWS)
        assert other is not None and fix.total_bytes == pytest.approx(2 * other.total, rel=1e-6)


def test_a_setting_is_changed_by_its_path(tiny_model: Path) -> None:
    config = config_for(tiny_model)
    other = changed(config, {"optim.checkpointing": True, "lora.rank": 2})
    assert (other.optim.checkpointing, other.lora.rank) == (True, 2)
    assert replace(other, optim=config.optim, lora=config.lora) == config


def test_steps_are_those_that_the_loop_counts(tiny_model: Path) -> None:
    config = config_for(tiny_model, optim={"epochs": 1.5, "batch_size": 8})
    assert steps_of(config, 100) == 18  # 90 rows are 12 steps
    assert steps_of(changed(config, {"optim.steps": 7}), 100) == 7


def test_the_dtype_is_as_measured_where_something_was(costs: Costs, store: Store, tiny_model: Path) -> None:
    config = config_for(tiny_model)
    finish_a_run(store, config)
    past = PastRuns(store.home, store).newest()
    assert len(past) == 1 and not computes_in_bf16(past, (), (CPU,))
    assert computes_in_bf16((), (), ("cuda:0",))


def test_a_row_is_no_longer_than_the_model_reads(costs: Costs, tiny_model: Path) -> None:
    far, near = (
        costs.estimate(config_for(tiny_model, data={"dataset_id": "D", "max_tokens": limit}), RowFacts(rows=9))
        for limit in (1_000_000, 2048)
    )
    assert far == near
