"""The Train page's handlers over a real service; a widget is stood in for by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.utils import get_upload_folder

from core.config import parse
from core.errors import ConfigError, DataError
from jobs.service import Service
from tests.ui.stand_in import Names, read
from ui import forms
from ui.pages.train import TrainPage


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TrainPage]:
    service = Service(tmp_path / "home", models_root=tmp_path / "models")
    yield TrainPage(service, Names())  # type: ignore[arg-type]
    service.close()


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    folder = Path(get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def form(dataset_id: str | None, key: str = "visit", **changes: Any) -> tuple[Any, ...]:
    settings = forms.values(parse({"name": "x", "data": {"dataset_id": "x"}}), ()) | changes
    return (key, dataset_id, "starter", "", "", *settings.values())


def visit(**query: str) -> Any:
    return SimpleNamespace(query_params=query)


def test_a_first_visit_offers_examples_and_names_what_is_missing(page: TrainPage) -> None:
    assert "dataset" not in page.open(visit())
    news = page.refresh(*form(None))
    assert news["launch"]["value"] == "Choose a dataset" and not news["launch"]["interactive"]


def test_an_example_makes_the_form_ready_and_the_next_visit_finds_it(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    assert page.refresh(*form(chosen))["launch"]["value"] == "Launch"
    assert page.open(visit())["dataset"]["value"] == chosen


def test_a_run_is_launched_once_however_often_it_is_clicked(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    first, again = page.launch(*form(chosen)), page.launch(*form(chosen))
    assert first == again and len(page.service.runs()) == 1
    assert page.launch(*form(chosen, seed=1)) != first
    assert page.launch(*form(chosen, key="another visit")) != first


def test_an_error_stands_beside_its_setting_alone(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    news = page.refresh(*form(chosen, **{"lora.rank": 0}))
    marked = [path for path in Names.fields if "faulty" in news[path]["elem_classes"]]
    assert marked == ["lora.rank"] and "Rank is 0" in news["lora.rank"]["info"]
    assert news["launch"]["value"] == "Check rank"
    mended = page.refresh(*form(chosen))
    assert not any("faulty" in mended[path]["elem_classes"] for path in Names.fields)


def test_an_errors_setting_is_found_by_a_part_of_its_name(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    news = page.refresh(*form(chosen, **{"lora.rank_pattern": "layers.3.mlp.up_proj=0"}))
    marked = [path for path in Names.fields if "faulty" in news[path]["elem_classes"]]
    assert marked == ["lora.rank_pattern"] and news["launch"]["value"] == "Check rank per module"


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"method": "full", "quant.bits": 4}, "quant.bits", "cannot be trained"),
        ({"lora.init": "loftq"}, "lora.init", "not quantized"),
        ({"lora.init": "orthogonal", "lora.rank": 7}, "lora.init", "7 is odd"),
        ({"lora.init": "pissa", forms.MORE_TARGETS: "qkv_proj:v"}, "lora.init", "whole matrices"),
        ({"lora.freeze_a": True, "optim.lora_plus_ratio": 16}, "optim.lora_plus_ratio", "A is frozen"),
        ({"task": "classification"}, "task", "no labels"),
    ],
    ids=str,
)
def test_a_contradiction_is_told_before_launch(page: TrainPage, changes: dict[str, Any], path: str, says: str) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    news = page.refresh(*form(chosen, **changes))
    assert not news["launch"]["interactive"]
    assert "faulty" in news[path]["elem_classes"] and says in news[path]["info"]
    with pytest.raises(ConfigError):
        page.launch(*form(chosen, **changes))
    assert page.service.runs() == ()


def test_what_a_method_has_no_use_for_is_out_of_sight_and_keeps_its_value(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    for method, hidden in (("lora", set()), ("full", {"lora.rank", "quant.skip"}), ("bitfit", {"lora.rank"})):
        news = page.refresh(*form(chosen, method=method))
        assert {path for path in ("lora.rank", "quant.skip") if news[path]["visible"] == "hidden"} == hidden
        assert "value" not in news["lora.rank"]
        assert news["optim.epochs"]["visible"] is True
    assert page.refresh(*form(chosen, method="full"))["run_name"]["placeholder"] == "the-captain-full"


def test_the_task_follows_from_the_dataset_and_can_be_changed(page: TrainPage, uploads: Path) -> None:
    assert page.service.data.task_of(page.data.example("captain")["dataset"]["value"]) == "chat"
    path = uploads / "moods.csv"
    path.write_text("text,label\nwhat a day,good\noh no,bad\n")
    news = read(page.data, path)
    chosen = news["dataset"]["value"]
    assert page.learn_from(chosen)["task"] == "classification"
    assert "2 labeled texts" in news["status"] and news["preview"].count("turn trained") == 2
    assert page.refresh(*form(chosen, task="classification"))["launch"]["value"] == "Launch"
    refused = page.refresh(*form(chosen, task="chat"))
    assert refused["launch"]["value"] == "Check task" and "labels" in refused["task"]["info"]


def test_a_form_begins_with_an_earlier_runs_settings(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    run = page.launch(*form(chosen, **{"lora.rank": 16, "optim.steps": "60"}))["launched"].partition("=")[2]
    news = page.open(visit(**{"from": run}))
    assert (news["lora.rank"], news["optim.steps"], news["dataset"]["value"]) == (16, "60", chosen)


def test_an_address_with_an_unknown_run_is_an_ordinary_visit_with_a_word(page: TrainPage) -> None:
    news = page.open(visit(**{"from": "nope"}))
    assert "nope" in news["banner"] and news["page_key"]


def test_broken_rows_can_be_left_out(page: TrainPage, uploads: Path) -> None:
    path = uploads / "mixed.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    refused = read(page.data, path)
    assert "Row 2" in refused["status"] and refused["skip"]["visible"] and refused["dataset"]["value"] is None
    assert "1 row left out" in page.data.skip_bad_rows(refused["intake"])["status"]


def test_leaving_rows_out_is_not_offered_where_nothing_would_remain(page: TrainPage, uploads: Path) -> None:
    path = uploads / "empty.jsonl"
    path.write_text("")
    refused = read(page.data, path)
    assert "0 rows" in refused["status"] and not refused["skip"]["visible"]
    assert page.service.data.all() == ()


def test_only_uploaded_files_are_read(page: TrainPage, uploads: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    (uploads / "link.txt").symlink_to(secret)
    for path in (secret, uploads / "link.txt", uploads / ".." / ".." / "secret.txt"):
        with pytest.raises(DataError, match="not uploaded here"):
            page.data.upload(str(path))


def test_the_command_reads_an_examples_own_file(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    assert "--data examples/captain.jsonl" in page.refresh(*form(chosen))["command"]
