"""Faults are tried on what the tests of jobs and pages share: a home, a tiny model, the real app, the browser."""

from __future__ import annotations

from tests.browser.conftest import app, context, page, watch
from tests.jobs.conftest import dataset_file, home, one_thread, service, store, tiny_model

__all__ = [
    "app",
    "context",
    "dataset_file",
    "home",
    "one_thread",
    "page",
    "service",
    "store",
    "tiny_model",
    "watch",
]
