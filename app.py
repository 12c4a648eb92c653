"""The front door: `python app.py` opens the workbench, `python app.py --help` lists what else there is.

Exit codes: 0 done; 1 the run failed; 2 the request was wrong; 3 another app has the home folder. What is wrong is said
in one sentence on standard error.
"""

from __future__ import annotations

import gc
import sys

import typer

from core.errors import UserError
from jobs.commands import DEFAULT_HOST, DEFAULT_PORT, commands
from jobs.logs import set_up_logging
from jobs.options import HomeOption, HostOption, NameOption, PortOption


@commands.callback(invoke_without_command=True)
def workbench(context: typer.Context) -> None:
    """Fine-tune language models with LoRA. Without a command, the workbench opens for the browser."""
    if context.invoked_subcommand is None:
        ui()


@commands.command()
def ui(
    host: HostOption = DEFAULT_HOST,
    port: PortOption = DEFAULT_PORT,
    name: NameOption = None,
    home: HomeOption = None,
) -> None:
    """Open the workbench for the browser."""
    set_up_logging()
    gc.disable()  # importing gradio makes a million objects that all stay; looking through them costs a second
    from jobs.service import Service
    from ui.app import serve  # here, because gradio takes seconds that no other command should wait for

    gc.freeze()
    gc.enable()
    serve(Service(home), host, port, name or ())


def main() -> int:
    """Carry out the command line; the exit code."""
    try:
        code = commands(standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(" ".join(error.format_message().split()).rstrip(".") + ".")
    except UserError as error:
        from jobs.following import RunFailed
        from jobs.holding import HomeHeld

        _refuse(str(error))
        return {RunFailed: 1, HomeHeld: 3}.get(type(error), 2)
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _refuse(sentence: str) -> int:
    typer.echo(sentence, err=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
