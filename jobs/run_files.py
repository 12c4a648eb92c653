"""A run's history into files, for the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from core.errors import ConfigError
from jobs.service import Service

_STANDARD_OUTPUT = Path("-")


def write_history(service: Service, run_id: str, paths: Mapping[str, Path | None]) -> None:
    """Write the run's history in each form that has a path.

    Raises:
        NotFound: there is no such run.
        ConfigError: no form has a path, or a file cannot be written.
    """
    wanted = {form: path for form, path in paths.items() if path is not None}
    if not wanted:
        raise ConfigError("No file is named", hint=f"Name one with {' or '.join(f'--{form} PATH' for form in paths)}")
    for form, path in wanted.items():
        pieces = service.history.export(run_id, form)
        if path == _STANDARD_OUTPUT:
            sys.stdout.writelines(pieces)
            continue
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                file.writelines(pieces)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written", error.strerror or "", "Name another file") from error
