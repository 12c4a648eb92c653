"""What commands share: a service for as long as one lasts, and following a run with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jobs.logs import set_up_logging

if TYPE_CHECKING:
    from jobs.service import Run, Service


class Session:
    """A service for the length of one command, and a log that says only what matters to a terminal."""

    def __init__(self, home: Path | None) -> None:
        self._home = home

    def __enter__(self) -> Service:
        set_up_logging(logging.WARNING)
        from jobs.service import Service

        self._service = Service(self._home)
        return self._service

    def __exit__(self, *_: object) -> None:
        self._service.close()


def follow(service: Service, run: Run, json: bool, output: Path | None = None, offset: int = 0) -> None:
    """Start what waits and tell of the run until it has ended; its result goes to `output`, where that is given."""
    from jobs.following import Follower, RunLeft, report_json, report_text

    for active in service.machine().active_runs:
        if active.id != run.id:
            typer.echo(f"The run {active.name} ({active.id}) is being carried out.", err=True)
    service.start()
    report = report_json if json else report_text
    try:
        Follower(service=service, run_id=run.id, report=report, offset=offset).follow(output)
    except RunLeft:
        typer.echo(f"The run {run.id} goes on; see it with: runs show {run.id}", err=True)
        raise typer.Exit(130) from None
