"""Faults are tried on what the tests of jobs and pages share: a home, a tiny model, the real app, the browser."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.processes import signal_group
from jobs.service import Service
from tests.browser.conftest import app, context, page, shared_app, watch
from tests.faults.trial import Trial, workers
from tests.jobs.conftest import dataset_file, home, one_thread, service, store, tiny_model
from tests.jobs.waiting import wait_for

__all__ = [
    "app",
    "context",
    "dataset_file",
    "home",
    "one_thread",
    "page",
    "service",
    "shared_app",
    "store",
    "tiny_model",
    "watch",
]


@pytest.fixture
def working(service: Service) -> Service:
    """A service that starts what is queued."""
    service.start()
    return service


@pytest.fixture
def trial(service: Service, dataset_file: Path, tiny_model: Path) -> Iterator[Trial]:
    """No worker outlives the test."""
    yield Trial(service, dataset_file, tiny_model)
    for attempt in service._store.attempts():
        signal_group(attempt.worker.pid, attempt.worker.birth, signal.SIGKILL)
        wait_for(lambda pid=attempt.worker.pid: not workers(pid))
