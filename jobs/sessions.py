"""What commands share: a service for as long as one lasts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.logs import set_up_logging

if TYPE_CHECKING:
    from jobs.service import Service


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
