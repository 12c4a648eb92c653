"""Every state against everything that can be asked of a run in it."""

from __future__ import annotations

from typing import get_args

import pytest

from core.errors import RunError
from jobs import states
from jobs.launchers.local import Worker
from jobs.rows import Attempt
from jobs.states import (
    ACTIVE_STATES,
    ASKED,
    AT_ONCE,
    ENDED_STATES,
    RESUMABLE_STATES,
    Move,
    Outcome,
    RunState,
    Wish,
)
from jobs.store import Store
from tests.jobs.conftest import add_dataset_row, queue_run

STATES: tuple[RunState, ...] = get_args(RunState)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
every_state = pytest.mark.parametrize("state", STATES)
MOVES = [
    *(move for move in vars(states).values() if isinstance(move, Move)),
    *(*AT_ONCE.values(), *ASKED.values()),
    *(states.end(outcome) for outcome in OUTCOMES),
]

ADAPTER = {
    "name": "a", "base_model": "starter", "folder": "runs/R1/adapter", "rank": 1, "alpha": 1.0, "targets": "[]",
    "bytes": 1, "fingerprint": "00",
}  # fmt: skip


@pytest.fixture
def store_in(store: Store, state: RunState) -> Store:
    """A store with a run `R1` in `state`, brought there as a scheduler would."""
    add_dataset_row(store)
    queue_run(store, "R1")
    if state == "queued":
        return store
    attempt = store.claim(lambda *_: Worker(1, "gone"))
    assert attempt is not None
    if state in ("running", "pausing", "stopping"):
        store.begin_steps(attempt)
    if state == "pausing":
        store.ask_to_end("R1", "pause")
    elif state == "stopping":
        store.ask_to_end("R1", "keep")
    elif state == "finished":
        store.finish(attempt, ADAPTER)
    elif state not in ACTIVE_STATES:
        store.end(attempt, state)  # type: ignore[arg-type]
    assert store.run("R1").state == state
    return store


def attempt_of(store: Store) -> Attempt:
    """What a scheduler that followed the run from its first attempt on holds of it."""
    return Attempt(
        run_id="R1", number=1, state="running", worker=Worker(1, "gone"), device="cpu", events_offset=0, wish=None
    )


def test_every_state_can_be_reached_and_left_but_for_the_last_one() -> None:
    reached = {move.target for move in MOVES} | {"queued"}
    left = {source for move in MOVES for source in move.sources}
    assert reached == set(STATES) and set(STATES) - left == {"finished"}


def test_a_state_holds_a_device_or_waits_or_rests() -> None:
    assert sorted(STATES) == sorted((*ACTIVE_STATES, "queued", *states.RESTING_STATES))
    assert set(RESUMABLE_STATES) == set(states.RESTING_STATES) - {"finished"} and "paused" not in ENDED_STATES


@every_state
@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "finished"])
def test_a_run_ends_once_and_only_while_it_is_active(store_in: Store, state: RunState, outcome: Outcome) -> None:
    moved = store_in.end(attempt_of(store_in), outcome)
    assert moved == (state in ACTIVE_STATES)
    assert store_in.run("R1").state == (outcome if moved else state)


@every_state
def test_a_run_finishes_once_and_registers_one_adapter(store_in: Store, state: RunState) -> None:
    for _ in range(2):
        store_in.finish(attempt_of(store_in), ADAPTER)
    assert len(store_in.adapters()) == (state in ACTIVE_STATES or state == "finished")


@pytest.mark.parametrize("state", ACTIVE_STATES)
def test_an_earlier_attempt_has_no_say(store_in: Store, state: RunState) -> None:
    store_in.end(attempt_of(store_in), "interrupted")
    store_in.requeue("R1")
    assert store_in.claim(lambda *_: Worker(2, "gone")) is not None
    assert not store_in.end(attempt_of(store_in), "failed") and not store_in.finish(attempt_of(store_in), ADAPTER)
    assert store_in.run("R1").state == "preparing" and store_in.adapters() == ()


@every_state
@pytest.mark.parametrize(("wish", "word"), [(None, "resumed"), ("keep", "kept")])
def test_only_what_rests_unfinished_is_queued_again(
    store_in: Store, state: RunState, wish: Wish | None, word: str
) -> None:
    if state in RESUMABLE_STATES:
        run = store_in.requeue("R1", wish)
        assert (run.state, run.wish) == ("queued", wish)
        return
    with pytest.raises(RunError, match=f"cannot be {word}: it is {state}"):
        store_in.requeue("R1", wish)
    assert store_in.run("R1").state == state


@pytest.mark.parametrize("state", RESUMABLE_STATES)
def test_a_worker_is_told_what_its_run_was_queued_for_and_the_next_one_no_more(
    store_in: Store, state: RunState
) -> None:
    store_in.requeue("R1", "keep")
    attempt = store_in.claim(lambda *_: Worker(2, "gone"))
    assert attempt is not None and (attempt.wish, store_in.run("R1").wish) == ("keep", "keep")
    assert store_in.end(attempt, "interrupted") and store_in.run("R1").wish is None
    store_in.requeue("R1")
    attempt = store_in.claim(lambda *_: Worker(3, "gone"))
    assert attempt is not None and attempt.wish is None


@pytest.mark.parametrize("state", ["paused"])
def test_a_run_that_waits_to_be_kept_can_be_given_up_or_left_paused(store_in: Store, state: RunState) -> None:
    store_in.requeue("R1", "keep")
    assert store_in.ask_to_end("R1", "pause") == "paused" and store_in.run("R1").wish is None
    store_in.requeue("R1", "keep")
    assert store_in.ask_to_end("R1", "cancel") == "cancelled"


@every_state
@pytest.mark.parametrize("wish", ["pause", "keep", "cancel"])
def test_what_is_asked_is_done_noted_or_refused(store_in: Store, state: RunState, wish: str) -> None:
    wanted: dict[str, dict[RunState, RunState]] = {
        "pause": {"queued": "paused", "preparing": "pausing", "running": "pausing"},
        "keep": {"queued": "cancelled", **dict.fromkeys(ACTIVE_STATES, "stopping")},
        "cancel": {"queued": "cancelled", "paused": "cancelled", **dict.fromkeys(ACTIVE_STATES, "stopping")},
    }
    found = wanted[wish].get(state)
    if found is None:
        with pytest.raises(RunError, match="has already ended|cannot be (paused|stopped)"):
            store_in.ask_to_end("R1", wish)  # type: ignore[arg-type]
    else:
        assert store_in.ask_to_end("R1", wish) == found  # type: ignore[arg-type]
    assert store_in.run("R1").state == (found or state)


@every_state
def test_only_a_waiting_run_is_claimed(store_in: Store, state: RunState) -> None:
    if state == "queued":
        assert store_in.claim(lambda *_: Worker(3, "gone")) is not None
    else:
        assert store_in.claim(lambda *_: pytest.fail("a worker was started")) is None
