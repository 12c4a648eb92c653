"""Sweeps through the service: all or none is queued, real workers carry it out, and the table tells what came of it."""

from __future__ import annotations

import json
import sqlite3
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig, parse
from core.errors import ConfigError, NotFound, RunError
from core.events import Finished, Started
from core.models.shapes import linear_shapes
from core.sweep import PATHS
from jobs import room
from jobs.flags import SWEPT
from jobs.home import Home
from jobs.launchers.local import Worker
from jobs.scheduler import Scheduler
from jobs.service import Service
from jobs.store import Store
from jobs.sweeps import Group, read_axis, read_budget, spreads
from tests.browser.driver import App
from tests.jobs.conftest import make_database
from tests.jobs.host import scheduler_on
from tests.jobs.test_commands import Terminal
from tests.jobs.waiting import wait_for

RANK, RATE, SEED, TARGETS = "lora.rank", "optim.learning_rate", "seed", "lora.targets"


@pytest.fixture
def start(service: Service, dataset_file: Path, tiny_model: Path) -> RunConfig:
    """What the sweeps begin with: five steps of the tiny model."""
    data = {"dataset_id": service.data.add(dataset_file).id, "holdout": 0.25}
    optim = {"steps": 5, "batch_size": 2, "learning_rate": 0.01}
    return parse({"name": "tiny", "base_model": str(tiny_model), "data": data, "optim": optim})


def sweep(service: Service, start: RunConfig, key: str | None = None, **typed: str) -> str:
    paths = {"rank": RANK, "seed": SEED, "targets": TARGETS, "lr": RATE}
    plan = service.sweeps.plan(start, {paths[name]: text for name, text in typed.items()})
    return service.sweeps.submit(plan.configs, key)


def folders(service: Service) -> int:
    return len(list(service._home.runs.iterdir()))


def states(service: Service, group: str) -> list[str]:
    return [run.state for run in service.sweeps.runs(group)]


# -- what is typed ---------------------------------------------------------------------------------------------------


def test_values_are_read_as_people_type_them(tiny_model: Path) -> None:
    def shapes() -> Any:
        return linear_shapes(tiny_model)

    typed = " q_proj, q_proj + v_proj,All-Attention, all linear, auto"
    assert read_axis(TARGETS, typed, shapes).values == (
        ("q_proj",), ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj"), ("all-linear",), ("auto",),
    )  # fmt: skip
    assert read_axis(RANK, "4, 8 ,16,", shapes).values == (4, 8, 16)
    assert read_axis(RATE, "1e-4,3e-4", shapes).values == (1e-4, 3e-4)


def test_all_attention_asks_for_a_model_that_is_here() -> None:
    with pytest.raises(ConfigError, match="attention are not known") as refused:
        read_axis(TARGETS, "all attention", lambda: ())
    assert refused.value.field == TARGETS


@pytest.mark.parametrize(
    ("text", "count"),
    [("1M", 10**6), ("18m", 18 * 10**6), ("1.5 k", 1500), ("1,000,000", 10**6), ("1e6", 10**6), ("12", 12), ("", None)],
)
def test_a_budget_is_read(text: str, count: int | None) -> None:
    assert read_budget(text) == count


@pytest.mark.parametrize("text", ["x", "1T", "-3", "1e999", "nan", "1M2"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_budget(text)
    assert text in refused.value.title and refused.value.field == "budget"


# -- planning --------------------------------------------------------------------------------------------------------


def test_a_plan_counts_what_each_run_trains_as_the_service_does(service: Service, start: RunConfig) -> None:
    plan = service.sweeps.plan(start, {RANK: "2, 4", TARGETS: "q_proj, all attention", RATE: "  "})
    assert [one.name for one in plan.configs] == [
        "tiny · q_proj · r2", "tiny · q_proj · r4", "tiny · all attention · r2", "tiny · all attention · r4",
    ]  # fmt: skip
    assert plan.estimates == tuple(map(service.estimate, plan.configs)) and None not in plan.estimates


def test_one_budget_gives_fewer_matrices_a_higher_rank(service: Service, start: RunConfig) -> None:
    plan = service.sweeps.plan(start, {TARGETS: "q_proj, q_proj+v_proj, all linear"}, "1k")
    assert [one.lora.rank for one in plan.configs] == [7, 4]  # per rank, q takes 2 × 64 and v 2 × 48
    assert [left_out.name for left_out in plan.skipped] == ["tiny · all linear · r1"]
    assert all(found is not None and found.trainable_parameters <= 1000 for found in plan.estimates)


def test_before_the_model_is_here_there_is_a_plan_but_no_budget(service: Service, start: RunConfig) -> None:
    elsewhere = replace(start, base_model="somebody/elsewhere")
    assert service.sweeps.plan(elsewhere, {RANK: "2, 4"}).estimates == (None, None)
    with pytest.raises(ConfigError, match="before the base model is on this machine"):
        service.sweeps.plan(elsewhere, {TARGETS: "q_proj"}, "1M")


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [(RANK, "4, 8, x", "Rank is 'x'"), (RANK, "4, 64", "too large"), (TARGETS, "q_proj, qq", "'qq' matches no module")],
)
def test_a_plan_names_the_value_that_is_wrong(
    service: Service, start: RunConfig, path: str, text: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        service.sweeps.plan(start, {path: text})
    assert refused.value.field == path


# -- all or none -----------------------------------------------------------------------------------------------------


def test_runs_wait_in_the_order_in_which_they_were_asked_for(service: Service, start: RunConfig) -> None:
    before = service.submit(start)
    group = sweep(service, start, rank="8, 2, 4", seed="1, 0")
    behind = service.submit(start)
    names = [f"tiny · r{rank} · seed {seed}" for rank in (8, 2, 4) for seed in (1, 0)]
    assert [run.name for run in service.sweeps.runs(group)] == names
    assert [run.name for run in service.queue()] == [before.name, *names, behind.name]
    assert service.sweeps.groups() == (group,) and {run.group for run in service.sweeps.runs(group)} == {group}
    assert before.group is None and folders(service) == 8


def test_a_double_click_makes_one_group(service: Service, start: RunConfig) -> None:
    configs = service.sweeps.plan(start, {RANK: "2, 4, 8"}).configs
    with ThreadPoolExecutor(4) as pool:
        groups = list(pool.map(lambda _: service.sweeps.submit(configs, "click"), range(4)))
    assert len(set(groups)) == 1 and len(service.runs()) == folders(service) == 3
    assert service.sweeps.submit(configs, "another click") not in groups and len(service.runs()) == 6


def test_one_run_that_would_be_refused_keeps_the_others_from_being_queued(service: Service, start: RunConfig) -> None:
    configs = service.sweeps.plan(start, {RANK: "2, 4"}).configs
    for spoiled in (
        replace(configs[1], lora=replace(configs[1].lora, targets=("nothing",))),
        replace(configs[1], task="classification"),
    ):
        with pytest.raises(ConfigError):
            service.sweeps.submit([configs[0], spoiled])
    with pytest.raises(NotFound):
        service.sweeps.submit([configs[0], replace(configs[1], data=replace(configs[1].data, dataset_id="gone"))])
    assert service.runs() == () and folders(service) == 0


def test_a_fault_while_queueing_leaves_nothing_behind(
    service: Service, start: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = service.sweeps.plan(start, {RANK: "2, 4"}).configs
    with service._store._database.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON runs WHEN NEW.config LIKE '%r4%' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(Exception, match="no"):
        service.sweeps.submit(configs)
    assert service.runs() == () and folders(service) == 0


def test_room_is_asked_for_all_runs_together(
    service: Service, start: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = service.sweeps.plan(start, {SEED: "1, 2, 3"}).configs
    estimated = service.estimate(configs[0])
    assert estimated is not None
    needed = room.needed_bytes(configs[0], estimated)
    monkeypatch.setattr(room, "free_bytes", lambda folder: room.SPARE_BYTES + 3 * needed - 1)
    with pytest.raises(RunError, match="The 3 runs together may take"):
        service.sweeps.submit(configs)
    assert folders(service) == 0
    monkeypatch.setattr(room, "free_bytes", lambda folder: room.SPARE_BYTES + 3 * needed)
    service.sweeps.submit(configs)
    assert folders(service) == 3


def test_no_runs_and_too_many_are_refused(service: Service, start: RunConfig) -> None:
    with pytest.raises(ConfigError, match="No run is left"):
        service.sweeps.submit([])
    with pytest.raises(ConfigError, match="65 runs, and 64 is the most"):
        service.sweeps.submit([start] * 65)
    with pytest.raises(NotFound, match="no group G"):
        service.sweeps.group("G")
    with pytest.raises(NotFound):
        service.sweeps.cancel_waiting("G")


def test_a_home_from_before_sweeps_keeps_its_runs(home: Home) -> None:
    make_database(home, "0003")
    with sqlite3.connect(home.database) as database:
        database.execute("INSERT INTO datasets VALUES ('D', NULL, 'rows', 3, 'jsonl', 'messages', 0, 0)")
        text = '{"name": "old", "data": {"dataset_id": "D"}}'
        columns = "id, dataset_id, config, state, created_at, queued_at, attempt, events_offset"
        database.execute(f"INSERT INTO runs ({columns}) VALUES ('R1', 'D', '{text}', 'queued', 0, 0, 0, 0)")
    store = Store(home)
    (run,) = store.queue()
    assert (run.id, run.name, run.group) == ("R1", "old", None)
    (home.runs / "R2").mkdir()
    assert store.add_runs({"R2": run.config}, None, "G")[0].group == "G"
    assert [run.id for run in store.group("G")] == ["R2"]
    store.close()


# -- ending ----------------------------------------------------------------------------------------------------------


def claim(service: Service) -> str:
    attempt = service._store.claim(lambda *_: Worker(1, "gone"))
    assert attempt is not None
    return attempt.run_id


def test_those_that_wait_are_given_up_with_one_click_and_no_others(service: Service, start: RunConfig) -> None:
    group, other = sweep(service, start, rank="2, 4, 8"), sweep(service, start, rank="1, 2")
    claim(service)
    assert service.sweeps.cancel_waiting(group) == 2 and service.sweeps.cancel_waiting(group) == 0
    assert states(service, group) == ["preparing", "cancelled", "cancelled"]
    assert states(service, other) == ["queued", "queued"]


def test_a_group_is_stopped_with_one_click(service: Service, start: RunConfig) -> None:
    group = sweep(service, start, rank="2, 4, 8")
    running = claim(service)
    service.sweeps.stop(group)
    assert states(service, group) == ["stopping", "cancelled", "cancelled"]
    assert service._home.run(running).control.read_text() == "keep"
    service.sweeps.stop(group)
    assert states(service, group)[0] == "stopping"


def drain(scheduler: Scheduler, service: Service) -> None:
    def is_done() -> bool:
        scheduler.tick()
        return all(run.has_ended for run in service.runs())

    wait_for(is_done, 60)
    scheduler.close()


def test_a_run_that_fails_does_not_stop_the_next_of_its_group(service: Service, start: RunConfig) -> None:
    group = sweep(service, start, rank="2, 4, 8")
    drain(scheduler_on(service.home, "fails"), service)
    assert states(service, group) == ["failed"] * 3
    found = service.sweeps.group(group)
    assert found.is_over and found.best is None and found.finished == 0


# -- the table -------------------------------------------------------------------------------------------------------


def group_of(service: Service, start: RunConfig, losses: list[float | None], **typed: str) -> Group:
    """The group of that sweep, as it is when its runs have come to these losses."""
    found = service.sweeps.group(sweep(service, start, **typed))
    outcomes = tuple(
        replace(outcome, run=replace(outcome.run, eval_loss=loss))
        for outcome, loss in zip(found.outcomes, losses, strict=True)
    )
    return replace(found, outcomes=outcomes, spreads=spreads(found.axes, outcomes))


def test_the_best_run_has_the_lowest_loss(service: Service, start: RunConfig) -> None:
    found = group_of(service, start, [2.0, None, 1.5], rank="2, 4, 8")
    assert found.axes == (RANK,) and found.spreads == ()
    assert found.best is not None and found.best.values == ("r8",)


def test_where_seeds_vary_the_best_settings_are_those_with_the_lowest_mean(service: Service, start: RunConfig) -> None:
    found = group_of(service, start, [1.0, 2.4, 1.5, 1.6], rank="2, 4", seed="1, 2")
    first, second = found.spreads
    assert (first.values, first.count, first.mean) == (("r2",), 2, pytest.approx(1.7))
    assert first.deviation == pytest.approx(abs(2.4 - 1.0) / 2**0.5)
    assert found.best is not None and found.best.run.name == "tiny · r4 · seed 1" and second.mean < first.mean


def test_a_seed_alone_has_a_mean_and_a_single_one_no_spread(service: Service, start: RunConfig) -> None:
    (spread,) = group_of(service, start, [1.0, 2.0, 3.0], seed="1, 2, 3").spreads
    assert (spread.values, spread.mean, spread.deviation) == ((), 2.0, 1.0)
    (spread,) = group_of(service, start, [1.0, None, None], seed="1, 2, 3").spreads
    assert (spread.count, spread.deviation) == (1, None)


def event(service: Service, run_id: str, kind: type) -> Any:
    return next(one for one in service.events(run_id)[0] if isinstance(one, kind))


def is_over(service: Service, group: str) -> bool:
    return service.sweeps.group(group).is_over


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_ranks_by_two_seeds_are_carried_out_and_told_side_by_side(service: Service, start: RunConfig) -> None:
    group = sweep(service, start, rank="2, 4, 8", seed="1, 2")
    service.start()
    wait_for(lambda: is_over(service, group), 400)
    found = service.sweeps.group(group)
    assert (found.name, found.axes, found.finished, found.waiting) == ("tiny", (RANK, SEED), 6, 0)
    assert [outcome.values for outcome in found.outcomes] == [(f"r{r}", f"seed {s}") for r in (2, 4, 8) for s in (1, 2)]
    for outcome in found.outcomes:
        assert outcome.run.eval_loss == event(service, outcome.run.id, Finished).eval_loss
        assert outcome.trainable_parameters == event(service, outcome.run.id, Started).trainable_parameters
        estimated = service.estimate(outcome.run.config)
        assert estimated is not None and outcome.trainable_parameters == estimated.trainable_parameters
    losses = [outcome.run.eval_loss or 0.0 for outcome in found.outcomes]
    for at, spread in enumerate(found.spreads):
        pair = losses[2 * at : 2 * at + 2]
        assert (spread.mean, spread.deviation) == (pytest.approx(statistics.mean(pair)), pytest.approx(statistics.stdev(pair)))  # fmt: skip # noqa: E501
    assert len(found.spreads) == 3 and found.best is not None
    ended = [run.ended_at for run in service.sweeps.runs(group)]
    assert ended == sorted(ended, key=lambda moment: moment or 0), "carried out in the order that was asked for"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_app_that_is_killed_in_the_middle_goes_on_with_the_rest(
    service: Service, start: RunConfig, tmp_path: Path
) -> None:
    app = App(home=service.home)
    app.start()
    try:
        group = sweep(service, start, rank="2, 4, 8")
        wait_for(lambda: service.sweeps.group(group).finished > 0, 200)
        app.kill()
        left = [run.state for run in service.sweeps.runs(group)]
        assert left[0] == "finished" and left[2] == "queued"
        app.start()
        wait_for(lambda: is_over(service, group), 300)
    finally:
        app.stop()
    assert states(service, group) == ["finished"] * 3
    assert len({adapter.run_id for adapter in service.adapters()}) == 3


# -- the command line ------------------------------------------------------------------------------------------------


def test_a_terminal_takes_several_values_of_what_can_be_swept() -> None:
    assert SWEPT == PATHS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_terminal_sweeps_and_gets_a_folder_for_each_run(tmp_path: Path, tiny_model: Path) -> None:
    terminal = Terminal(tmp_path)
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}, matey."} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("sweep", "--data", "rows.jsonl", "--output", "out", "--model", tiny_model, "--steps", 2, "--json")
    refused = terminal(*given, "--rank", "2,x")
    assert refused.code == 2 and "Rank is 'x'" in refused.err and not (tmp_path / "out").exists()
    done = terminal(*given, "--targets", "q_proj,q_proj+v_proj,all-linear", "--budget", "1k", "--lr", "1e-3")
    assert done.code == 0 and "all linear" in done.err and "is left out: even rank 1" in done.err
    first, second, sweep_ = done.lines
    assert [line["name"] for line in (first, second)] == [
        "rows · q_proj · r7 · lr 1e-3", "rows · q_proj+v_proj · r4 · lr 1e-3",
    ]  # fmt: skip
    for line, rank in ((first, 7), (second, 4)):
        written = json.loads((tmp_path / line["output"] / "adapter_config.json").read_text())
        assert written["r"] == rank and line["trainable_parameters"] <= 1000 and line["state"] == "finished"
    losses = {line["id"]: line["eval_loss"] for line in (first, second)}
    assert sweep_["event"] == "sweep" and losses[sweep_["best"]] == min(losses.values())
