"""The commands on runs: `python app.py runs …`.

As in `jobs.commands`, imports that cost time stand inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import HomeOption, JsonOption, RunArgument
from jobs.sessions import Session, follow

if TYPE_CHECKING:
    from jobs.service import Service

runs_commands = typer.Typer(
    help="List, show, export, move, pause, keep, cancel and resume runs.", rich_markup_mode=None
)


@runs_commands.callback(invoke_without_command=True)
def runs(context: typer.Context, home: HomeOption = None) -> None:
    """List, show, cancel and resume runs."""
    context.obj = home
    if context.invoked_subcommand is None:
        list_runs(home)


@runs_commands.command("list")
def list_runs_command(context: typer.Context, home: HomeOption = None) -> None:
    """Every run, newest first."""
    list_runs(home or context.obj)


def list_runs(home: Path | None) -> None:
    """Print one line a run."""
    with Session(home) as service:
        service.settle()
        for run in service.runs():
            typer.echo(f"{run.id}  {run.state:<11}  {run.created_at:%Y-%m-%d %H:%M}  {run.name}")


@runs_commands.command()
def show(context: typer.Context, run_id: RunArgument, home: HomeOption = None) -> None:
    """One run: its state, settings, what it learned and its last event, as one JSON object."""
    import orjson

    from core.analysis.verdict import judge
    from core.config import to_dict
    from core.events import to_dict as event_to_dict

    with Session(home or context.obj) as service:
        service.settle()
        run = service.run(run_id)
        events, _ = service.events(run_id)
        appraisal = service.appraisals.of(run).appraisal
    verdict = None if appraisal is None else judge(appraisal)
    shown = {
        "id": run.id,
        "state": run.state,
        "dataset": run.dataset_name,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "error": run.error,
        "adapter_id": run.adapter_id,
        "learned": None if verdict is None else {"level": verdict.level, "verdict": verdict.sentence},
        "config": to_dict(run.config),
        "last_event": event_to_dict(events[-1]) if events else None,
    }
    typer.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())


@runs_commands.command("export")
def export_run(
    context: typer.Context,
    run_id: RunArgument,
    csv: Annotated[Path | None, typer.Option(help="The file to write as a table; a dash for standard output.")] = None,
    json: Annotated[Path | None, typer.Option(help="The file to write as JSON; a dash for standard output.")] = None,
    home: HomeOption = None,
) -> None:
    """Write a run's whole history: a row for each step, with every figure that was measured."""
    from jobs.run_files import write_history

    with Session(home or context.obj) as service:
        write_history(service, run_id, {"csv": csv, "json": json})


@runs_commands.command()
def cancel(context: typer.Context, run_id: RunArgument, home: HomeOption = None) -> None:
    """Give a run up; its last checkpoint stays."""
    with Session(home or context.obj) as service:
        service.cancel_run(run_id)
        _tell_when_at_rest(service, run_id)


@runs_commands.command()
def pause(context: typer.Context, run_id: RunArgument, home: HomeOption = None) -> None:
    """Let a run write a checkpoint and give the machine back, until it is resumed."""
    with Session(home or context.obj) as service:
        service.pause_run(run_id)
        _tell_when_at_rest(service, run_id)


@runs_commands.command()
def move(
    context: typer.Context,
    run_id: RunArgument,
    by: Annotated[int, typer.Option(help="So many places back in the queue; below 0, forward.")] = 0,
    priority: Annotated[int | None, typer.Option(help="0 is usual; above it comes first, below it last.")] = None,
    home: HomeOption = None,
) -> None:
    """Let a run that waits come sooner or later."""
    with Session(home or context.obj) as service:
        if priority is not None:
            service.set_priority(run_id, priority)
        if by:
            service.reorder_run(run_id, by)
        for place, run in enumerate(service.queue(), start=1):
            typer.echo(f"{place:>3}  {run.id}  {run.priority:>3}  {run.name}")


@runs_commands.command()
def keep(
    context: typer.Context,
    run_id: RunArgument,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make the adapter of what a run's last checkpoint holds, without training on."""
    with Session(home or context.obj) as service:
        _, offset = service.events(run_id)
        follow(service, service.keep_run(run_id), json, offset=offset)


@runs_commands.command()
def resume(
    context: typer.Context,
    run_id: RunArgument,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Go on from a run's last checkpoint, and follow it as `train` does."""
    with Session(home or context.obj) as service:
        _, offset = service.events(run_id)
        follow(service, service.resume_run(run_id), json, offset=offset)


def _tell_when_at_rest(service: Service, run_id: str) -> None:
    from jobs.following import RunLeft, wait_until_at_rest

    try:
        typer.echo(f"{run_id}  {wait_until_at_rest(service, run_id).state}")
    except RunLeft:
        raise typer.Exit(130) from None
