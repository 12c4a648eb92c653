from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import pytest

from core.errors import NotFound
from core.events import Cancelled, EvalDone, Finished, Note, Preparing, Sample, Saved, Started, StepDone
from jobs.history import Steps, one_step
from tests.ui.stand_in import EventService, as_told
from ui.story import KEPT_NOTES, KEPT_SAMPLES, Stories, Story


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
        story.take(as_told(event))  # type: ignore[arg-type]
    return story


def columns(numbers: range) -> Steps:
    """What `step` tells of each of these, as columns."""
    each = [one_step(step(number)) for number in numbers]
    return Steps(**{name: [value for one in each for value in getattr(one, name)] for name in Steps.__slots__})


@pytest.mark.parametrize("split", [(1, 2501), (1, 2, 2501), (1, 700, 1900, 2501)])
def test_steps_in_any_portions_make_the_story_of_one_after_the_other(split: tuple[int, ...]) -> None:
    slow = told(started(steps=2500), *(step(number) for number in range(1, 2501)))
    quick = told(started(steps=2500))
    for first, end in pairwise(split):
        quick.take(columns(range(first, end)))
    assert quick == slow
    every = (quick.loss, quick.learning_rate, quick.grad_norm, quick.tokens, quick.seconds, quick.process_memory)
    assert len({tuple(curve.x) for curve in every}) == 1 and 500 <= len(quick.loss.x) <= 1000


def test_samples_and_curves_of_evaluations_begin_again_where_a_resumed_run_does() -> None:
    def sample(number: int) -> Sample:
        return Sample(step=number, number=0, prompt="What?", text=f"after {number}")

    def evaluated(number: int) -> EvalDone:
        return EvalDone(step=number, loss=3 - number, token_accuracy=number / 10)

    story = told(started(), evaluated(0), sample(0), step(1), step(2), evaluated(2), sample(2), started(first_step=2))
    assert [found.step for found in story.samples] == [0] and story.shares.x == story.evaluation.x == [0]
    assert (story.evaluated_tokens.y, story.evaluated_seconds.y) == ([0], [0])
    for event in (step(2), evaluated(2), sample(2)):
        story.take(as_told(event))
    assert [found.step for found in story.samples] == [0, 2] and story.shares.y == [0, 0.2]
    assert story.evaluated_tokens.y == [0, 100] and story.speed.y == [100, 100]


def test_a_resumed_runs_first_step_is_as_fast_as_it_was_and_not_as_slow_as_all_that_it_does_again() -> None:
    story = told(started(), *(step(number) for number in range(1, 9)), started(first_step=5), step(5))
    assert story.speed.y == [pytest.approx(100)] * 5


def test_a_story_in_short_is_what_a_list_shows() -> None:
    story = told(started(steps=500), EvalDone(step=0, loss=3.0), *(step(n, loss=n) for n in range(1, 401)))
    assert (story.summary.step, story.summary.steps, story.summary.eval_loss) == (400, 500, None)
    assert 48 <= len(story.summary.loss) < 60 and story.summary.base_eval_loss == 3.0


def test_only_so_many_samples_and_notes_are_kept() -> None:
    many = [Sample(step=number, number=0, prompt="?", text="!") for number in range(KEPT_SAMPLES + 5)]
    story = told(started(), *many, *(Note(text=str(number)) for number in range(KEPT_NOTES + 5)))
    assert story.samples == many[5:] and len(story.notes) == KEPT_NOTES


def test_a_resumed_run_draws_its_steps_once() -> None:
    story = told(started(), *(step(number) for number in range(1, 8)), started(first_step=5), step(5), step(6))
    assert story.loss.x == [1, 2, 3, 4, 5, 6]


def test_a_resumed_run_stands_where_its_checkpoint_does() -> None:
    story = told(started(), *(step(number) for number in range(1, 8)), started(first_step=5))
    assert story.step == 4
    story.take(one_step(step(5)))
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
