"""What runs leave, as the service tells it: adapters in the library, whole models as bases, classifiers in no chat."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from core.config import parse
from core.data.records import Message
from core.errors import AdapterError, ConfigError
from core.events import Finished
from jobs.service import Adapter, Pane, Service
from tests.jobs.stand_in import write_adapter, write_model

ASK = (Message(role="user", content="hello"),)
ROWS = "text,label\nwhat a day,good\noh no,bad\n"


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    path = tmp_path / "moods.csv"
    path.write_text(ROWS)
    return path


def finish(service: Service, data: Path, model: Path, **values: Any) -> str:
    """A run that came to its end with a result on disk; the run's id."""
    dataset = service.data.add(data)
    config = parse({"name": "a run", "base_model": str(model), "data": {"dataset_id": dataset.id}, **values})
    run = service.submit(config)
    write = write_model if config.method == "full" else write_adapter
    write(service.home / "runs" / run.id / "adapter")
    attempt = service._store.claim(lambda run_id, _: service._scheduler._launcher.launch(service._home.run(run_id)))
    assert attempt is not None
    service._scheduler._launcher.abandon(attempt.worker)
    end = Finished(
        output="adapter", steps=1, tokens=1, seconds=1.0, tokens_per_second=1.0, peak_rss_bytes=1,
        first_loss=2.0, last_loss=1.0, eval_loss=1.5, base_eval_loss=2.5,
    )  # fmt: skip
    service._scheduler._register(attempt, end)
    assert service.run(run.id).state == "finished"
    return run.id


def result(service: Service, run_id: str) -> Adapter:
    adapter_id = service.run(run_id).adapter_id
    assert adapter_id is not None
    return service.adapter(adapter_id)


def test_full_fine_tuning_leaves_a_base_model_and_no_adapter(
    service: Service, dataset_file: Path, tiny_model: Path
) -> None:
    adapter = result(service, finish(service, dataset_file, tiny_model, lora={"rank": 4}))
    model = result(service, finish(service, dataset_file, tiny_model, method="full"))
    assert [one.id for one in service.adapters()] == [adapter.id]
    assert [one.id for one in service.trained_models()] == [model.id]
    assert (adapter.method, model.method, model.rank, model.targets) == ("lora", "full", 0, ())
    assert model.path.is_dir() and model.base_model == str(tiny_model)
    with zipfile.ZipFile(service.export_zip(model.id)) as archive:
        assert "config.json" in archive.namelist() and "training_args.bin" not in archive.namelist()


def test_a_whole_model_does_not_sit_on_a_base(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    model = result(service, finish(service, dataset_file, tiny_model, method="full"))
    for pane in (model.id, str(model.path)):
        with pytest.raises(AdapterError, match="whole model"):
            service.chat([Pane(adapter=pane, messages=ASK)])


def test_a_classifier_is_not_asked_to_talk(service: Service, labeled: Path, tiny_model: Path) -> None:
    found = result(service, finish(service, labeled, tiny_model, task="classification", lora={"rank": 4}))
    assert found.task == "classification" and not found.can_chat
    assert service.adapters()[0] == found
    (found.path / "labels.json").write_text('["bad", "good"]')
    for pane in (found.id, str(found.path)):
        with pytest.raises(AdapterError, match="no words to chat with"):
            service.chat([Pane(adapter=pane, messages=ASK)])


@pytest.mark.parametrize("task", ["chat", "classification"])
def test_a_task_is_refused_on_rows_that_are_not_for_it(
    service: Service, dataset_file: Path, labeled: Path, tiny_model: Path, task: str
) -> None:
    fitting, other = (dataset_file, labeled) if task == "chat" else (labeled, dataset_file)
    config = {"name": "x", "base_model": str(tiny_model), "task": task, "lora": {"rank": 4}}
    right, wrong = service.data.add(fitting), service.data.add(other)
    assert service.data.task_of(right.id) == task != service.data.task_of(wrong.id)
    with pytest.raises(ConfigError) as caught:
        service.submit(parse({**config, "data": {"dataset_id": wrong.id}}))
    assert caught.value.field == "task" and service.runs() == ()
    service.submit(parse({**config, "data": {"dataset_id": right.id}}))


def test_a_models_card_lists_what_else_may_be_named(service: Service, tiny_model: Path) -> None:
    card = service.inspect_model(str(tiny_model))
    assert {shape.kind for shape in card.shapes} == {"linear"}
    assert set(card.others) == {"embed_tokens", "lm_head"}
