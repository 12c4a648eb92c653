from __future__ import annotations

from copy import deepcopy

import pytest

from core.errors import NotFound
from core.events import Cancelled, EvalDone, Finished, Note, Preparing, Saved, Started, StepDone
from tests.ui.stand_in import EventService
from ui.story import Curve, Stories, Story


def started(steps: int = 100, first_step: int = 1) -> Started:
    return Started(
        steps=steps,
        first_step=first_step,
        train_rows=90,
        eval_rows=6,
        tokens_per_epoch=1000,
        trained_tokens_per_epoch=600,
        trainable_parameters=10,
        base_parameters=1000,
        adapted_modules=4,
        bits=16,
        compute_dtype="float32",
        device="cpu",
    )


def step(number: int, loss: float = 2.0) -> StepDone:
    return StepDone(
        step=number, epoch=number / 10, loss=loss, learning_rate=1e-4, grad_norm=1.0,
        tokens=number * 50, seconds=number * 0.5, rss_bytes=1_000_000,
    )  # fmt: skip


def told(*events: object) -> Story:
    story = Story()
    for event in events:
        story.take(event)  # type: ignore[arg-type]
    return story


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 37, 1000, 4321])
def test_a_curve_is_bounded_and_keeps_its_first_and_newest_point(count: int) -> None:
    curve = Curve(limit=10)
    for x in range(count):
        curve.add(x, -x)
        assert len(curve.x) <= 11
        assert curve.x[0] == 0 and curve.x[-1] == x
    assert curve.x == sorted(set(curve.x))
    assert curve.y == [-x for x in curve.x]


def test_a_long_curve_covers_the_whole_way_evenly() -> None:
    curve = Curve(limit=100)
    for x in range(10_000):
        curve.add(x, x)
    gaps = {after - before for before, after in zip(curve.x[:-2], curve.x[1:-1], strict=True)}
    assert len(gaps) == 1 and len(curve.x) > 50


def test_a_resumed_run_draws_its_steps_once() -> None:
    story = told(started(), *(step(number) for number in range(1, 8)), started(first_step=5), step(5), step(6))
    assert story.loss.x == [1, 2, 3, 4, 5, 6]


def test_a_resumed_run_stands_where_its_checkpoint_does() -> None:
    story = told(started(), *(step(number) for number in range(1, 8)), started(first_step=5))
    assert story.step == 4
    story.take(step(5))
    assert story.step == 5


def test_a_run_begun_anew_forgets_the_first_attempt() -> None:
    story = told(started(), EvalDone(step=0, loss=3.0), step(1), started(), EvalDone(step=0, loss=2.9))
    assert story.loss.x == [] and story.evaluation.y == [2.9] and story.step == 0


def test_the_time_left_follows_from_the_mean_speed_and_ends_with_the_run() -> None:
    story = told(started(steps=100), step(40))
    assert story.seconds_left == pytest.approx(30)
    assert story.tokens_per_second == pytest.approx(100)
    story.take(Cancelled(step=40))
    assert story.seconds_left is None


def test_phases_notes_and_checkpoints_are_kept_in_order() -> None:
    story = told(
        Preparing(phase="loading", detail="tiny"), Note(text="two rows were cut"), started(), Saved(step=3, path="x")
    )
    assert story.phases == ["loading\ttiny"] and story.notes == ["two rows were cut"]
    assert story.saved is not None and story.saved.step == 3 and story.phase is None


def test_a_phase_that_goes_on_is_told_once_with_how_far_it_is() -> None:
    rows = ("9 rows", "3 of 9 rows", "6 of 9 rows")
    story = told(Preparing(phase="loading"), *(Preparing(phase="tokenizing", detail=detail) for detail in rows))
    assert story.phases == ["loading\t", "tokenizing\t6 of 9 rows"]
    assert story.phase is not None and story.phase.detail == "6 of 9 rows"


def test_accuracy_is_that_of_the_newest_evaluation_and_that_from_before_the_first_step() -> None:
    story = told(started(), EvalDone(step=0, loss=0.7, accuracy=0.5), step(1), EvalDone(step=1, loss=0.3, accuracy=0.9))
    assert (story.base_accuracy, story.accuracy) == (0.5, 0.9)
    assert told(started(), EvalDone(step=0, loss=0.7)).accuracy is None


def test_a_resumed_run_is_no_longer_over() -> None:
    end = Finished(
        output="a", steps=1, tokens=1, seconds=1, tokens_per_second=1, peak_rss_bytes=1,
        first_loss=None, last_loss=None, eval_loss=None,
    )  # fmt: skip
    story = told(started(), step(1), end)
    assert story.end == end
    story.take(Preparing(phase="loading"))
    assert story.end is None


def test_every_visitor_gets_the_whole_story_and_each_event_is_read_once() -> None:
    service = EventService({"r1": [started(), step(1), step(2)]})
    stories = Stories(service)  # type: ignore[arg-type]
    assert stories.of("r1").step == 2
    service.journal["r1"].append(step(3))
    assert stories.of("r1").step == 3
    assert service.asked == [("r1", 0), ("r1", 3)]


def test_a_story_that_was_given_stays_as_it_is_while_the_run_goes_on() -> None:
    service = EventService({"run": [started(), Note(text="a"), step(1), step(2)]})
    stories = Stories(service)  # type: ignore[arg-type]
    given = stories.of("run")
    before = deepcopy(given)
    service.journal["run"] += [Preparing(phase="loading"), EvalDone(step=2, loss=1.0), step(3), Note(text="b")]
    assert stories.of("run").loss.x == [1, 2, 3]
    assert given == before


def test_only_the_stories_looked_at_lately_are_kept() -> None:
    service = EventService({name: [started(), step(1)] for name in "abc"})
    stories = Stories(service, capacity=2)  # type: ignore[arg-type]
    for name in "abca":
        assert stories.of(name).step == 1
    assert service.asked[-1] == ("a", 0)


def test_an_unknown_run_is_said_to_be_unknown() -> None:
    with pytest.raises(NotFound):
        Stories(EventService({})).of("nope")  # type: ignore[arg-type]
