"""`keys`: who may ask the models from a program."""

from __future__ import annotations

import typer

from jobs.options import HomeOption
from jobs.sessions import Session

keys_commands = typer.Typer(help="Keys by which programs may ask the models.", rich_markup_mode=None)


@keys_commands.command("add")
def add_key(name: str, home: HomeOption = None) -> None:
    """Print a new key, the only time that it is shown. From now on the API answers nobody without a key."""
    with Session(home) as service:
        typer.echo(service.keys.add(name))


@keys_commands.command("list")
def list_keys(home: HomeOption = None) -> None:
    """Every key, a line each: its last characters, when it was made and last used, and its name."""
    with Session(home) as service:
        for key in service.keys.all():
            used = f"{key.used_at:%Y-%m-%d %H:%M}" if key.used_at else "never used"
            typer.echo(f"…{key.ending}  {key.created_at:%Y-%m-%d %H:%M}  {used:<16}  {key.name}")


@keys_commands.command("revoke")
def revoke_key(name: str, home: HomeOption = None) -> None:
    """Let a key open nothing from now on."""
    with Session(home) as service:
        service.keys.revoke(name)
