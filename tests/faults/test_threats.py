"""FAULTS.md, section 2: archives, pickles, weight files, configs, chat templates, spreadsheets and secrets."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import stat
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file

import core.data.reading
from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE
from core.config import parse
from core.data.reading import read_dataset
from core.errors import AdapterError, DataError, ModelError, UserError
from core.events import Failed, Finished
from jobs.home import PROJECT
from jobs.service import Service
from tests.browser.driver import App
from tests.core.train.running import of_kind
from tests.faults.test_adapters import said, write_adapter
from tests.faults.test_data import Watched
from tests.jobs.adapters_on_tiny import put_adapters
from tests.jobs.test_commands import Terminal
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for

OURS = ("app.py", "core", "jobs", "ui")


def our_sources() -> Iterator[Path]:
    """Every Python file that the workbench is made of."""
    for name in OURS:
        yield from [PROJECT / name] if name.endswith(".py") else sorted((PROJECT / name).rglob("*.py"))


def names_in(path: Path) -> set[str]:
    """Every name and attribute that a file uses or imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names):
                found |= {str(module), *(alias.name for alias in names)}
    return found


def files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---- archives


def zip_of(fill: Callable[[zipfile.ZipFile], object]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        fill(archive)
    return content.getvalue()


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("adapter_config.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        for content in ("one", "other"):
            archive.writestr("adapter_config.json", content)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "slip": lambda: zip_of(lambda archive: archive.writestr("../../slipped-out.txt", "x")),
    "link": lambda: zip_of(link),
    "bomb": lambda: zip_of(lambda archive: archive.writestr("rows.txt", bytes(200_000_000))),
    "twice": lambda: zip_of(twice),
    "nested": lambda: zip_of(lambda archive: archive.writestr("inner.zip", zip_of(link))),
}
REFUSALS = {
    "slip": "whose path leads out of it",
    "link": "holds a link",
    "bomb": "longer than 64 MB",
    "twice": "is not valid JSON",
    "nested": "holds another archive",
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt", ".parquet", ".zip", ".xlsx", ".csv.gz"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_writes_nothing_and_unpacks_to_no_more_than_is_allowed_whatever_it_is_called(
    service: Service, tmp_path: Path, kind: str, suffix: str
) -> None:
    """Only what is called a zip is opened as one, and read where it lies; all else is told by its first bytes."""
    before = files_under(service.home)
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(ARCHIVES[kind]())
    refusal = {".zip": REFUSALS[kind], ".xlsx": "no Excel workbook|unpacks to"}.get(suffix, "a ZIP archive")
    with Watched(os.getpid()) as watched, pytest.raises(DataError, match=refusal):
        service.data.add(path)
    assert watched.growth < 100_000_000, "the bomb is 200 MB"
    assert files_under(service.home) == before
    assert [each.name for each in tmp_path.iterdir() if each != service.home] == [path.name]
    assert not list(tmp_path.parent.rglob("slipped-out*"))


def test_archives_are_opened_in_few_places_and_never_unpacked_whole() -> None:
    """A person's datasets, streamed; files of known names out of an adapter's zip; one such out of the starter's own
    package. Exports are written, and read back for the hub.
    """
    openers = {"zipfile", "tarfile", "shutil.unpack_archive", "unpack_archive", "extractall", "gzip", "bz2", "lzma"}
    found = {path.relative_to(PROJECT).as_posix(): names_in(path) & openers for path in our_sources()}
    assert {name: used for name, used in found.items() if used} == {
        "core/adapters/arrivals.py": {"zipfile"},
        "core/data/readers/archives.py": {"zipfile"},
        "core/data/readers/excel.py": {"zipfile"},
        "core/data/readers/sources.py": {"gzip", "zipfile"},
        "core/models/starter.py": {"zipfile"},
        "jobs/adapters.py": {"zipfile"},
    }
    for name in found:
        assert name == "core/models/starter.py" or "extract" not in names_in(PROJECT / name), name


def bomb(rows: int, letters: int, column: str = "text") -> bytes:
    """A Parquet file in which every row refers to one and the same long text."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * letters]))
    table = pa.table({"text": texts})
    if column == "messages":
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x" * letters}]
        table = pa.Table.from_pylist([{"messages": turns}] * rows)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


@pytest.mark.parametrize("column", ["text", "messages"])
def test_a_parquet_file_whose_rows_share_one_text_is_counted_as_what_it_unpacks_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """A few kilobytes of file would else be terabytes of memory: the file itself does not tell."""
    monkeypatch.setattr(core.data.reading, "MAX_BYTES", 10_000_000)
    path = tmp_path / "bomb.parquet"
    path.write_bytes(bomb(rows=2000, letters=10_000, column=column))
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match="unpacks to more than 0.0 GB"):
        read_dataset(path)


def test_a_parquet_bomb_at_the_real_limit_takes_no_more_memory_than_an_honest_file(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    path.write_bytes(bomb(rows=1_000_000, letters=100_000))  # 100 GB
    code = """if True:
        import sys
        from pathlib import Path
        from core.data.reading import read_dataset
        from core.errors import DataError
        try:
            read_dataset(Path(sys.argv[1]))
        except DataError as error:
            print(error.title)
        from core.train.memory import peak_rss_bytes  # the system's other account begins with our own
        print(peak_rss_bytes())
    """
    command = [sys.executable, "-c", code, str(path)]
    child = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    title, peak = child.stdout.splitlines()
    assert "unpacks to more than" in title and int(peak) < 3e9


def test_text_in_dictionaries_reads_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i % 3} é🏴", "completion": "yes" if i % 2 else "no"} for i in range(3000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    found = [[message.content for message in record.messages] for record in read_dataset(path).records]  # type: ignore[union-attr]
    assert found == [list(row.values()) for row in rows]


# ---- pickles


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    """What creates the file `executed` when it is unpickled."""

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    return Canary()


def test_a_pickle_is_opened_by_no_process_wherever_it_lies(
    service: Service, tmp_path: Path, dataset_file: Path, canary: Any
) -> None:
    """In place of a base's weights, beside them, in an adapter, and as a dataset."""
    whole, bare = write_tiny_model(tmp_path / "whole"), write_tiny_model(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    for folder in (whole, bare):
        for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
            torch.save({"canary": canary}, folder / name)
    with pytest.raises(ModelError, match="pickled weights only"):
        service.inspect_model(str(bare))

    adapter = write_adapter(tmp_path / "adapter", whole)
    (adapter / WEIGHTS_FILE).rename(tmp_path / "kept")
    torch.save({"canary": canary}, adapter / "adapter_model.bin")
    with pytest.raises(AdapterError, match="adapter_model.safetensors is missing"):
        said(service, whole, adapter)
    torch.save({"canary": canary}, adapter / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="is broken"):
        said(service, whole, adapter)
    for name in ("rows.pkl", "rows.jsonl", "rows.parquet"):
        torch.save({"canary": canary}, tmp_path / name)
        with pytest.raises(DataError):
            service.data.add(tmp_path / name)

    run = service.submit(run_on(service, dataset_file, whole))
    service.start()
    wait_for(lambda: service.run(run.id).has_ended, 200)
    assert service.run(run.id).state == "finished"
    assert not (tmp_path / "executed").exists()
    left = [path.suffix for path in files_under(service.home / "runs" / run.id)]
    assert not {".bin", ".pt", ".pth", ".pkl"} & set(left)


def run_on(service: Service, dataset_file: Path, model: Path) -> Any:
    dataset = service.data.add(dataset_file)
    settings = {"lora": {"rank": 4}, "optim": {"steps": 2, "batch_size": 2, "evaluations": 1}}
    return parse({"name": "a run", "base_model": str(model), "data": {"dataset_id": dataset.id}, **settings})


def test_nothing_of_ours_can_read_a_pickle() -> None:
    forbidden = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
    for path in our_sources():
        assert not names_in(path) & forbidden, path
        assert "torch.load(" not in path.read_text(encoding="utf-8"), path


# ---- weight files


BROKEN_WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "a header without end": lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
    "a header of 200 MB": lambda whole: (200_000_000).to_bytes(8, "little") + whole[8:],
    "a header that is no JSON": lambda whole: whole[:8] + b"\xff" * (len(whole) - 8),
    "nested": lambda whole: (100_000).to_bytes(8, "little") + b"[" * 100_000,
}


@pytest.mark.parametrize("fault", BROKEN_WEIGHTS)
def test_a_broken_weight_file_of_a_base_is_refused_before_a_run_is_queued(
    service: Service, tmp_path: Path, dataset_file: Path, fault: str
) -> None:
    model = write_tiny_model(tmp_path / "model")
    file = model / "model.safetensors"
    config = run_on(service, dataset_file, model)
    file.write_bytes(BROKEN_WEIGHTS[fault](file.read_bytes()))
    with pytest.raises(ModelError, match="is no whole safetensors file"):
        service.submit(config)
    assert service.runs() == () and list((service.home / "runs").iterdir()) == []


def test_an_adapter_that_is_not_a_number_is_refused_by_the_chat(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", tiny_model)
    tensors = load_file(adapter / WEIGHTS_FILE)
    name = next(iter(tensors))
    tensors[name].view(-1)[5] = float("nan")
    save_file(tensors, adapter / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=f"{re.escape(name)} holds values that are not finite"):
        said(service, tiny_model, adapter)


# ---- an adapter's config


def test_an_adapters_config_names_code_and_templates_and_none_of_it_is_run(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    """The module it names lies where it could be imported from, and its template would change every word."""
    adapter = write_adapter(tmp_path / "adapter", tiny_model)
    before = said(service, tiny_model, adapter)
    module = adapter / "canary.py"
    module.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    settings = json.loads((adapter / CONFIG_FILE).read_text())
    settings["auto_mapping"] = {"base_model_class": "Canary", "parent_library": "canary"}
    (adapter / CONFIG_FILE).write_text(json.dumps(settings))
    template = "{{ ''.__class__.__mro__ }}{{ 'a' * 10**9 }}"
    (adapter / "chat_template.jinja").write_text(template)
    tokenizer = {"chat_template": template, "auto_map": {"AutoTokenizer": ["canary.Canary", None]}}
    (adapter / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert said(service, tiny_model, adapter) == before
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["nobody_knows_it", pytest.param("encoder-decoder", marks=pytest.mark.slow), "llama"])
def test_a_base_that_brings_code_is_not_let_run_it(
    service: Service, tmp_path: Path, dataset_file: Path, kind: str
) -> None:
    """Of a kind that transformers lacks, has with another config, or has: only in the last case is it used."""
    model = write_tiny_model(tmp_path / "model")
    (model / "canary.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    settings = json.loads((model / "config.json").read_text())
    settings |= {"model_type": kind, "auto_map": {"AutoConfig": "canary.C", "AutoModelForCausalLM": "canary.M"}}
    (model / "config.json").write_text(json.dumps(settings))
    run = service.submit(run_on(service, dataset_file, model))
    service.start()
    wait_for(lambda: service.run(run.id).has_ended, 200)
    failed = of_kind(list(service.events(run.id)[0]), Failed)
    assert (service.run(run.id).state == "finished") == (kind == "llama")
    assert all("cannot be loaded" in event.title and event.hint for event in failed)
    assert not (tmp_path / "executed").exists()


# ---- chat templates


TEMPLATES = {
    "reaches for classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a range without end": "{% for i in range(10**9) %}x{% endfor %}",
    "more letters than memory": "{{ 'a' * 10**13 }}",
    "opens a file": "{% include '/etc/passwd' %}",
    "sets an attribute": "{% set messages.append = 1 %}",
    "recurses": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
}


def with_template(model: Path, template: str) -> Path:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return model


ATTACKS = [pytest.param(name, marks=[pytest.mark.slow] if at else []) for at, name in enumerate(TEMPLATES)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_template_of_a_base_ends_the_run_or_the_reply_with_a_sentence(
    service: Service, tmp_path: Path, dataset_file: Path, attack: str
) -> None:
    """A base is trusted; still its template runs in a sandbox, in another process than the app."""
    model = with_template(write_tiny_model(tmp_path / "model"), TEMPLATES[attack])
    run = service.submit(run_on(service, dataset_file, model))
    service.start()
    wait_for(lambda: service.run(run.id).has_ended, 200)
    (failed,) = of_kind(list(service.events(run.id)[0]), Failed)
    assert failed.title.startswith("Row 1: the model's chat template refused it"), failed.title
    with pytest.raises(UserError, match="chat template refused the conversation"):
        said(service, model, None)


def test_a_run_whose_template_never_ends_can_be_cancelled(service: Service, tmp_path: Path, dataset_file: Path) -> None:
    """There is no time limit for a template, which is a program of the base's author; the way out is Cancel."""
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = with_template(write_tiny_model(tmp_path / "model"), loops)
    run = service.submit(run_on(service, dataset_file, model))
    service.start()
    wait_for(lambda: any(getattr(event, "phase", "") == "tokenizing" for event in service.events(run.id)[0]), 120)
    service.cancel_run(run.id)
    wait_for(lambda: service.run(run.id).has_ended, 60)
    assert service.run(run.id).state == "cancelled"


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
