"""The options that several commands take, settings of runs aside (`jobs.flags`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[Path | None, typer.Option(help="The folder that holds datasets, runs and adapters.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line and nothing else.")]
HostOption = Annotated[
    str, typer.Option(help="The address to listen on. Any but this machine's own needs users, who log in.")
]
NameOption = Annotated[
    list[str] | None,
    typer.Option(
        "--name", help="A name that others call this machine by; may be repeated. It needs users, who log in."
    ),
]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")]
RunArgument = Annotated[str, typer.Argument(metavar="ID")]
DataOption = Annotated[Path | None, typer.Option(help="The dataset's file.")]
DatasetOption = Annotated[str | None, typer.Option(metavar="ID", help="A dataset that the workbench has already.")]
ColumnsOption = Annotated[
    str | None,
    typer.Option(help="What the columns mean, where they do not tell: 'FORMAT: {ROLE: COLUMN, ...}'."),
]
SkipOption = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be trained on.")]
