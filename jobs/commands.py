"""The command line: what each command takes, and which part of jobs it calls.

Imports that cost time stand inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import ConfigError, RunError
from jobs.logs import set_up_logging

if TYPE_CHECKING:
    from jobs.service import Run, Service


HomeOption = Annotated[Path | None, typer.Option(help="The folder that holds datasets, runs and adapters.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line and nothing else.")]
HostOption = Annotated[str, typer.Option(help="The address to listen on.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")]
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7860

# No rich markup: usage errors are one sentence, said by app.py.
commands = typer.Typer(
    name="LoRA Workbench",
    help="Fine-tune language models with LoRA.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
runs_commands = typer.Typer(help="List, show, cancel and resume runs.", rich_markup_mode=None)
commands.add_typer(runs_commands, name="runs")


# A command's parameters are its options: more than six here, each handed on by name at once.
@commands.command()
def train(
    output: Annotated[Path, typer.Option(help="The folder that receives the adapter.")],
    data: Annotated[Path | None, typer.Option(help="The dataset's file.")] = None,
    model: Annotated[str | None, typer.Option(help="starter, a model's folder or a hub id.")] = None,
    rank: Annotated[int | None, typer.Option()] = None,
    alpha: Annotated[float | None, typer.Option()] = None,
    targets: Annotated[str | None, typer.Option(help="auto, all-linear or names with commas between.")] = None,
    bits: Annotated[int | None, typer.Option(help="16, 4, 8 or 32: how the base model is stored.")] = None,
    epochs: Annotated[float | None, typer.Option()] = None,
    steps: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows an optimizer step.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longer rows are cut.")] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings; options given here win.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Train an adapter. Ctrl-C stops and keeps what was learned; a second one leaves the run going."""
    from jobs.adapters import check_output
    from jobs.recipes import read_recipe

    flags = {
        "base_model": model,
        "lora.rank": rank,
        "lora.alpha": alpha,
        "lora.targets": [name.strip() for name in targets.split(",")] if targets is not None else None,
        "quant.bits": bits,
        "optim.epochs": epochs,
        "optim.steps": steps,
        "optim.batch_size": batch_size,
        "optim.learning_rate": lr,
        "data.max_tokens": max_tokens,
        "seed": seed,
    }
    check_output(output)
    recipe = read_recipe(config, flags, data)
    with _Session(home) as service:
        run = _submit(service, recipe.config, recipe.data)
        _follow(service, run, json, output=output)


def _submit(service: Service, config: Any, data: Path | None) -> Run:
    """Check all that can be checked before the dataset is kept, then keep it and queue the run."""
    from dataclasses import replace

    service.estimate(config)
    if data is not None:
        dataset = service.add_dataset(data)
        config = replace(config, data=replace(config.data, dataset_id=dataset.id))
    return service.submit(config)


def _follow(service: Service, run: Run, json: bool, output: Path | None = None, offset: int = 0) -> None:
    from jobs.following import Follower, RunLeft, report_json, report_text

    active = service.machine().active_run
    if active is not None and active.id != run.id:
        typer.echo(f"Waiting for the run {active.name} ({active.id}) to end.", err=True)
    service.start()
    report = report_json if json else report_text
    try:
        Follower(service=service, run_id=run.id, report=report, offset=offset).follow(output)
    except RunLeft:
        typer.echo(f"The run {run.id} goes on; see it with: runs show {run.id}", err=True)
        raise typer.Exit(130) from None


@commands.command()
def chat(
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    model: Annotated[str | None, typer.Option(help="The base model; by default the adapters' own.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="An adapter's folder; may be repeated.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Ask the base model and every adapter the same thing."""
    from jobs.following import RunFailed
    from jobs.replies import print_replies

    given = {"base_model": model, "max_new_tokens": max_new_tokens, "seed": seed}
    options = {name: value for name, value in given.items() if value is not None}
    with _Session(home) as service:
        try:
            print_replies(service, prompt, [None, *(adapter or [])], options, json)
        except RunError as error:
            raise RunFailed(error.title, error.detail, error.hint) from error


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
    with _Session(home) as service:
        for run in service.runs():
            typer.echo(f"{run.id}  {run.state:<11}  {run.created_at:%Y-%m-%d %H:%M}  {run.name}")


@runs_commands.command()
def show(context: typer.Context, run_id: Annotated[str, typer.Argument(metavar="ID")], home: HomeOption = None) -> None:
    """One run: its state, settings and last events, as one JSON object."""
    import orjson

    from core.config import to_dict
    from core.events import to_dict as event_to_dict

    with _Session(home or context.obj) as service:
        run = service.run(run_id)
        events, _ = service.events(run_id)
    shown = {
        "id": run.id,
        "state": run.state,
        "dataset": run.dataset_name,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "error": run.error,
        "adapter_id": run.adapter_id,
        "config": to_dict(run.config),
        "last_event": event_to_dict(events[-1]) if events else None,
    }
    typer.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())


@runs_commands.command()
def cancel(
    context: typer.Context, run_id: Annotated[str, typer.Argument(metavar="ID")], home: HomeOption = None
) -> None:
    """Give a run up; its last checkpoint stays."""
    from jobs.following import wait_until_ended

    with _Session(home or context.obj) as service:
        service.cancel_run(run_id)
        typer.echo(f"{run_id}  {wait_until_ended(service, run_id).state}")


@runs_commands.command()
def resume(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="ID")],
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Go on from a run's last checkpoint, and follow it as `train` does."""
    with _Session(home or context.obj) as service:
        _, offset = service.events(run_id)
        _follow(service, service.resume_run(run_id), json, offset=offset)


@commands.command()
def export(
    adapter: Annotated[Path, typer.Option(help="The adapter's folder.")],
    to: Annotated[str, typer.Option(help="peft, merged or gguf.")],
    output: Annotated[Path, typer.Option(help="The folder to write; for peft also a .zip file.")],
    model: Annotated[
        str | None, typer.Option(help="The base model, where the adapter does not name one that is here.")
    ] = None,
) -> None:
    """Write an adapter for use elsewhere."""
    from jobs.exports import export_adapter

    export_adapter(adapter, to, output, model)
    typer.echo(str(output))


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context, name: Annotated[str | None, typer.Argument()] = None) -> None:
    """Run a benchmark, handing on what follows its name; without a name, list them."""
    import subprocess

    from jobs.home import PROJECT

    known = sorted(path.stem for path in (PROJECT / "benchmarks").glob("[a-z]*.py"))
    if name is None:
        typer.echo("\n".join(known) or "There are no benchmarks yet.")
        return
    if name not in known:
        raise ConfigError(
            f"There is no benchmark {name}", hint=f"Choose from {', '.join(known) or 'none, there are none yet'}"
        )
    code = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *context.args], cwd=PROJECT, check=False
    ).returncode
    raise typer.Exit(code)


class _Session:
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
