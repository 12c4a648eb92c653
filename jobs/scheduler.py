"""Starts queued runs and follows active ones: the only place where a run is moved on because of what its worker did.

A tick asks of each active run: does its worker live, and what has it told? The events decide the state, the worker's
death decides when: a run has ended only once its process has gone, so that the next one finds the device free. A
worker that went without a last word leaves its run interrupted. Nothing here depends on having started the worker:
after a restart the pid and birth in the store find it again.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import RunError, UserError
from core.events import Cancelled, Event, Failed, Finished, Paused, Started
from core.train.disk import give_up_reserve
from jobs.adapters import describe_adapter
from jobs.home import Home
from jobs.journal import read_events, read_wish, write_wish
from jobs.launchers.local import LocalLauncher, Worker
from jobs.machine import CPU
from jobs.oom import oom_kills
from jobs.processes import is_alive, signal_group
from jobs.room import waiting_for_room
from jobs.rows import Attempt
from jobs.states import Wish
from jobs.store import Store
from jobs.views import RunProblem

log = logging.getLogger(__name__)

LastEvent = Finished | Paused | Cancelled | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited for what, in seconds.

    A worker that was asked to end while it prepares gets SIGTERM after `preparing`, and SIGKILL `kill` later. One that
    was asked to cancel has nothing to keep and gets SIGKILL after `cancel`; what it was writing is whole or absent. One
    that was asked to keep what it learned, or to pause, may need long for its last step or its checkpoint and gets
    `keep`.
    After its last event a worker has `leave` to exit. `gone` is how long we wait for a worker's parent, if that is
    another process than this one, to say how it ended.
    """

    tick: float = 0.5
    preparing: float = 8.0
    cancel: float = 8.0
    kill: float = 20.0
    keep: float = 600.0
    leave: float = 10.0
    gone: float = 2.0


@dataclass(slots=True)
class _Watch:
    """What the scheduler remembers of one attempt between two ticks. Losing it costs nothing but waiting anew."""

    attempt: Attempt
    offset: int
    has_started: bool = False
    last: LastEvent | None = None
    last_since: float = 0.0
    wish: Wish | None = None
    wish_since: float = 0.0
    gone_since: float | None = None


class Scheduler:
    """One thread on one home. `problem` says why it cannot do its work at the moment, if so.

    Args:
        devices: what there is, a place for one run each.
        make_room: called with a device before a run starts there, to free it.
    """

    def __init__(
        self,
        store: Store,
        launcher: LocalLauncher,
        *,
        make_room: Callable[[str], None] = lambda device: None,
        devices: Callable[[], Sequence[str]] = lambda: (CPU,),
        patience: Patience | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._home: Home = store.home
        self._launcher = launcher
        self._make_room = make_room
        self._devices = devices
        self._patience = patience or Patience()
        self._monotonic = monotonic
        self._watches: dict[str, _Watch] = {}
        self.problem = ""
        self._awake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to tick, in a thread of its own."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Tick now rather than soon."""
        self._awake.set()

    def close(self) -> None:
        """End the thread. Workers go on."""
        self._closing = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
        self._launcher.let_go()

    def tick(self) -> None:
        """Follow every active run, then start as many as there are free devices for.

        Raises:
            RunError: nothing can be written.
        """
        if self._store.problem:
            self._store.try_to_write()
        problem = self._follow_all()
        self.problem = self._start_waiting() or problem

    def _loop(self) -> None:
        while not self._closing:
            try:
                self.tick()
            except Exception as error:  # noqa: BLE001, it passes; a scheduler that died would not come back
                self._tell(error)
            self._awake.wait(self._patience.tick)
            self._awake.clear()

    def _tell(self, error: Exception) -> None:
        """Log why a tick failed, once for as long as it is the same."""
        if isinstance(error, UserError):
            problem = str(error)
        elif isinstance(error, OSError):
            problem = f"Nothing can be saved: {error.strerror or error}"
        else:
            problem = f"The queue stands still because of a fault of ours: {type(error).__name__}: {error}"
        if problem != self.problem:
            log.error("The scheduler's tick failed; it will try again", exc_info=error)
        self.problem = problem

    # -- starting ------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Put on record what became of workers that have gone, without starting any: for whoever only wants to know."""
        deadline = self._monotonic() + 2 * self._patience.gone
        while any(not self._is_there(attempt.worker) for attempt in self._store.attempts()):
            self._follow_all()
            if self._monotonic() > deadline:
                return
            time.sleep(self._patience.tick / 5)

    def _follow_all(self) -> str:
        """What hinders us from following a run, if anything; the others are followed all the same."""
        attempts = self._store.attempts()
        self._forget_all_but(attempts)
        problem = ""
        for attempt in attempts:
            try:
                self._follow(attempt)
            except OSError as error:
                problem = f"The run {attempt.run_id} cannot be followed: {error}"
                if problem != self.problem:
                    log.exception("A run cannot be followed; it will be tried again")
        return problem

    def _start_waiting(self) -> str:
        """Start as many runs as there are free devices for; why none, if the disk is in the way."""
        while (device := self._store.next_device(self._devices())) is not None:
            if problem := waiting_for_room(self._home):
                return problem
            self._make_room(device)
            if not self._start_next():
                break
        return ""

    def _start_next(self) -> bool:
        """Whether a run was started, or tried to."""
        started: list[Worker] = []
        chosen: list[str] = []

        def launch(run_id: str, device: str) -> Worker:
            chosen.append(run_id)
            folder = self._home.run(run_id)
            if not folder.path.is_dir():
                raise RunError("The run's folder is not there any more", str(folder.path), "Start a new run")
            for left_over in (*folder.path.glob(f"{folder.control.name}*"), folder.heartbeat):
                left_over.unlink(missing_ok=True)
            folder.oom_kills.write_text(str(oom_kills()), encoding="ascii")
            started.append(self._launcher.launch(folder, device))
            return started[0]

        try:
            attempt = self._store.claim(launch, self._devices())
        except BaseException as error:
            for worker in started:
                self._launcher.abandon(worker)
            if not isinstance(error, RunError) or not chosen or started:
                raise
            self._store.fail_to_start(chosen[0], _problem(error))  # its worker could not be launched
            return True
        if attempt is not None:
            if attempt.wish is not None:
                self._deliver(self._home.run(attempt.run_id).control, attempt.wish)
            self._launcher.open_gate(attempt.worker)
            log.info("Run %s started on %s as process %d", attempt.run_id, attempt.device, attempt.worker.pid)
        return attempt is not None

    # -- following -----------------------------------------------------------------------------------------------

    def _follow(self, attempt: Attempt) -> None:
        watch = self._watch(attempt)
        is_there = self._is_there(attempt.worker)  # asked before reading: the dead write no more
        events, watch.offset = read_events(self._home.run(attempt.run_id).events, watch.offset)
        for event in events:
            self._note(watch, event)
        if watch.has_started and attempt.state == "preparing":
            self._store.begin_steps(attempt)
        if is_there:
            self._hurry(watch)
        elif watch.last is not None or not self._may_hear_more(watch):
            self._conclude(watch)

    def _is_there(self, worker: Worker) -> bool:
        # Our own child is asked for its exit code: it looks dead a moment before it can say how it ended.
        if self._launcher.is_ours(worker):
            return self._launcher.exit_code(worker) is None
        return is_alive(worker.pid, worker.birth)

    def _watch(self, attempt: Attempt) -> _Watch:
        watch = self._watches.get(attempt.run_id)
        if watch is None or watch.attempt.number != attempt.number:
            watch = _Watch(attempt=attempt, offset=attempt.events_offset)
            self._watches[attempt.run_id] = watch
        watch.attempt = attempt
        if watch.wish != attempt.wish:
            watch.wish, watch.wish_since = attempt.wish, self._monotonic()
        return watch

    def _note(self, watch: _Watch, event: Event) -> None:
        if isinstance(event, Started):
            watch.has_started = True
            if watch.wish == "keep":
                watch.wish_since = self._monotonic()  # until now it read the checkpoint that is to be kept
        if isinstance(event, LastEvent):
            watch.last, watch.last_since = event, self._monotonic()

    def _may_hear_more(self, watch: _Watch) -> bool:
        """Whether a dead worker's parent, being another live process, may still put its end on record."""
        if self._launcher.is_ours(watch.attempt.worker):
            return False
        if watch.gone_since is None:
            watch.gone_since = self._monotonic()
        return self._monotonic() - watch.gone_since < self._patience.gone

    def _hurry(self, watch: _Watch) -> None:
        """Deliver the wish, and end a worker that does not heed it, or does not leave after its last event."""
        now, patience, worker = self._monotonic(), self._patience, watch.attempt.worker
        if watch.last is not None:
            if now - watch.last_since > patience.leave:
                signal_group(worker.pid, worker.birth, signal.SIGKILL)
            return
        if watch.wish is None:
            return
        control = self._home.run(watch.attempt.run_id).control
        if read_wish(control) != watch.wish:
            self._deliver(control, watch.wish)
        if self._is_reading(watch):
            return
        waited = now - watch.wish_since
        may_kill_after = patience.preparing + patience.kill
        if watch.wish == "cancel":
            may_kill_after = patience.cancel
        if watch.wish in ("keep", "pause") and watch.has_started:
            may_kill_after = patience.keep
        if waited > may_kill_after:
            signal_group(worker.pid, worker.birth, signal.SIGKILL)
        elif waited > patience.preparing and not watch.has_started:
            signal_group(worker.pid, worker.birth, signal.SIGTERM)

    def _is_reading(self, watch: _Watch) -> bool:
        """Whether a worker has yet to come to the checkpoint that it is to keep, which takes as long as it takes."""
        folder = self._home.run(watch.attempt.run_id)
        return watch.wish == "keep" and not watch.has_started and folder.checkpoint_step is not None

    def _deliver(self, control: Path, wish: Wish) -> None:
        """Tell the worker; one that cannot be told, since the disk is full, is ended all the same when it is time."""
        try:
            write_wish(control, wish)
        except OSError as error:
            log.warning("A worker could not be told to %s: %s", wish, error)

    def _conclude(self, watch: _Watch) -> None:
        """Put the end of a run on record whose worker has gone, and give back what it had set aside: before, since the
        disk may be full of it.
        """
        give_up_reserve(self._home.run(watch.attempt.run_id).path)
        attempt, last = watch.attempt, watch.last
        if isinstance(last, Finished):
            self._register(attempt, last)
        elif isinstance(last, Failed):
            problem = RunProblem(title=last.title, detail=last.detail, hint=last.hint)
            self._store.end(attempt, "failed", problem)
        elif isinstance(last, Cancelled) or watch.wish == "cancel":
            self._store.end(attempt, "cancelled")
        elif isinstance(last, Paused):
            self._store.end(attempt, "paused", _why(last))
        elif watch.wish == "pause" and not watch.has_started:
            self._store.end(attempt, "paused")
        else:
            self._store.end(attempt, "interrupted", self._how_it_went(watch))

    def _register(self, attempt: Attempt, finished: Finished) -> None:
        run = self._store.run(attempt.run_id)
        try:
            adapter = describe_adapter(self._home.run(run.id).adapter)
        except UserError as error:
            self._store.end(attempt, "failed", _problem(error))
            return
        values = {
            "name": run.name,
            "folder": self._home.relative(self._home.run(run.id).adapter),
            "base_model": run.config.base_model,
            "eval_loss": finished.eval_loss,
            "base_eval_loss": finished.base_eval_loss,
        }
        self._store.finish(attempt, {**adapter.as_row(), **values})

    def _how_it_went(self, watch: _Watch) -> RunProblem:
        code = self._launcher.exit_code(watch.attempt.worker)
        hint = "Resume the run; it goes on from its last checkpoint"
        if watch.wish == "keep" and not watch.has_started and not self._is_reading(watch):
            return RunProblem(title="The run was stopped before its first step", hint="Resume the run to begin again")
        if code is None:
            return RunProblem(title="The worker is gone", hint=hint)
        if code == -signal.SIGKILL and self._was_out_of_memory(watch.attempt.run_id):
            return RunProblem(
                title="The system ended the worker because the machine ran out of memory",
                hint="Lower the tokens at once, turn gradient checkpointing on, or close other programs; then resume",
            )
        if code < 0:
            return RunProblem(title=f"The worker died (signal {-code})", hint=hint)
        return RunProblem(
            title=f"The worker left without a last word (exit code {code})", hint=f"See the log, then {hint}"
        )

    def _was_out_of_memory(self, run_id: str) -> bool:
        """Whether the system has ended a process for want of memory since the run's worker was started."""
        now = oom_kills()
        try:
            before = int(self._home.run(run_id).oom_kills.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return False
        return now is not None and now > before

    def _forget_all_but(self, attempts: tuple[Attempt, ...]) -> None:
        active = {attempt.run_id for attempt in attempts}
        for run_id in self._watches.keys() - active:
            self._launcher.forget(self._watches.pop(run_id).attempt.worker)


def _why(paused: Paused) -> RunProblem | None:
    """The reason where nobody asked for the pause."""
    return RunProblem(title=paused.title, detail=paused.detail, hint=paused.hint) if paused.title else None


def _problem(error: UserError) -> RunProblem:
    return RunProblem(title=error.title, detail=error.detail, hint=error.hint)
