"""Several values at once on the pages, over a real service of which nothing is started."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.config import RunConfig, parse
from core.errors import ConfigError, NotFound
from core.sweep import PATHS
from jobs.launchers.local import Worker
from jobs.service import Service, sweeps
from tests.jobs.tiny_model import write_tiny_model
from tests.ui.stand_in import SHAPES, XSS, Names
from ui import charts, command
from ui.pages import sweep, sweep_view
from ui.pages.runs import RunsPage, Seen
from ui.pages.sweep import Sweeping, SweepOutlook, SweepWidgets, Typed
from ui.story import Stories

RANK, RATE, SEED, TARGETS = "lora.rank", "optim.learning_rate", "seed", "lora.targets"
WIDGETS = SweepWidgets(
    axes={path: path for path in PATHS}, budget="budget", alpha="alpha", choices="choices", plan="plan"
)  # type: ignore[arg-type]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield service
    service.close()


@pytest.fixture
def config(service: Service, tmp_path: Path) -> RunConfig:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": str(i), "completion": "Aye"}) + "\n" for i in range(9)))
    data = {"dataset_id": service.data.add(rows).id}
    return parse({"name": "tiny", "base_model": str(write_tiny_model(tmp_path / "tiny")), "data": data})


@pytest.fixture
def sweeping(service: Service) -> Sweeping:
    return Sweeping(service, WIDGETS)


def typed(budget: str = "", keeps_scale: bool = True, **axes: str) -> Typed:
    paths = {"rank": RANK, "rate": RATE, "seed": SEED, "targets": TARGETS, "alpha": "lora.alpha"}
    return Typed(axes={paths[name]: text for name, text in axes.items()}, budget=budget, keeps_scale=keeps_scale)


def told(sweeping: Sweeping, form: Typed, config: RunConfig | None, **about: Any) -> tuple[str, Any]:
    """What Launch is called, and the news of the accordion."""
    outlook = sweeping.look(form, config)
    return sweep.launch_label(form, outlook), sweeping.news(form, outlook, **({"method": "lora"} | about))


def faulty(news: Any) -> list[str]:
    return [name for name, update in news.items() if isinstance(update, dict) and "faulty" in update["elem_classes"]]


# -- the accordion ---------------------------------------------------------------------------------------------------


def test_every_widgets_value_is_read_in_its_place() -> None:
    values = [f"value of {path}" for path in PATHS]
    form = Typed.read(*values, "1M", sweep.STAYS)
    assert form.axes == dict(zip(PATHS, values, strict=True)) and form.budget == "1M" and not form.keeps_scale
    assert Typed.read(*[""] * len(PATHS), "", sweep.FOLLOWS).keeps_scale
    assert not Typed.read().is_asked and not Typed.read(*["  "] * len(PATHS), None, None).is_asked


def test_nothing_typed_is_one_run_and_says_nothing(sweeping: Sweeping, config: RunConfig) -> None:
    label, news = told(sweeping, typed(), config)
    assert label == "" and news["plan"] == "" and faulty(news) == []


def test_launch_and_the_list_say_which_runs_there_will_be(sweeping: Sweeping, config: RunConfig) -> None:
    label, news = told(sweeping, typed(rank="2, 4, 8", rate="1e-4, 3e-4"), config)
    assert label == "Launch 6 runs" and 'data-runs="6"' in news["plan"] and faulty(news) == []
    names = re.findall(r"<td>(tiny[^<]*)</td>", news["plan"])
    assert names == [f"tiny · r{rank} · lr {rate}" for rank in (2, 4, 8) for rate in ("1e-4", "3e-4")]
    assert "in all" not in news["plan"]
    assert told(sweeping, typed(seed="1"), config)[0] == "Launch 1 run"


def test_the_time_of_all_runs_is_told_where_that_of_one_is_known(sweeping: Sweeping, config: RunConfig) -> None:
    _, news = told(sweeping, typed(seed="1, 2, 3"), config, seconds_a_run=40.0)
    assert "about 2:00 in all" in news["plan"]
    longer = Typed(axes={"optim.epochs": "3, 6"})
    _, news = told(sweeping, longer, config, seconds_a_run=40.0)
    assert config.optim.epochs == 3 and "about 2:00 in all" in news["plan"]


@pytest.mark.parametrize(
    ("form", "marked", "words", "label"),
    [
        (typed(rank="4, 8, x"), RANK, "Rank is &#x27;x&#x27;", "Check rank"),
        (typed(rate="1e-4, 30"), RATE, "Learning rate is 30", "Check learning rate"),
        (typed(targets="q_proj, qq"), TARGETS, "'qq' matches no module", "Check target modules"),
        (typed(budget="lots", rank="4"), "budget", "The budget is 'lots'", "Check the budget"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field_alone(
    sweeping: Sweeping, config: RunConfig, form: Typed, marked: str, words: str, label: str
) -> None:
    said, news = told(sweeping, form, config)
    assert faulty(news) == [marked] and said == label and news["plan"] == ""
    assert words.replace("&#x27;", "'") in news[marked]["info"]


def test_a_fault_of_no_field_is_said_below(sweeping: Sweeping, config: RunConfig) -> None:
    label, news = told(sweeping, typed(seed=", ".join(map(str, range(65)))), config)
    assert label == "Too many runs" and "65 runs, and 64 is the most" in news["plan"] and faulty(news) == []


def test_runs_that_the_budget_leaves_out_are_named_with_the_reason(sweeping: Sweeping, config: RunConfig) -> None:
    label, news = told(sweeping, typed(targets="q_proj, all linear", budget="200"), config)
    assert label == "Launch 1 run" and "tiny · q_proj · r1" in news["plan"]
    assert re.search(r"Left out.*all linear.*even rank 1 trains .* more than the budget of 200", news["plan"])
    assert told(sweeping, typed(budget="2"), config)[0] == "No run stays within the budget"


def test_while_the_form_is_not_ready_the_list_says_so(sweeping: Sweeping) -> None:
    label, news = told(sweeping, typed(rank="4, 8"), None)
    assert label == "" and "once the form above is complete" in news["plan"]


def test_what_a_method_has_no_use_for_is_out_of_sight(sweeping: Sweeping) -> None:
    news = sweeping.news(typed(), SweepOutlook(), method="full", shapes=SHAPES)
    assert {path for path in PATHS if news[path]["visible"] == "hidden"} == {TARGETS, RANK, "lora.alpha"}
    assert news["budget"]["visible"] == "hidden" and news["choices"] == ""


def test_the_models_own_layers_are_offered_as_targets(sweeping: Sweeping, config: RunConfig) -> None:
    news = sweeping.news(typed(), SweepOutlook(), method="lora", shapes=SHAPES)
    offered = re.findall(r'data-add="([^"]*)"', news["choices"])
    assert offered == ["q_proj", "v_proj", "up_proj", "q_proj+v_proj", "all attention", "all linear"]
    tiny = sweeping.service.inspect_model(config.base_model).shapes
    known = re.findall(r'data-add="([^"]*)"', sweeping.news(typed(), SweepOutlook(), method="lora", shapes=tiny)["choices"])  # fmt: skip # noqa: E501
    assert told(sweeping, typed(targets=", ".join(known)), config)[0] == f"Launch {len(known)} runs"


def test_alpha_follows_or_stays_as_chosen(sweeping: Sweeping, config: RunConfig) -> None:
    for keeps_scale, alphas in ((True, [8, 32]), (False, [16, 16])):
        plan = sweeping.look(typed(rank="4, 16", keeps_scale=keeps_scale), config).plan
        assert plan is not None and [one.lora.alpha for one in plan.configs] == alphas


def test_the_command_beside_launch_asks_for_the_same_runs(config: RunConfig) -> None:
    form = typed(rank="2, 4", targets="q_proj, q_proj+v_proj", budget="1M", keeps_scale=False)
    single, several = (command.command_line(config, ["--data", "rows.jsonl"], each.options) for each in (typed(), form))
    assert single.startswith("python app.py train ") and "--budget" not in single
    words = shlex.split(several.replace("\\\n", ""))
    assert words[:3] == ["python", "app.py", "sweep"] and words.count("--rank") == words.count("--targets") == 1
    given = dict(zip(words, words[1:], strict=False))
    assert (given["--rank"], given["--targets"], given["--budget"]) == ("2,4", "q_proj,q_proj+v_proj", "1M")
    assert words[-1] == "--keep-alpha" and "--keep-alpha" not in typed(rank="2").options
    assert {"--rank", "--lr", "--seed"} == set(typed(rank="2", rate="1", seed="1").options)


def test_a_double_click_makes_one_group(sweeping: Sweeping, config: RunConfig) -> None:
    form = typed(rank="2, 4")
    groups = {sweeping.submit(form, config, "visit") for _ in range(3)}
    assert len(groups) == 1 and len(sweeping.service.runs()) == 2
    with pytest.raises(ConfigError):
        sweeping.submit(typed(rank="x"), config, "another")


def test_names_cannot_put_markup_into_the_page(sweeping: Sweeping, config: RunConfig) -> None:
    evil = replace(config, name=XSS)
    assert "<img" not in told(sweeping, typed(rank="2, 4", targets=f"{XSS}, q_proj"), evil)[1]["plan"]
    group = launched(sweeping.service, evil, rank="2, 4")
    assert "<img" not in sweep_view.section(group)


# -- the runs of a sweep side by side --------------------------------------------------------------------------------


def launched(
    service: Service, config: RunConfig, losses: list[float | None] | None = None, **axes: str
) -> sweeps.Group:
    """A sweep's group, as it is when its runs have come to these losses."""
    plan = Sweeping(service, WIDGETS).look(typed(**axes), config).plan
    assert plan is not None
    group = service.sweeps.group(service.sweeps.submit(plan.configs))
    if losses is None:
        return group
    outcomes = tuple(
        replace(one, run=replace(one.run, eval_loss=loss, state="finished" if loss is not None else "failed"))
        for one, loss in zip(group.outcomes, losses, strict=True)
    )
    return replace(group, outcomes=outcomes, spreads=sweeps.spreads(group.axes, outcomes))


def figure(group: sweeps.Group) -> dict[str, list[tuple[str, float]]]:
    """The chart's lines by their names."""
    drawn = charts.side_by_side(group)
    assert drawn is not None
    return {line["name"]: list(zip(line["x"], line["y"], strict=True)) for line in drawn["data"]}


def test_a_group_says_how_far_it_is_and_what_varies(service: Service, config: RunConfig) -> None:
    group = launched(service, config, [2.0, None, 1.0, 3.0], rank="2, 4", rate="1e-4, 3e-4")
    assert sweep_view.done_words(group) == "3 of 4 runs finished · 1 failed · rank and learning rate vary"
    html = sweep_view.section(group)
    assert 'aria-valuenow="3"' in html and html.count("/runs?run=") == 4


def test_the_best_run_is_marked_and_its_settings_are_a_click_away(service: Service, config: RunConfig) -> None:
    group = launched(service, config, [2.0, 1.0], rank="2, 4")
    html = sweep_view.section(group)
    best = group.outcomes[1].run
    assert html.count('class="best"') == 1 and f'href="/?from={best.id}"' in html
    assert re.search(rf'is-best.*?/runs\?run={best.id}"', html)
    assert 'class="best"' not in sweep_view.section(launched(service, config, rank="2, 4"))


def test_a_line_of_the_chart_is_a_choice_of_the_rest(service: Service, config: RunConfig) -> None:
    group = launched(service, config, [4.0, 3.0, 2.0, None, 1.5, 1.0], rank="2, 4, 8", rate="1e-4, 3e-4")
    assert charts.axis_of(group) == RANK
    assert figure(group) == {
        "lr 1e-4": [("r2", 4.0), ("r4", 2.0), ("r8", 1.5)], "lr 3e-4": [("r2", 3.0), ("r8", 1.0)],
    }  # fmt: skip


def test_seeds_are_a_mean_with_bars_and_never_a_line(service: Service, config: RunConfig) -> None:
    group = launched(service, config, [1.0, 2.0, 3.0, 5.0], rank="2, 4", seed="1, 2")
    assert figure(group) == {"held-out loss": [("r2", 1.5), ("r4", 4.0)]}
    drawn = charts.side_by_side(group)
    assert drawn is not None and drawn["data"][0]["error_y"]["array"] == pytest.approx([0.707107, 1.41421])
    html = sweep_view.section(group)
    assert "1.500 ± 0.707" in html and "4.000 ± 1.414" in html and "Each seed holds out other rows" in html
    alone = launched(service, config, [1.0, 2.0], seed="1, 2")
    assert figure(alone) == {"held-out loss": [("seed 1", 1.0), ("seed 2", 2.0)]}


def test_ranks_that_a_budget_gave_are_no_axis_of_their_own(service: Service, config: RunConfig) -> None:
    group = launched(service, config, [1.0, 2.0], targets="q_proj, q_proj+v_proj", budget="1k")
    assert group.axes == (TARGETS, RANK) and charts.axis_of(group) == TARGETS
    assert figure(group) == {"held-out loss": [("q_proj", 1.0), ("q_proj+v_proj", 2.0)]}


def test_without_two_losses_there_is_no_chart_and_a_sentence_says_why(service: Service, config: RunConfig) -> None:
    waiting, silent = launched(service, config, rank="2, 4"), launched(service, config, [None, None], rank="2, 4")
    assert charts.side_by_side(waiting) is None and "begins with the second run" in sweep_view.section(waiting)
    assert "No run measured a held-out loss" in sweep_view.section(silent)


def test_no_button_leads_nowhere(service: Service, config: RunConfig) -> None:
    group = launched(service, config, rank="2, 4, 8")
    assert "Cancel the 3 that wait" in sweep_view.section(group) and "Stop the group" not in sweep_view.section(group)
    service._store.claim(lambda *_: Worker(1, "gone"))
    html = sweep_view.section(service.sweeps.group(group.id))
    assert "Cancel the 2 that wait" in html and "Stop the group" in html
    assert "data-end" not in sweep_view.section(launched(service, config, [1.0, 2.0], rank="2, 4"))


# -- the Runs page ---------------------------------------------------------------------------------------------------


@pytest.fixture
def page(service: Service) -> RunsPage:
    return RunsPage(service, Stories(service), Names())  # type: ignore[arg-type]


def event(**values: Any) -> Any:
    return SimpleNamespace(**values)


def test_runs_of_a_group_stand_together_and_nowhere_else(page: RunsPage, config: RunConfig) -> None:
    alone = page.service.submit(replace(config, name="alone"))
    page.service._store.claim(lambda *_: Worker(1, "gone"))
    group = launched(page.service, config, rank="2, 4")
    news = page.look(Seen())
    assert "alone" in news["run_list"] and "tiny · r2" not in news["run_list"]
    assert news["groups"].count('class="sweep"') == 1 and f'data-id="{group.id}"' in news["groups"]
    assert alone.id not in news["groups"]


def test_a_group_has_an_address_of_its_own(page: RunsPage, config: RunConfig) -> None:
    group, other = launched(page.service, config, rank="2, 4"), launched(page.service, config, rank="8, 16")
    news = page.open(event(query_params={"group": group.id}))
    assert f'data-id="{group.id}"' in news["groups"] and other.id not in news["groups"]
    assert 'href="/runs"' in news["run_queue"] and news["run_list"] == ""
    missing = page.open(event(query_params={"group": "nobody"}))
    assert "There is no group nobody" in missing["banner"] and group.id in missing["groups"]


def test_what_has_not_changed_is_not_sent_again(page: RunsPage, config: RunConfig) -> None:
    seen = Seen()
    launched(page.service, config, rank="2, 4")
    assert "groups" in page.look(seen) and page.look(seen) == {}
    page.service._store.claim(lambda *_: Worker(1, "gone"))
    assert "groups" in page.look(seen)


def test_old_groups_make_room_for_new_ones(page: RunsPage, config: RunConfig) -> None:
    groups = [launched(page.service, replace(config, name=f"sweep {at}"), seed="1") for at in range(8)]
    news = page.look(Seen())
    shown = re.findall(r'class="sweep" data-id="(\w+)"', news["groups"])
    assert shown == [group.id for group in groups[::-1]][: sweep_view.LISTED_GROUPS]


def test_a_click_gives_up_what_waits_or_ends_the_group(page: RunsPage, config: RunConfig) -> None:
    group = launched(page.service, config, rank="2, 4, 8")
    page.service._store.claim(lambda *_: Worker(1, "gone"))
    page.end_group(Seen(), event(id=group.id, end="waiting"))
    assert [run.state for run in page.service.sweeps.runs(group.id)] == ["preparing", "cancelled", "cancelled"]
    page.end_group(Seen(group_id=group.id), event(id=group.id, end="all"))
    assert page.service.sweeps.runs(group.id)[0].state == "stopping"
    with pytest.raises(NotFound):
        page.end_group(Seen(), event(id="nobody", end="all"))


def test_a_single_run_is_shown_as_before(page: RunsPage, config: RunConfig) -> None:
    page.service.submit(config)
    news = page.look(Seen())
    assert "tiny" in news["run_list"] and "groups" not in news
