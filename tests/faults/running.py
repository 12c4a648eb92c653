"""Runs of the real worker on rows that a person may bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.config import RunConfig, parse
from core.events import Event
from jobs.service import Run, Service
from tests.jobs.waiting import wait_for


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def keep(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def config_on(dataset_id: str, model: Path, **data: Any) -> RunConfig:
    values = {"name": "a run", "base_model": str(model), "lora": {"rank": 4}, "optim": {"steps": 3, "batch_size": 2}}
    return parse({**values, "data": {"dataset_id": dataset_id, **data}})


def carried_out(service: Service, file: Path, model: Path, **data: Any) -> tuple[Run, list[Event]]:
    """A run of the real worker on the rows in `file`, when it has ended; its events."""
    run = service.submit(config_on(service.data.add(file).id, model, **data))
    wait_for(lambda: service.run(run.id).has_ended, 200)
    return service.run(run.id), list(service.events(run.id)[0])


def run_on(service: Service, dataset_file: Path, model: Path) -> Any:
    dataset = service.data.add(dataset_file)
    settings = {"lora": {"rank": 4}, "optim": {"steps": 2, "batch_size": 2, "evaluations": 1}}
    return parse({"name": "a run", "base_model": str(model), "data": {"dataset_id": dataset.id}, **settings})
