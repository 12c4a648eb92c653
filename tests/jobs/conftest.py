"""What the tests of jobs share: a home, a tiny base model, a small dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from core.config import RunConfig, parse
from jobs.database import MIGRATIONS
from jobs.home import Home, open_home
from jobs.service import Adapter, Service
from jobs.store import Store
from tests.jobs.shelf import placed
from tests.jobs.tiny_model import write_tiny_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers on the tiny model use one thread: more only get into each other's way, and into other tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return open_home(tmp_path / "home")


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    store = Store(home)
    yield store
    store.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield service
    service.close()


@pytest.fixture
def dataset_file(tmp_path: Path) -> Path:
    """Twelve conversations."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {i}?"},
                {"role": "assistant", "content": f"It is {i}, matey."},
            ]
        }
        for i in range(12)
    ]
    file = tmp_path / "numbers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """Adapters of the tiny model that plain peft made; the last one names a base that is not here."""
    from tests.jobs.adapters_at_hand import peft_folder

    folder = tmp_path_factory.mktemp("peft")
    return {
        "one": peft_folder(folder / "one", tiny_model, 1),
        "two": peft_folder(folder / "two", tiny_model, 2, r=2),
        "elsewhere": peft_folder(folder / "elsewhere", tiny_model, 3, base="somebody/tiny-llama"),
    }


@pytest.fixture
def pair(service: Service, made: dict[str, Path]) -> tuple[Adapter, Adapter]:
    """Two of them on the service's shelf."""
    return placed(service, made["one"]), placed(service, made["two"])


def make_database(home: Home, revision: str) -> None:
    """The home's database as an older workbench had it."""
    engine, config = create_engine(f"sqlite:///{home.database}"), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def add_dataset_row(store: Store, dataset_id: str = "D") -> str:
    """A dataset as far as runs refer to it."""
    values = {
        "id": dataset_id,
        "name": "rows",
        "rows": 3,
        "file_format": "jsonl",
        "row_format": "messages",
        "skipped": 0,
    }
    return store.add_dataset(values).id


def queue_run(store: Store, run_id: str, key: str | None = None) -> RunConfig:
    """A queued run with its folder."""
    config = parse({"name": f"run {run_id}", "data": {"dataset_id": "D"}})
    store.home.run(run_id).path.mkdir()
    store.add_run(run_id, config, key)
    return config
