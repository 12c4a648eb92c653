"""Memory is what was estimated: on corners of the benchmark's table, with real workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks import memory_estimate
from benchmarks.instruments.memory_run import Settings
from benchmarks.memory_estimate import beside, cases, compared, estimated, line, summary

CORNERS = (
    Settings(rank=64, length=1024, rows=1, bits=16, is_checkpointing=False),
    Settings(rank=4, length=128, rows=4, bits=16, is_checkpointing=True),
    Settings(rank=64, length=1024, rows=1, bits=4, is_checkpointing=True),
    Settings(rank=4, length=128, rows=4, bits=4, is_checkpointing=False),
)
SMALLEST = Settings(rank=16, length=128, rows=2, bits=16, is_checkpointing=False)


@pytest.fixture(autouse=True)
def one_thread(starter_folder: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def test_a_workers_peak_is_within_a_tenth_of_the_estimate() -> None:
    run = compared(SMALLEST)
    assert 0.9 < run["ratio"] < 1.1, line(run)


@pytest.mark.slow
@pytest.mark.parametrize("corner", CORNERS, ids=lambda corner: f"{corner.bits}-{corner.rank}-{corner.length}")
def test_the_estimate_is_within_fifteen_percent_at_the_corners(corner: Settings) -> None:
    run = compared(corner)
    assert 0.85 < run["ratio"] < 1.15, line(run)


def test_the_table_has_every_combination_once() -> None:
    settings = list(cases())
    assert len(settings) == len(set(settings)) == 36
    assert {(case.bits, case.rank, case.length, case.is_checkpointing) for case in settings} == {
        (bits, rank, length, is_on)
        for bits in (16, 4) for rank in memory_estimate.RANKS for length in (128, 512, 1024) for is_on in (True, False)
    }  # fmt: skip


def test_a_batch_of_the_table_goes_through_at_once() -> None:
    for settings in cases():
        config = settings.config()
        assert config.optim.micro_tokens == settings.rows * settings.length
        assert config.optim.batch_size == settings.rows


def test_how_far_off_is_the_same_above_and_below() -> None:
    peaks = {"high": 1 / 1.25, "low": 1.25}
    runs = []
    for factor in peaks.values():
        total = estimated(SMALLEST, computes_in_bf16=True).total
        runs.append(beside(SMALLEST, round(total * factor), "bfloat16"))
    figures = summary(runs)
    assert figures["ratios"]["lowest"] == pytest.approx(1 / 1.25)
    assert figures["ratios"]["highest"] == pytest.approx(1.25)
    assert figures["ratios"]["furthest"] == pytest.approx(0.25)
    json.dumps(figures)
    assert sum(runs[0]["parts"].values()) <= runs[0]["estimated_bytes"]


def test_fp32_takes_more_than_bf16() -> None:
    assert estimated(SMALLEST, computes_in_bf16=False).training > estimated(SMALLEST, computes_in_bf16=True).training
    wide = replace(SMALLEST, bits=32)
    assert estimated(wide, computes_in_bf16=True) == estimated(wide, computes_in_bf16=False)
