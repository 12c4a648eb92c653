"""Adapters come onto a service's shelf: by a process that is waited for, or at once."""

from __future__ import annotations

import shutil
from pathlib import Path

from core.data.records import Message
from jobs.adapters import describe_adapter
from jobs.ids import new_id
from jobs.makings import Making
from jobs.origins import Origin
from jobs.service import Adapter, Service
from tests.jobs.waiting import wait_for

ASK = (Message(role="user", content="hello"),)


def rest(service: Service, making: Making, seconds: float = 120) -> Making:
    """The making once it is over."""

    def settled() -> Making | None:
        now = service.library.makings.look(making.id, 0.1)
        return now if now.state != "making" else None

    return wait_for(settled, seconds)


def taken(service: Service, path: Path) -> Adapter:
    done = rest(service, service.library.begin_elsewhere(str(path)))
    assert done.adapter_id is not None, done.problem
    return service.adapter(done.adapter_id)


def placed(service: Service, path: Path) -> Adapter:
    """As `taken`, without the process that takes seconds."""
    adapter_id = new_id()
    folder = service.home / "adapters" / adapter_id
    shutil.copytree(path, folder)
    origin = Origin(kind="uploaded", place=f"{path.name}.zip").as_json()
    values = {"id": adapter_id, "name": path.name, "folder": f"adapters/{adapter_id}", "source": origin}
    return service._store.shelf.add({**describe_adapter(folder).as_row(), **values})


def left(service: Service) -> list[str]:
    """What lies among the adapters."""
    return sorted(path.name for path in (service.home / "adapters").iterdir())
