"""The door to jobs: what it refuses leaves nothing behind, what it accepts is there for everybody."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import RunConfig, parse
from core.data.records import Conversation, Message
from core.errors import AdapterError, ConfigError, DataError, ModelError, NotFound, RunError, UserError
from core.generate.requests import Sampling
from jobs.home import EXAMPLES, PROJECT
from jobs.service import Pane, Service
from tests.jobs.stand_in import write_adapter
from tests.jobs.waiting import wait_for

ASK = (Message(role="user", content="hello"),)


def config_on(service: Service, dataset_file: Path, model: Path, **lora: object) -> RunConfig:
    dataset = service.data.add(dataset_file)
    return parse({"name": "a run", "base_model": str(model), "data": {"dataset_id": dataset.id}, "lora": lora})


def files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_service_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, jobs.service, jobs.commands; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# -- datasets --------------------------------------------------------------------------------------------------------


def test_a_dataset_is_kept_with_its_source_and_rows(service: Service, dataset_file: Path) -> None:
    dataset = service.data.add(dataset_file)
    assert (dataset.name, dataset.rows, dataset.skipped) == ("numbers.jsonl", 12, 0)
    folder = service.home / "datasets" / dataset.id
    assert {"about.json", "health.json", "records.jsonl", "records.npy", "source.jsonl"} <= {
        path.name for path in files_under(folder)
    }
    assert (folder / "source.jsonl").read_bytes() == dataset_file.read_bytes()
    first = service.data.rows(dataset.id, 0, 1)[0]
    assert isinstance(first, Conversation) and first.messages[0].content == "What is 0?"
    assert (service.data.all(), service.data.get(dataset.id)) == ((dataset,), dataset)


@pytest.mark.parametrize("content", [b"", b'{"messages": []}\n', b"not json\n", b"\x00\x01\x02"])
def test_a_refused_file_leaves_nothing(service: Service, tmp_path: Path, content: bytes) -> None:
    before = files_under(service.home)
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError):
        service.data.add(file)
    assert files_under(service.home) == before
    assert list((service.home / "datasets").iterdir()) == []
    assert service.data.all() == ()


def test_only_a_regular_file_or_a_folder_of_such_is_a_dataset(service: Service, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, reason in (
        (tmp_path / "none.jsonl", "no file"),
        (tmp_path, "holds no file"),
        (tmp_path / "pipe.jsonl", "not a reg"),
    ):
        with pytest.raises(DataError, match=reason):
            service.data.add(path)


def test_bad_rows_are_skipped_on_consent_only(service: Service, dataset_file: Path) -> None:
    with dataset_file.open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "and?"}]}\n')
    with pytest.raises(DataError, match="13"):
        service.data.add(dataset_file)
    dataset = service.data.add(dataset_file, skip_bad_rows=True)
    assert (dataset.rows, dataset.skipped) == (12, 1)


def test_a_name_is_display_text_and_never_a_path(service: Service, dataset_file: Path) -> None:
    dataset = service.data.add(dataset_file, name="../../etc/é")
    assert (dataset.name, (service.home / "datasets" / dataset.id).is_dir()) == ("../../etc/é", True)
    for bad in ("", " ", "a\nb", "x" * 81, "\u202egnp.exe"):
        with pytest.raises(ConfigError):
            service.data.add(dataset_file, name=bad)


def test_the_examples_are_there_and_are_added_once(service: Service) -> None:
    examples = service.data.examples()
    assert [(example.key, example.title) for example in examples] == [
        ("captain", "The Captain"),
        ("to_json", "To JSON"),
    ]
    for example in examples:
        assert example.path.parent == EXAMPLES and example.rows > 50
        with ThreadPoolExecutor(4) as pool:
            added = set(pool.map(service.data.add_example, [example.key] * 4))
        (dataset,) = added
        assert (dataset.name, dataset.rows) == (example.title, example.rows)
    assert len(service.data.all()) == len(list((service.home / "datasets").iterdir())) == 2
    with pytest.raises(NotFound, match="no example nobody"):
        service.data.add_example("nobody")


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_queued_with_its_folder(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    config = config_on(service, dataset_file, tiny_model, rank=4)
    run = service.submit(config)
    assert (run.state, run.config, run.dataset_name) == ("queued", config, "numbers.jsonl")
    assert [path.name for path in files_under(service.home / "runs" / run.id)] == ["config.json"]
    assert (service.runs(), service.events(run.id), service.log_tail(run.id)) == ((run,), ((), 0), "")


def test_a_base_model_given_by_a_relative_path_is_found_by_the_worker(
    service: Service, dataset_file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    run = service.submit(config_on(service, dataset_file, Path("./tiny").relative_to("."), rank=4))
    assert run.config.base_model == str(tiny_model)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"lora": {"targets": ["q_prj"]}}, ConfigError, "q_proj"),
        ({"lora": {"rank": 64}}, ConfigError, "at most"),
        ({"base_model": "/no/such/model"}, ModelError, "does not exist"),
        ({"data": {"dataset_id": "../../x"}}, NotFound, "no dataset"),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_anything_is_made(
    service: Service, dataset_file: Path, tiny_model: Path, change: dict[str, object], error: type[UserError], says: str
) -> None:
    dataset = service.data.add(dataset_file)
    values = {"name": "a run", "base_model": str(tiny_model), "data": {"dataset_id": dataset.id}, **change}
    with pytest.raises(error) as caught:
        service.submit(parse(values))
    assert says in str(caught.value)
    assert service.runs() == () and list((service.home / "runs").iterdir()) == []


def test_a_double_click_gives_one_run(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    config = config_on(service, dataset_file, tiny_model, rank=4)
    with ThreadPoolExecutor(4) as pool:
        runs = set(pool.map(lambda _: service.submit(config, key="click").id, range(4)))
    assert len(runs) == len(service.runs()) == len(list((service.home / "runs").iterdir())) == 1
    assert service.submit(config, key="another click").id not in runs


def test_an_estimate_counts_what_the_model_has(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    estimate = service.estimate(config_on(service, dataset_file, tiny_model, rank=4, targets=["q_proj", "k_proj"]))
    assert estimate is not None
    # q: 32 to 32, k: 32 to 16; two layers.
    assert (estimate.trainable_parameters, estimate.adapted_modules) == (2 * 4 * (64 + 48), 4)
    assert estimate.adapter_bytes == 4 * estimate.trainable_parameters
    assert service.inspect_model(str(tiny_model)).parameters == estimate.base_parameters


def test_a_model_that_is_not_here_yet_gives_no_estimate(service: Service, dataset_file: Path) -> None:
    dataset = service.data.add(dataset_file)
    assert service.estimate(parse({"name": "x", "data": {"dataset_id": dataset.id}})) is None
    assert service.inspect_model("starter").shapes == ()


def test_cancelling_twice_says_that_the_run_has_ended(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    run = service.submit(config_on(service, dataset_file, tiny_model, rank=4))
    service.cancel_run(run.id)
    assert service.run(run.id).state == "cancelled"
    with pytest.raises(RunError, match="already ended"):
        service.cancel_run(run.id)
    assert service.resume_run(run.id).state == "queued"


def test_the_log_is_shown_from_its_end(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    run = service.submit(config_on(service, dataset_file, tiny_model, rank=4))
    lines = [f"line {i} é" for i in range(20_000)]
    (service.home / "runs" / run.id / "worker.log").write_text("\n".join(lines))
    assert service.log_tail(run.id, 3).splitlines() == lines[-3:]


# -- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter_id(service: Service, dataset_file: Path, tiny_model: Path) -> str:
    run = service.submit(config_on(service, dataset_file, tiny_model, rank=4))
    write_adapter(service.home / "runs" / run.id / "adapter")
    attempt = service._store.claim(lambda run_id, _: service._scheduler._launcher.launch(service._home.run(run_id)))
    assert attempt is not None
    service._scheduler._launcher.abandon(attempt.worker)
    from jobs.adapters import describe_adapter

    facts = describe_adapter(service.home / "runs" / run.id / "adapter").as_row()
    row = {**facts, "name": "The Captain: é/../x", "folder": f"runs/{run.id}/adapter", "base_model": str(tiny_model)}
    service._store.finish(attempt, row)
    return service.adapters()[0].id


def test_an_export_holds_the_adapters_files_and_nothing_else(service: Service, adapter_id: str) -> None:
    adapter = service.adapter(adapter_id)
    (adapter.path / "training_args.bin").write_bytes(b"secret")
    path = service.export_zip(adapter_id)
    assert path == service.home / "exports" / f"the-captain-e-x-{adapter.fingerprint}.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["adapter_config.json", "adapter_model.safetensors", "README.md"]
        assert archive.read("adapter_model.safetensors") == b"weights"
    assert service.export_zip(adapter_id) == path
    assert list(path.parent.iterdir()) == [path]


def test_an_adapter_whose_files_have_gone_is_not_exported(service: Service, adapter_id: str) -> None:
    (service.adapter(adapter_id).path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="missing"):
        service.export_zip(adapter_id)
    assert list((service.home / "exports").iterdir()) == []


def test_renaming_changes_the_name_alone(service: Service, adapter_id: str) -> None:
    before = service.adapter(adapter_id)
    service.library.rename(adapter_id, " Blackbeard ")
    assert service.adapter(adapter_id) == replace(before, name="Blackbeard")
    with pytest.raises(NotFound):
        service.library.rename("nobody", "x")
    with pytest.raises(ConfigError):
        service.library.rename(adapter_id, "")


# -- chat ------------------------------------------------------------------------------------------------------------


def test_adapters_of_different_bases_are_not_put_side_by_side(
    service: Service, adapter_id: str, tmp_path: Path, tiny_model: Path
) -> None:
    write_adapter(tmp_path / "other")  # its base is the hub model x/y
    panes = [Pane(adapter=adapter_id, messages=ASK), Pane(adapter=str(tmp_path / "other"), messages=ASK)]
    with pytest.raises(AdapterError) as caught:
        service.chat(panes)
    assert "x/y" in str(caught.value) and str(tiny_model) in str(caught.value)


@pytest.mark.parametrize(
    ("panes", "options"),
    [
        ([], {}),
        ([Pane(adapter=None, messages=())], {}),
        ([Pane(adapter=None, messages=ASK)], {"max_new_tokens": 0}),
        ([Pane(adapter=None, messages=ASK)], {"temperature": -1.0}),
        ([Pane(adapter=None, messages=ASK)], {"top_p": 0.0}),
        ([Pane(adapter=None, messages=ASK, sampling=Sampling(top_p=2.0))], {}),
        ([Pane(adapter=None, messages=ASK, sampling=Sampling(top_k=-1))], {}),
        ([Pane(adapter=None, messages=ASK, sampling=Sampling(repetition_penalty=0.0))], {}),
        ([Pane(adapter=(("nobody", 0.5),), messages=ASK)], {}),
        ([Pane(adapter=(("nobody", 3.0),), messages=ASK)], {}),
        ([Pane(adapter=(("nobody", 0.5), ("nobody", 0.1)), messages=ASK)], {}),
        ([Pane(adapter="nobody", messages=ASK)], {}),
        ([Pane(adapter="/nowhere/at all", messages=ASK)], {}),
    ],
)
def test_a_chat_that_cannot_work_is_refused_at_once(
    service: Service, panes: list[Pane], options: dict[str, float]
) -> None:
    with pytest.raises(UserError):
        service.chat(panes, **options)  # type: ignore[arg-type]


# -- the machine -----------------------------------------------------------------------------------------------------


def test_the_machine_says_what_it_has(service: Service) -> None:
    machine = service.machine()
    assert machine.cpu_count >= 1 and 0 < machine.memory_free_bytes <= machine.memory_total_bytes
    assert machine.active_runs == ()


def test_a_home_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--home"):
        Service(tmp_path / "file")


def test_a_real_run_is_carried_out_stopped_and_resumed(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    config = config_on(service, dataset_file, tiny_model, rank=4)
    config = replace(config, optim=replace(config.optim, epochs=1000.0, batch_size=2))
    run = service.submit(config)
    service.start()
    wait_for(lambda: any(event.event == "step" for event in service.events(run.id)[0]), 120)
    assert service.machine().active_runs == (service.run(run.id),)
    service.cancel_run(run.id)
    wait_for(lambda: service.run(run.id).has_ended)
    assert service.run(run.id).state == "cancelled"
    _, offset = service.events(run.id)
    service.resume_run(run.id)
    wait_for(lambda: any(event.event == "step" for event in service.events(run.id, offset)[0]), 120)
    service.stop_run(run.id)
    wait_for(lambda: service.run(run.id).has_ended)
    ended = service.run(run.id)
    assert (ended.state, ended.error) == ("finished", None)
    last = service.events(run.id, offset)[0][-1]
    assert last.event == "finished" and last.stopped
    assert service.adapter(ended.adapter_id or "").path.is_dir()
