"""What a run had learned when it was paused, or when it died, is kept without training on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from core.config import RunConfig, parse
from core.errors import NotFound, RunError
from core.events import Finished, Note
from jobs.scheduler import Scheduler
from jobs.service import Service
from jobs.store import Store
from jobs.views import Run
from tests.jobs.conftest import add_dataset_row, queue_run
from tests.jobs.host import scheduler_on
from tests.jobs.waiting import wait_for

End = Callable[[Service, Run], None]


def config_on(service: Service, dataset_file: Path, model: Path) -> RunConfig:
    """A run that would go on for minutes, with a checkpoint every few steps."""
    data = {"dataset_id": service.data.add(dataset_file).id}
    config = parse({"name": "a run", "base_model": str(model), "data": data, "lora": {"rank": 4}})
    return replace(config, optim=replace(config.optim, steps=20_000, batch_size=2, evaluations=1000))


def checkpoints(service: Service, run: Run) -> list[Path]:
    return sorted(service._home.run(run.id).path.glob("checkpoints/step-*"))


def pause(service: Service, run: Run) -> None:
    service.pause_run(run.id)


def kill(service: Service, run: Run) -> None:
    psutil.Process(service.run(run.id).pid).kill()


def cancel(service: Service, run: Run) -> None:
    service.cancel_run(run.id)


def ended(service: Service, run: Run, end: End, state: str) -> Run:
    """The run, brought to an early end after two checkpoints."""
    wait_for(lambda: len(checkpoints(service, run)) == 2, 120)
    end(service, run)
    wait_for(lambda: service.run(run.id).is_at_rest)
    assert service.run(run.id).state == state
    return service.run(run.id)


def kept(service: Service, run: Run) -> Finished:
    """The last word of a run that is at rest, once it has been kept; it makes no step more."""
    _, offset = service.events(run.id)
    assert service.keep_run(run.id).wish == "keep"
    wait_for(lambda: service.run(run.id).is_at_rest, 120)
    events, _ = service.events(run.id, offset)
    assert service.run(run.id).state == "finished", service.log_tail(run.id)
    assert not any(event.event == "step" for event in events) and isinstance(events[-1], Finished)
    return events[-1]


def numbers(file: Path) -> list[bytes]:
    """What the file's tensors hold, by no name; AdamW's moments, which an adapter has not, apart."""
    return sorted(tensor.tobytes() for name, tensor in load_file(file).items() if ":" not in name)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        pytest.param(pause, "paused", marks=pytest.mark.slow),
        (kill, "interrupted"),
        pytest.param(cancel, "cancelled", marks=pytest.mark.slow),
    ],
)
def test_the_last_checkpoint_becomes_the_adapter_to_the_bit(
    service: Service, dataset_file: Path, tiny_model: Path, end: End, state: str
) -> None:
    run = service.submit(config_on(service, dataset_file, tiny_model))
    service.start()
    run = ended(service, run, end, state)
    last = kept(service, run)
    assert (last.steps, last.stopped) == (run.checkpoint_step, True)
    adapter = service.adapter(service.run(run.id).adapter_id or "")
    assert numbers(adapter.path / "adapter_model.safetensors") == numbers(
        checkpoints(service, run)[-1] / "tensors.safetensors"
    )
    with pytest.raises(RunError, match="cannot be kept: it is finished"):
        service.keep_run(run.id)


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_is_kept(
    service: Service, dataset_file: Path, tiny_model: Path
) -> None:
    run = service.submit(config_on(service, dataset_file, tiny_model))
    service.start()
    run = ended(service, run, kill, "interrupted")
    older, newest = checkpoints(service, run)
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    assert f"step-{kept(service, run).steps:08d}" == older.name
    notes = [event.text for event in service.events(run.id)[0] if isinstance(event, Note)]
    assert f"The checkpoint {newest.name} cannot be read and was passed over" in notes


def test_where_nothing_was_saved_nothing_is_kept(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    run = service.submit(config_on(service, dataset_file, tiny_model))
    with pytest.raises(RunError, match="cannot be kept: it is queued"):
        service.keep_run(run.id)
    service.pause_run(run.id)
    with pytest.raises(RunError, match="no checkpoint"):
        service.keep_run(run.id)
    assert service.run(run.id).state == "paused"
    with pytest.raises(NotFound):
        service.keep_run("nobody")


def test_a_worker_that_is_to_keep_a_checkpoint_may_take_long_to_read_it(store: Store) -> None:
    """As long as any worker that prepares; and a cancel ends it as ever."""
    now = [0.0]
    add_dataset_row(store)
    queue_run(store, "R1")
    store.ask_to_end("R1", "pause")
    (store.home.run("R1").path / "checkpoints" / "step-00000003").mkdir(parents=True)
    store.requeue("R1", "keep")
    scheduler = scheduler_on(store.home.path, "prepares_forever", monotonic=lambda: now[0])
    wait_for(lambda: (scheduler.tick(), store.home.run("R1").events.exists())[1])
    assert store.home.run("R1").control.read_text() == "keep"
    pid = store.run("R1").pid
    assert pid is not None
    for _ in range(3):
        now[0] += 10_000
        scheduler.tick()
    assert psutil.pid_exists(pid) and store.run("R1").state == "preparing"
    store.ask_to_end("R1", "cancel")
    wait_for(lambda: _later(scheduler, now) or store.run("R1").state == "cancelled")
    scheduler.close()


def _later(scheduler: Scheduler, now: list[float]) -> None:
    scheduler.tick()
    now[0] += 10
