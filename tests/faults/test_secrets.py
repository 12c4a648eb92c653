"""FAULTS.md, section 2: what leaves the workbench holds no token and no key, and no cell that is a formula."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE
from core.events import Finished
from jobs.home import PROJECT
from jobs.service import Service
from tests.browser.driver import App
from tests.core.train.running import of_kind
from tests.faults.files import files_under, names_in, our_sources, zip_of
from tests.faults.running import run_on
from tests.jobs.adapters_on_tiny import put_adapters
from tests.jobs.test_commands import Terminal
from tests.jobs.waiting import wait_for

# ---- spreadsheets


def test_what_a_spreadsheet_opens_is_a_table_of_numbers_and_nothing_else() -> None:
    """So that no cell can be a formula. A run's figures are the one table, which tests/jobs/test_histories.py holds to
    numbers; adapters leave as zips and GGUF.
    """
    writers = {"DictWriter", "to_csv", "write_csv", "to_excel", "ExcelWriter", "Workbook", "xlsxwriter", "Dataframe",
               "DataFrame", "Matrix"}  # fmt: skip
    for path in our_sources():
        assert not names_in(path) & writers, path
        text = path.read_text(encoding="utf-8")
        for sign in ("csv.writer", "text/csv", "application/vnd.ms-excel", "spreadsheetml"):
            is_figures = sign == "text/csv" and path == PROJECT / "ui" / "addresses.py"
            assert sign not in text or is_figures, (path, sign)


# ---- secrets


CANARY = "hf_CANARYx7Qm2VbT9sLk4WcZ8nRd"


@pytest.fixture
def with_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # nobody answers there
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file under `folder`, and every file in the zips among them."""
    for path in files_under(folder):
        yield str(path), path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path}!{name}", archive.read(name)


@pytest.mark.usefixtures("with_token")
def test_a_token_is_in_no_log_no_database_no_export_and_on_no_page(
    tmp_path: Path, tiny_model: Path, dataset_file: Path
) -> None:
    """After a run that finished, one that could not fetch its model, a chat, every export and every page."""
    home = tmp_path / "home"
    terminal = Terminal(tmp_path)
    data = ("--data", dataset_file, "--home", home, "--rank", 4, "--steps", 2)
    assert os.environ["HF_TOKEN"] == CANARY
    answers = [
        terminal("train", *data, "--model", tiny_model, "--output", "out", "--json"),
        terminal("train", *data, "--model", "nobody/nothing", "--output", "none", "--json"),
        terminal("chat", "--adapter", "out", "--prompt", "Hello?", "--max-new-tokens", 4, "--home", home),
    ]
    assert [answer.code for answer in answers] == [0, 1, 0], answers
    for answer in answers:
        assert CANARY not in answer.out + answer.err

    app = App(home=home)
    app.start()
    try:
        pages = [fetched(f"{app.url}{path}") for path in ("/", "/runs", "/playground", "/library", "/config")]
        service = Service(home)
        (adapter,) = service.adapters()
        pages += [fetched(f"{app.url}/workbench/adapters/{adapter.id}.zip{form}") for form in ("", "?to=portable")]
        pages += [service.log_tail(run.id).encode() for run in service.runs()]
        assert {run.state for run in service.runs()} == {"finished", "failed"}
        service.close()
    finally:
        app.stop()
    assert not any(CANARY.encode() in page for page in pages)
    searched = dict(contents(tmp_path))
    assert len(searched) > 20 and any(name.endswith("!adapter_config.json") for name in searched)
    assert any(name.endswith("workbench.db") for name in searched) and any("worker.log" in name for name in searched)
    assert [name for name, content in searched.items() if CANARY.encode() in content or b"hf_CANARY" in content] == []


def test_an_api_key_is_in_no_log_no_database_no_export_and_on_no_page(tmp_path: Path, tiny_model: Path) -> None:
    """After it was used, on pages, in headers of refused requests and in their addresses."""
    home = tmp_path / "home"
    put_adapters(home, tiny_model, {"captain": 2})
    terminal = Terminal(tmp_path)
    made = terminal("keys", "add", "laptop", "--home", home)
    key = made.out.strip()
    assert made.code == 0 and re.fullmatch(r"lw-[\w-]{43}", key) and key not in made.err
    app = App(home=home)
    app.start()
    try:
        authorized = {"Authorization": f"Bearer {key}"}
        body = {"model": "captain", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        asked = urllib.request.Request(f"{app.url}/v1/chat/completions", json.dumps(body).encode(), authorized)
        with urllib.request.urlopen(asked, timeout=120) as answer:
            said = [answer.read(), str(answer.headers).encode()]
        for path in ("/v1/models", "/v1/zebra", "/v1/models/zebra"):
            with (
                suppress(urllib.error.HTTPError),
                urllib.request.urlopen(
                    urllib.request.Request(f"{app.url}{path}", headers=authorized), timeout=30
                ) as answer,
            ):
                said.append(answer.read())
        pages = [fetched(f"{app.url}{path}") for path in ("/", "/runs", "/playground", "/library", "/config")]
        service = Service(home)
        (adapter,) = service.adapters()
        pages += [fetched(f"{app.url}/workbench/adapters/{adapter.id}.zip")]
        service.close()
    finally:
        app.stop()
    listed = terminal("keys", "list", "--home", home)
    assert "laptop" in listed.out and key not in listed.out + listed.err
    random_part = key.removeprefix("lw-").encode()
    assert len(said) > 1 and not any(random_part in text for text in (*said, *pages))
    searched = dict(contents(tmp_path))
    assert any(name.endswith("workbench.db") for name in searched) and any(
        name.endswith("app.log") for name in searched
    )
    assert [name for name, content in searched.items() if random_part in content] == []


def test_the_search_for_the_token_would_find_it(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(lambda archive: archive.writestr("inner", CANARY * 9)))
    assert [name for name, content in contents(tmp_path) if CANARY.encode() in content] == [f"{tmp_path}/a.zip!inner"]


@pytest.mark.usefixtures("with_token")
def test_what_a_run_leaves_is_a_known_list_of_files(service: Service, tiny_model: Path, dataset_file: Path) -> None:
    """A list of what goes out, not of what stays in: pickled arguments, which hold a token, are not on it."""
    run = service.submit(run_on(service, dataset_file, tiny_model))
    service.start()
    wait_for(lambda: service.run(run.id).has_ended, 200)
    assert of_kind(list(service.events(run.id)[0]), Finished)
    ended = service.run(run.id)
    adapter = service.adapter(ended.adapter_id or "")
    (adapter.path / "training_args.bin").write_text(CANARY)
    (adapter.path / "token").write_text(CANARY)
    with zipfile.ZipFile(service.export_zip(adapter.id)) as archive:
        assert set(archive.namelist()) == {CONFIG_FILE, WEIGHTS_FILE, "README.md"}
        assert not any(CANARY.encode() in archive.read(name) for name in archive.namelist())
