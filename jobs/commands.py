"""The command line: what each command takes, and which part of jobs it calls.

Imports that cost time stand inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import RunError
from jobs.flags import SWEPT, settings, typed, with_flags
from jobs.key_commands import keys_commands
from jobs.logs import set_up_logging
from jobs.options import (
    ColumnsOption,
    DataOption,
    DatasetOption,
    HomeOption,
    JsonOption,
    SkipOption,
)
from jobs.run_commands import runs_commands
from jobs.sessions import Session, follow

if TYPE_CHECKING:
    from core.config import RunConfig
    from jobs.recipes import Recipe
    from jobs.service import Service


DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7860

# No rich markup: usage errors are one sentence, said by app.py.
commands = typer.Typer(
    name="LoRA Workbench",
    help="Fine-tune language models with LoRA.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
commands.add_typer(runs_commands, name="runs")
users_commands = typer.Typer(help="Who may use a workbench that listens on a network.", rich_markup_mode=None)
commands.add_typer(users_commands, name="users")
commands.add_typer(keys_commands, name="keys")


@commands.command()
@with_flags(before="config")
def train(
    output: Annotated[Path, typer.Option(help="The folder that receives what was trained.")],
    data: DataOption = None,
    dataset: DatasetOption = None,
    columns: ColumnsOption = None,
    skip_bad_rows: SkipOption = False,
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings; options given here win.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
    **given: Any,
) -> None:
    """Train an adapter or a whole model. Ctrl-C stops and keeps what was learned; a second one leaves the run going."""
    from jobs.adapters import check_output
    from jobs.recipes import Source, read_recipe

    recipe = read_recipe(config, settings(given), Source.typed(data, dataset, columns, skip_bad_rows))
    check_output(output, must_be_new=recipe.config.method == "full")
    with Session(home) as service:
        service.estimate(recipe.config)  # what it refuses needs no dataset
        follow(service, service.submit(_with_dataset(service, recipe)), json, output=output)


@commands.command()
@with_flags(before="config", several=SWEPT)
def sweep(
    output: Annotated[Path, typer.Option(help="A new or empty folder: it gets a folder for each run.")],
    data: DataOption = None,
    dataset: DatasetOption = None,
    columns: ColumnsOption = None,
    skip_bad_rows: SkipOption = False,
    budget: Annotated[str, typer.Option(help="Parameters that a run may train, as 1M; ranks follow, or are cut.")] = "",
    keep_alpha: Annotated[bool, typer.Option("--keep-alpha", help="Let alpha not follow the rank.")] = False,
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings; options given here win.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
    **given: Any,
) -> None:
    """Train every combination of several values (--rank 4,8 --targets q_proj,q_proj+v_proj) and compare them."""
    from dataclasses import replace

    from jobs.adapters import check_output
    from jobs.recipes import Source, read_recipe
    from jobs.sweep_following import follow_group, tell_plan

    several = typed(given, SWEPT)
    recipe = read_recipe(config, settings(given), Source.typed(data, dataset, columns, skip_bad_rows))
    check_output(output, must_be_new=True)
    with Session(home) as service:
        plan = service.sweeps.plan(recipe.config, several, budget, keeps_scale=not keep_alpha)
        tell_plan(plan)
        kept = _with_dataset(service, recipe)
        group = service.sweeps.submit([replace(one, data=kept.data, task=kept.task) for one in plan.configs])
        follow_group(service, group, output, json)


def _with_dataset(service: Service, recipe: Recipe) -> RunConfig:
    """The recipe's config, once its dataset is kept; what can be refused before that is."""
    from dataclasses import replace

    from core.data.readers.files import open_path
    from core.data.reading import stream_records
    from core.data.rows import Problem
    from jobs.tasks import check_task

    config, source = recipe.config, recipe.source
    if source.file is not None:
        if recipe.names_task:
            stream = stream_records(open_path(source.file), source.file.name, source.columns)
            first = next((item for item in stream if not isinstance(item, Problem)), None)
            check_task(config.task, (first,) if first is not None else ())
        dataset = service.data.add(source.file, skip_bad_rows=source.skips_bad_rows, mapping=source.columns)
        config = replace(config, data=replace(config.data, dataset_id=dataset.id))
    if not recipe.names_task:
        config = replace(config, task=service.data.task_of(config.data.dataset_id))
    return config


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
    with Session(home) as service:
        try:
            print_replies(service, prompt, [None, *(adapter or [])], options, json)
        except RunError as error:
            raise RunFailed(error.title, error.detail, error.hint) from error


@users_commands.command("add")
def add_user(name: str, home: HomeOption = None) -> None:
    """Let somebody in, or change their password, which is asked for (or read from standard input, a line)."""
    asked = sys.stdin.isatty()
    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if asked else sys.stdin.readline()
    with Session(home) as service:
        service.users.add(name, password.rstrip("\n"))
        typer.echo(name)


@users_commands.command("list")
def list_users(home: HomeOption = None) -> None:
    """Everybody's name, a line each."""
    with Session(home) as service:
        for name in service.users.names():
            typer.echo(name)


@users_commands.command("remove")
def remove_user(name: str, home: HomeOption = None) -> None:
    """Let somebody in no longer; whoever is logged in is out within a minute."""
    with Session(home) as service:
        service.users.remove(name)


@commands.command()
def export(
    adapter: Annotated[Path, typer.Option(help="The adapter's folder.")],
    to: Annotated[str, typer.Option(help="peft, portable, merged, gguf, merged-gguf or merged-gguf-q8_0.")],
    output: Annotated[Path, typer.Option(help="The folder to write, or a .zip file; for GGUF the file.")],
    model: Annotated[
        str | None, typer.Option(help="The base model, where the adapter does not name one that is here.")
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Merge into 32-bit weights.")] = False,
    bits: Annotated[int | None, typer.Option(help="Merge into the base as it was in training: 4 or 8.")] = None,
    shard_size: Annotated[str, typer.Option(help="The most a file of merged weights may take, as 5GB.")] = "5GB",
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not read it back: faster, and unproven.")] = False,
) -> None:
    """Write an adapter for use elsewhere, read it back as a stranger would, and say how near it came."""
    from jobs.exports import Export, export_adapter

    set_up_logging(logging.WARNING)
    order = Export(
        adapter=adapter, form=to, output=output, base_model=model, fp32=fp32, bits=bits, shard_size=shard_size,
        is_checked=not no_check,
    )  # fmt: skip
    done = export_adapter(order)
    for sentence in (done.words, done.verdict.sentence if done.verdict else ""):
        if sentence:
            typer.echo(sentence, err=True)
    typer.echo(str(output))


@commands.command()
def combine(
    adapter: Annotated[list[Path], typer.Option(help="An adapter's folder; repeat it for each.")],
    output: Annotated[Path, typer.Option(help="The folder to write, or a .zip file.")],
    weight: Annotated[list[float] | None, typer.Option(help="One an adapter, in their order; else 1 each.")] = None,
    how: Annotated[str, typer.Option(help="concat (exact), svd, ties, dare_linear or dare_ties.")] = "concat",
    rank: Annotated[int | None, typer.Option(help="The rank to reduce to, for all but concat.")] = None,
    density: Annotated[float, typer.Option(help="The share of entries kept, for ties and dare.")] = 0.5,
    seed: Annotated[int, typer.Option(help="What dare draws by.")] = 0,
) -> None:
    """Make one adapter of several of one base model: their weighted sum, or what TIES or DARE make of them."""
    set_up_logging(logging.WARNING)
    from core.adapters.ways import Combination
    from jobs.reworking import combine_adapters

    weights = tuple(weight or [1.0] * len(adapter))
    wanted = Combination(how=how, weights=weights, rank=rank, density=density, seed=seed)  # type: ignore[arg-type]
    typer.echo(combine_adapters(adapter, wanted, output), err=True)
    typer.echo(str(output))


@commands.command()
def shrink(
    adapter: Annotated[Path, typer.Option(help="The adapter's folder.")],
    output: Annotated[Path, typer.Option(help="The folder to write, or a .zip file.")],
    rank: Annotated[int | None, typer.Option(help="The highest rank that a layer may have.")] = None,
    energy: Annotated[float | None, typer.Option(help="The share of each change to keep, such as 0.99.")] = None,
) -> None:
    """Make an adapter smaller: the nearest of a lower rank."""
    from jobs.reworking import shrink_adapter

    set_up_logging(logging.WARNING)
    typer.echo(shrink_adapter(adapter, output, rank=rank, energy=energy), err=True)
    typer.echo(str(output))


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One benchmark; all of them where none is named.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Say what there is.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="See that the programs work; nothing is kept.")] = False,
) -> None:
    """Measure speed and memory, and print what is promised beside it. What follows a name is handed on."""
    import subprocess

    from jobs.home import PROJECT

    flags = [flag for flag, is_given in (("--list", list_), ("--quick", quick)) if is_given]
    command = [sys.executable, "-m", "benchmarks.suite", *([name] if name else []), *flags, *context.args]
    raise typer.Exit(subprocess.run(command, cwd=PROJECT, check=False).returncode)
