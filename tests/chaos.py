"""Kills workers, apps, or both, at random moments of real runs, and proves each time that nothing is lost.

    python -m tests.chaos --kills 100 [--seed N]

A run of the tiny model that is never disturbed says what the weights must be. Then runs are killed (SIGKILL, the real
processes) while they load, tokenize, step, write a checkpoint, write their result, or leave; the app is started anew,
the run resumed, and killed again, until it ends. After each kill:

- the run comes to rest in one state, `interrupted` or `finished`, or goes on with a live worker;
- every checkpoint that was there before is there, or a newer one, and each is whole to the byte;
- `events.jsonl` holds whole lines, and steps follow each other without a gap since the last resume;

and in the end the weights are to the bit those of the run that was left alone, there is one adapter, and nothing is
left of what was half written.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.config import RunConfig, parse
from core.events import StepDone
from jobs.home import RunFolder
from jobs.journal import read_events
from jobs.processes import is_alive
from jobs.service import Run, Service
from jobs.store import Store
from tests.browser.driver import App
from tests.jobs.tiny_model import write_tiny_model

STEPS, EVALUATIONS = 24, 8
REST_SECONDS = 15.0  # within which a killed worker's run has to come to rest
KILLS_A_RUN = 4
POLL_SECONDS = 0.0005

Moment = Callable[[RunFolder], bool]


class Broken(AssertionError):
    """A promise was not kept."""


def is_last(kind: str, phase: str = "") -> Moment:
    """The worker has just told of an event of that kind."""

    def holds(folder: RunFolder) -> bool:
        try:
            line = folder.events.read_bytes().splitlines()[-1]
        except (OSError, IndexError):
            return False
        return f'"event":"{kind}"'.encode() in line and (not phase or f'"phase":"{phase}"'.encode() in line)

    return holds


def is_writing(pattern: str) -> Moment:
    """Something of that name is half written."""
    return lambda folder: next(folder.path.glob(pattern), None) is not None


MOMENTS: dict[str, Moment] = {
    "starting": lambda folder: True,
    "loading": is_last("preparing", "loading"),
    "tokenizing": is_last("preparing", "tokenizing"),
    "injecting": is_last("preparing", "injecting"),
    "stepping": is_last("step"),
    "evaluating": is_last("eval"),
    "writing a checkpoint": is_writing("checkpoints/tmp-*"),
    "behind a checkpoint": is_last("saved"),
    "writing the result": is_writing("adapter.tmp"),
    "leaving": is_last("finished"),
}
VICTIMS = ("worker", "worker", "app", "both")


@dataclass(frozen=True, slots=True)
class Kill:
    """Who is killed when, and how many seconds after that moment began."""

    victim: str
    moment: str
    later: float


def kills(seed: int) -> Iterator[Kill]:
    """One after the other, for ever; each moment comes up as often as any other."""
    generator = random.Random(seed)
    while True:
        for moment in generator.sample(list(MOMENTS), len(MOMENTS)):
            yield Kill(generator.choice(VICTIMS), moment, generator.choice((0.0, generator.uniform(0, 0.02))))


class Chaos:
    """A home with an app on it that is killed and started again."""

    def __init__(self, folder: Path) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        self.folder = folder
        self.model = write_tiny_model(folder / "model")
        self.home = folder / "home"
        self.home.mkdir()
        self.app = App(home=self.home)
        self.service = Service(self.home, folder / "models")
        self.store = Store(self.service._home)
        self.dataset = self._dataset()
        self.done: Counter[str] = Counter()

    def close(self) -> None:
        """End the app and whatever it started."""
        for attempt in self.store.attempts():
            with suppress(ProcessLookupError):
                os.kill(attempt.worker.pid, signal.SIGKILL)
        if self.app.process is not None:
            self.app.process.kill()
            self.app.process.wait()
        self.service.close()
        self.store.close()

    def undisturbed(self) -> bytes:
        """The weights of a run that nobody disturbs."""
        self.app.start()
        run = self.service.submit(self._config())
        self._until(run, lambda now: now.has_ended, 120)
        return self._weights(run)

    def disturbed(self, wanted: list[Kill], expected: bytes) -> None:
        """Carry out a run with these kills, and prove that it came to the same.

        Raises:
            Broken: it did not.
        """
        run = self.service.submit(self._config())
        folder = self.service._home.run(run.id)
        for kill in wanted:
            before = self._checkpoints(folder)
            if not self._wait_for(kill, run, folder):
                continue  # the run came past that moment in this life of its worker
            self._strike(kill, run)
            self.done[f"{kill.victim}, {kill.moment}"] += 1
            self._check(folder, before)
            self._bring_to_rest_or_life(kill, run)
            self._check(folder, before)
        self._until(run, lambda now: now.is_at_rest, 120)
        if self.service.run(run.id).state != "finished":
            self.service.resume_run(run.id)
            self._until(run, lambda now: now.has_ended, 120)
        self._check_end(run, folder, expected)

    # -- killing ---------------------------------------------------------------------------------------------------

    def _wait_for(self, kill: Kill, run: Run, folder: RunFolder) -> bool:
        moment, deadline = MOMENTS[kill.moment], time.monotonic() + 60
        begun = len(folder.events.read_bytes()) if folder.events.exists() else 0
        while time.monotonic() < deadline:
            has_worker = self.store.run(run.id).pid is not None
            is_new = kill.moment == "starting" or (folder.events.exists() and folder.events.stat().st_size > begun)
            if has_worker and is_new and moment(folder):
                time.sleep(kill.later)
                return True
            if self.service.run(run.id).is_at_rest:
                return False
            time.sleep(POLL_SECONDS)
        raise Broken(f"the run did not come to: {kill.moment}")

    def _strike(self, kill: Kill, run: Run) -> None:
        if kill.victim in ("worker", "both"):
            for attempt in self.store.attempts():
                if attempt.run_id == run.id:
                    with suppress(ProcessLookupError):
                        os.kill(attempt.worker.pid, signal.SIGKILL)
        if kill.victim in ("app", "both"):
            assert self.app.process is not None
            self.app.process.kill()
            self.app.process.wait()

    def _bring_to_rest_or_life(self, kill: Kill, run: Run) -> None:
        if kill.victim in ("app", "both"):
            self.app.start()
        if kill.victim == "app":
            now = self.service.run(run.id)
            if not now.is_at_rest and now.state != "queued":
                (attempt,) = (each for each in self.store.attempts() if each.run_id == run.id)
                is_there = is_alive(attempt.worker.pid, attempt.worker.birth)
                if not is_there:  # it may have ended while there was no app; then its run must come to rest
                    self._until(run, lambda now: now.is_at_rest, REST_SECONDS)
            return
        self._until(run, lambda now: now.is_at_rest, REST_SECONDS)
        state = self.service.run(run.id).state
        if state not in ("interrupted", "finished"):
            raise Broken(f"a killed run is {state}")
        if state == "interrupted":
            self.service.resume_run(run.id)

    def _until(self, run: Run, holds: Callable[[Run], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds(self.service.run(run.id)):
            if time.monotonic() > deadline:
                raise Broken(f"after {seconds:.0f} seconds the run is still {self.service.run(run.id).state}")
            time.sleep(0.05)

    # -- proving ---------------------------------------------------------------------------------------------------

    def _checkpoints(self, folder: RunFolder) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in folder.path.glob("checkpoints/step-*"))

    def _check(self, folder: RunFolder, before: list[int]) -> None:
        for path in folder.path.glob("checkpoints/step-*"):
            with suppress(FileNotFoundError):  # an older one is dropped while we look
                _verify(path)
        if before and (not (now := self._checkpoints(folder)) or now[-1] < before[-1]):
            raise Broken(f"there were checkpoints of the steps {before}, and now of {now}")
        steps: list[int] = []
        for event in read_events(folder.events)[0]:
            if event.event == "started":
                steps = []
            elif isinstance(event, StepDone):
                steps.append(event.step)
        if any(later != step + 1 for step, later in itertools.pairwise(steps)):
            raise Broken(f"there is a gap in the steps {steps}")

    def _check_end(self, run: Run, folder: RunFolder, expected: bytes) -> None:
        now = self.service.run(run.id)
        adapters = [adapter for adapter in self.service.adapters() if adapter.run_id == run.id]
        left = [
            path.name
            for pattern in ("reserve", "adapter.tmp", "checkpoints/tmp-*")
            for path in folder.path.glob(pattern)
        ]
        if now.state != "finished" or len(adapters) != 1:
            raise Broken(f"the run is {now.state} with {len(adapters)} adapters ({now.error})")
        if left:
            raise Broken(f"left over: {left}")
        if self._weights(run) != expected:
            raise Broken("the weights differ from those of the run that was left alone")

    def _weights(self, run: Run) -> bytes:
        return (self.service._home.run(run.id).adapter / "adapter_model.safetensors").read_bytes()

    def _dataset(self) -> str:
        rows = [{"prompt": f"What is {number}?", "completion": f"It is {number}, matey."} for number in range(12)]
        file = self.folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return self.service.data.add(file).id

    def _config(self) -> RunConfig:
        return parse({
            "name": "chaos", "base_model": str(self.model),
            "data": {"dataset_id": self.dataset, "holdout": 0.25},
            "lora": {"rank": 4, "dropout": 0.2}, "quant": {"bits": 32},
            "optim": {"steps": STEPS, "evaluations": EVALUATIONS, "batch_size": 4, "learning_rate": 0.01},
        })  # fmt: skip


def _verify(checkpoint: Path) -> None:
    """What the manifest says of each file is so, looked at without the engine."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name, account in manifest.items():
        content = (checkpoint / name).read_bytes()
        if (len(content), hashlib.sha256(content).hexdigest()) != (account["bytes"], account["sha256"]):
            raise Broken(f"{checkpoint.name}/{name} is not what was written")
    if sorted(manifest) != ["state.json", "tensors.safetensors"]:
        raise Broken(f"{checkpoint.name} holds {sorted(manifest)}")


def carry_out(count: int, seed: int) -> Counter[str]:
    """Kill `count` times; how often who was killed when.

    Raises:
        Broken: a promise was not kept.
    """
    with tempfile.TemporaryDirectory() as name:
        chaos, source = Chaos(Path(name)), kills(seed)
        try:
            expected = chaos.undisturbed()
            while (left := count - chaos.done.total()) > 0:
                chaos.disturbed(list(itertools.islice(source, min(KILLS_A_RUN, left))), expected)
                print(f"{chaos.done.total()} of {count} kills", flush=True)
        finally:
            chaos.close()
        return chaos.done


def main() -> int:
    """Carry out the command line; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.chaos")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        done = carry_out(given.kills, given.seed)
    except Broken as broken:
        print(f"BROKEN (seed {given.seed}): {broken}", flush=True)
        return 1
    for what, times in sorted(done.items()):
        print(f"{times:4}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
