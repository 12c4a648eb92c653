"""Whether a cost grows as it may: the arithmetic of the benchmark's ratios."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.instruments.flops import Sizes
from benchmarks.instruments.growth_step import Settings, texts
from core.data.records import Conversation

SIZES = Sizes(layers=2, width=8, inner=16, heads=2, key_heads=2, head_width=4, vocabulary=50)
ROWS = {"rows": 10, "length": 16, "batch_size": 2}


def figures(seconds: float, tokens: int = 32) -> dict[str, float]:
    return {"seconds_per_token": seconds, "labels_a_step": tokens, "tokens_a_step": tokens}


def test_the_first_run_is_the_measure_of_all_others() -> None:
    runs = {"1": {**ROWS, "rank": 1}, "64": {**ROWS, "rank": 64}}
    found = growth.beside_flops({"1": figures(0.5), "64": figures(50.0)}, runs, SIZES)
    assert (found["1"]["measured"], found["1"]["by_flops"]) == (1, 1)
    assert found["64"]["measured"] == 100 and found["64"]["by_flops"] > 1
    assert growth.over_flops(found) == pytest.approx(100 / found["64"]["by_flops"])


def test_growing_as_the_flops_say_is_a_ratio_of_one() -> None:
    runs = {"1": {**ROWS, "rank": 1}, "64": {**ROWS, "rank": 64}}
    flops = growth.beside_flops({"1": figures(1), "64": figures(1)}, runs, SIZES)["64"]["by_flops"]
    found = growth.beside_flops({"1": figures(1.0), "64": figures(flops)}, runs, SIZES)
    assert growth.over_flops(found) == pytest.approx(1)


def test_longer_rows_cost_more_a_token_by_attention_alone() -> None:
    runs = {"16": ROWS, "32": {**ROWS, "length": 32, "batch_size": 1}}
    found = growth.beside_flops({"16": figures(1), "32": figures(1)}, runs, SIZES)
    assert 1 < found["32"]["by_flops"] < 2


def test_a_time_that_grows_with_the_row_as_attention_does_lies_on_a_line_and_one_that_doubles_does_not() -> None:
    lengths = (128, 256, 512, 1024, 2048)
    straight = {f"{length:,}": figures(1.0 + length / 2000) for length in lengths}
    assert growth.over_line(straight) == pytest.approx(1)
    bent = {**straight, "2,048": figures(1.1 * (1.0 + 2048 / 2000))}
    assert 1.01 < growth.over_line(bent) < 1.1
    squared = {f"{length:,}": figures(1.0 + (length / 500) ** 2) for length in lengths}
    assert growth.over_line(squared) > 1.3


def test_the_spread_is_the_longest_time_over_the_shortest() -> None:
    assert growth.spread({"a": figures(2.0), "b": figures(3.0), "c": figures(1.5)}) == 2


def test_texts_are_long_enough_and_of_their_own_beginning() -> None:
    run = Settings(rows=12, length=50, batch_size=2).start()
    records = list(run.records)
    assert len(records) == 12
    starts = set()
    for record in records:
        assert isinstance(record, Conversation)
        system, _, answer = record.messages
        starts.add(system.content[:3])
        assert len(answer.content) > 50 * 4
    assert len(starts) == 12
    assert [len(text) >= 300 for _, text in texts(3, 300)] == [True] * 3


def test_every_run_of_the_benchmark_asks_for_whole_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, int]] = []

    def measured(_: str, order: dict[str, object], **__: object) -> dict[str, object]:
        runs = order["runs"]
        assert isinstance(runs, dict)
        asked.extend(runs.values())
        tokens = {name: run["length"] * run["batch_size"] for name, run in runs.items()}
        found = {
            name: {"tokens_a_step": count, "labels_a_step": count, "seconds_per_token_by_round": [0.1]}
            for name, count in tokens.items()
        }
        return {"runs": found, "peak_rss_bytes": 1}

    monkeypatch.setattr(growth, "measured", measured)
    monkeypatch.setattr(growth, "ensure_starter", lambda *_: tmp_path)
    monkeypatch.setattr(growth.Sizes, "read", lambda _: SIZES)
    found = growth.measure(is_quick=False)
    assert {"rows", "rank", "row length", "batch", "micro-batch", "checkpointing", "ratios"} <= found.keys()
    assert all(run["batch_size"] >= 1 and run["rows"] >= run["batch_size"] for run in asked)
    assert max(run["rows"] for run in asked) == 100_000
