from __future__ import annotations

from pathlib import Path

import pytest

from jobs.service import Checkpoint
from tests.ui.stand_in import adapter
from ui import charts, panes
from ui.panes import PaneState, Part

CAPTAIN = panes.part_of(adapter())
JSON = panes.part_of(adapter(id="a2", name="to-json", fingerprint="77c0ffee"))
STEP = panes.part_of_checkpoint(
    Checkpoint(
        run_id="r1", run_name="captain-r8", base_model="starter", step=1140, is_going_on=True,
        path=Path("/home/runs/r1/opened/step-00001140"), fingerprint="12345678",
    )
)  # fmt: skip


def pane(*parts: Part, strengths: tuple[float, ...] = ()) -> PaneState:
    found = PaneState(number=1, title="tiny", parts=parts)
    for at, strength in enumerate(strengths):
        found.set_strength(at, strength)
    return found


@pytest.mark.parametrize(
    ("shown", "asked", "name", "made_with"),
    [
        (pane(), None, "tiny", ""),
        (pane(CAPTAIN), "a1", "captain-r8", "strength 1"),
        (pane(CAPTAIN, strengths=(-0.5,)), (("a1", -0.5),), "captain-r8", "strength −0.5"),
        (pane(STEP), str(Path("/home/runs/r1/opened/step-00001140")), "captain-r8 · step 1,140", "strength 1"),
        (
            pane(CAPTAIN, JSON, strengths=(0.5, 1.0)),
            (("a1", 0.5), ("a2", 1.0)),
            "captain-r8 + to-json",
            "0.5 captain-r8 + 1 to-json",
        ),
    ],
)
def test_a_pane_asks_for_what_it_shows(shown: PaneState, asked: object, name: str, made_with: str) -> None:
    assert (shown.adapter, shown.name, shown.made_with) == (asked, name, made_with)
    assert shown.is_base == (asked is None)


@pytest.mark.parametrize(
    ("said", "kept"), [(3.0, 2.0), (-7.0, -1.0), (0.333333, 0.33), (float("nan"), 1.0), (float("inf"), 1.0), (0.0, 0.0)]
)
def test_a_strength_stays_within_what_is_allowed(said: float, kept: float) -> None:
    assert pane(CAPTAIN, strengths=(said,)).parts[0].strength == kept


@pytest.mark.parametrize(
    ("shown", "query"),
    [
        ([pane()], ""),
        ([pane(), pane(CAPTAIN), pane(JSON)], "?adapters=a1,a2"),
        ([pane(), pane(CAPTAIN, strengths=(-1.0,))], "?adapters=a1@-1"),
        ([pane(), pane(STEP, strengths=(0.5,))], "?adapters=r1:1140@0.5"),
        ([pane(), pane(CAPTAIN, STEP, strengths=(0.5, 0.25))], "?adapters=a1@0.5~r1:1140@0.25"),
        ([pane(CAPTAIN)], "?panes=a1"),
        ([pane(CAPTAIN), pane()], "?panes=a1,base"),
        ([pane(), pane(), pane(CAPTAIN)], "?panes=base,base,a1"),
    ],
)
def test_an_address_names_the_panes_and_is_read_as_the_same(shown: list[PaneState], query: str) -> None:
    assert panes.query(shown) == query
    name, _, value = query.removeprefix("?").partition("=")
    read = panes.named(value if name == "adapters" else "", value if name == "panes" else "")
    assert read == [tuple((part.address, part.strength) for part in each.parts) for each in shown]


@pytest.mark.parametrize(
    ("adapters", "named"),
    [
        ("", [()]),
        (",,a1,", [(), (("a1", 1.0),)]),
        ("a1@much", [(), (("a1", 1.0),)]),
        ("a1@0.5@2", [(), (("a1@0.5", 2.0),)]),
    ],
)
def test_a_strange_address_is_read_as_far_as_it_goes(adapters: str, named: list[object]) -> None:
    assert panes.named(adapters, "") == named


def test_each_pane_gets_a_color_that_no_other_has() -> None:
    shown = [PaneState(number=0, title="tiny")]
    for number in range(1, panes.MOST_PANES):
        shown.append(PaneState(number=number, title="x", color=panes.free_color(shown)))
    assert shown[0].color == charts.GRAY and len({pane.color for pane in shown}) == panes.MOST_PANES
    del shown[2]
    assert panes.free_color(shown) == panes.COLORS[1]
