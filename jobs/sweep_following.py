"""Follows a sweep in a terminal: a line when a run has ended, and in the end which was the best."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import typer

from jobs.adapters import copy_adapter
from jobs.following import LOOK_SECONDS, Interrupts, RunFailed, RunLeft
from jobs.names import slug
from jobs.service import Service
from jobs.sweeps import Group, Outcome, Plan


def tell_plan(plan: Plan) -> None:
    """What will be launched and what will not, on standard error."""
    for config, estimated in zip(plan.configs, plan.estimates, strict=True):
        trains = "" if estimated is None else f"  trains {estimated.trainable_parameters:,} parameters"
        typer.echo(f"{config.name}{trains}", err=True)
    for skipped in plan.skipped:
        typer.echo(f"{skipped.name} is left out: {skipped.why}", err=True)


def follow_group(service: Service, group: str, output: Path, json: bool) -> None:
    """Wait until all runs of the group have ended; each adapter is copied into a folder of its own in `output`. The
    first Ctrl-C stops the group.

    Raises:
        RunFailed: a run did not finish.
        RunLeft: the person pressed Ctrl-C twice.
    """
    service.start()
    for number, outcome in _as_they_end(service, group):
        folder = output / f"{number:02d}-{slug(outcome.run.name)}"
        if outcome.run.adapter_id is not None:
            copy_adapter(service.adapter(outcome.run.adapter_id).path, folder)
        _tell(outcome, folder, json)
    found = service.sweeps.group(group)
    _tell_best(found, json)
    failed = [outcome.run for outcome in found.outcomes if outcome.run.state != "finished"]
    if failed:
        title = f"{len(failed)} of {len(found.outcomes)} runs did not finish"
        raise RunFailed(title, failed[0].error.title if failed[0].error else "", "See each with: runs show ID")


def _as_they_end(service: Service, group: str) -> Iterator[tuple[int, Outcome]]:
    """Each run, with its number in the group, once it is at rest."""
    told: set[str] = set()
    heeded = 0
    with Interrupts() as interrupts:
        while True:
            found = service.sweeps.group(group)
            for number, outcome in enumerate(found.outcomes, start=1):
                if outcome.run.is_at_rest and outcome.run.id not in told:
                    told.add(outcome.run.id)
                    yield number, outcome
            if len(told) == len(found.outcomes):
                return
            if interrupts.count > heeded:
                heeded = interrupts.count
                if heeded > 1:
                    raise RunLeft(group)
                typer.echo("Stopping the group; what was learned is kept. Ctrl-C again leaves at once.", err=True)
                service.sweeps.stop(group)
            interrupts.wait(LOOK_SECONDS)


def _tell(outcome: Outcome, folder: Path, json: bool) -> None:
    run = outcome.run
    has_output = run.adapter_id is not None
    if json:
        values: dict[str, Any] = {"event": "run", "id": run.id, "name": run.name, "state": run.state}
        values |= {"eval_loss": run.eval_loss, "trainable_parameters": outcome.trainable_parameters}
        typer.echo(orjson.dumps({**values, "output": str(folder) if has_output else None}).decode())
        return
    loss = "" if run.eval_loss is None else f"  held-out loss {run.eval_loss:.4f}"
    trains = "" if outcome.trainable_parameters is None else f"  {outcome.trainable_parameters:,} parameters"
    typer.echo(f"{run.name}: {run.state}{loss}{trains}{f'  {folder}' if has_output else ''}")


def _tell_best(group: Group, json: bool) -> None:
    best = group.best
    if json:
        spreads = [
            {"values": spread.values, "mean": spread.mean, "deviation": spread.deviation, "seeds": spread.count}
            for spread in group.spreads
        ]
        values = {"event": "sweep", "group": group.id, "best": best.run.id if best else None, "spreads": spreads}
        typer.echo(orjson.dumps(values).decode())
        return
    for spread in group.spreads:
        bars = "" if spread.deviation is None else f" ± {spread.deviation:.4f}"
        typer.echo(f"{' · '.join(spread.values) or group.name}: {spread.mean:.4f}{bars} over {spread.count} seeds")
    if best is not None:
        typer.echo(f"best: {best.run.name}")
