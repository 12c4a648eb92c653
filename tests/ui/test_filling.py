"""What fills the form in at once, over a real service; a widget is stood in for by its name."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.utils import get_upload_folder

from core.config import RunConfig
from core.errors import ConfigError, DataError, NotFound
from core.models.catalogue import STARTER
from jobs.service import Service
from tests.ui.stand_in import NOW, SHAPES, XSS, Names, dataset, run, run_config
from tests.ui.test_forms import OTHER_VALUES
from tests.ui.test_train_page import form
from ui import forms, run_file
from ui.pages import changes, copying, run_files, suggesting
from ui.pages.filling import Filling
from ui.pages.train import TrainPage
from ui.settings import METHOD, SETTINGS, TASK


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TrainPage]:
    service = Service(tmp_path / "home", models_root=tmp_path / "models")
    yield TrainPage(service, Names())  # type: ignore[arg-type]
    service.close()


@pytest.fixture
def filling(page: TrainPage) -> Filling:
    return page.filling


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    folder = Path(get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def click(path: str) -> Any:
    return SimpleNamespace(setting=path)


def shown(news: dict[Any, Any]) -> dict[str, Any]:
    """The settings among the news."""
    return {path: value for path, value in news.items() if path in Names.fields}


def rows(many: int) -> Any:
    return dataset(rows=many)


# ---- back to the standard


@pytest.mark.parametrize(("path", "values"), OTHER_VALUES, ids=lambda value: str(value)[:50])
def test_a_click_takes_back_its_setting_alone(path: str, values: dict[str, Any]) -> None:
    if path == TASK:
        assert changes.back(path, SHAPES) == {}
        return
    before = forms.values(run_config(**values), SHAPES)
    after = before | changes.back(path, SHAPES)
    left = {setting.path for setting in forms.differing(after, SHAPES)}
    assert left == {setting.path for setting in forms.differing(before, SHAPES)} - {path}


def test_one_click_takes_back_all_but_the_task(filling: Filling) -> None:
    values = {"lora.rank": 0, "optim.steps": "60", forms.MORE_TARGETS: "lm_head", "method": "full"}
    news = filling.to_standard(click("all"), *form(None, task="classification", **values))
    assert set(news) == set(Names.fields) - {TASK}
    assert news == {path: value for path, value in forms.standards(()).items() if path != TASK}


@pytest.mark.parametrize("path", ["", "lora", "lora.rank.x", "name", "nonsense"])
def test_a_click_from_elsewhere_changes_nothing(filling: Filling, path: str) -> None:
    assert filling.to_standard(click(path), *form(None)) == {}


def test_what_is_changed_is_counted_and_named() -> None:
    rank, seed = forms.by_path("lora.rank"), forms.by_path("seed")
    assert rank and seed
    words = changes.line((rank, seed))
    assert "2 settings changed" in words and "Rank, Seed" in words and 'data-standard="all"' in words
    assert "1 setting changed" in changes.line((seed,))
    assert "standard" in changes.line(()) and "<button" not in changes.line(())


def test_under_every_setting_is_a_way_back_that_says_whose_it_is() -> None:
    html = changes.notes().value
    for setting in SETTINGS:
        assert html.count(f'data-for="{setting.elem_id}"') == 1
        assert html.count(f'data-standard="{setting.path}"') == (0 if setting.path == TASK else 1)
    names = re.findall(r'aria-label="([^"]+)"', html)
    assert len(set(names)) == len(names) == len(SETTINGS) - 1


def test_the_page_marks_what_differs_and_nothing_else(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    news = page.refresh(*form(chosen, **{"lora.rank": 4, "optim.batch_size": None}))
    marked = [path for path in Names.fields if "changed" in news[path]["elem_classes"]]
    assert marked == ["lora.rank", "optim.batch_size"]
    assert "2 settings changed" in news["changes"]
    assert all(news[path]["info"].endswith(f"Standard: {forms.standard_words(row)}")
               for path, row in zip(Names.fields, SETTINGS, strict=True))  # fmt: skip
    clean = page.refresh(*form(chosen))
    assert not any("changed" in clean[path]["elem_classes"] for path in Names.fields)


# ---- a suggestion


def test_a_suggestion_is_taken_with_one_click_and_then_is_in_the_form(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    before = page.refresh(*form(chosen, **{"optim.batch_size": 64, "optim.steps": "7"}))["suggestion"]
    assert "take-suggestion" in before and "For 113 rows" in before
    values = shown(page.filling.take(*form(chosen, **{"optim.batch_size": 64, "optim.steps": "7"})))
    after = page.refresh(*form(chosen, **values))
    assert "take-suggestion" not in after["suggestion"] and after["launch"]["value"] == "Launch"


def test_a_suggestion_needs_a_dataset(page: TrainPage) -> None:
    assert page.refresh(*form(None))["suggestion"] == ""
    with pytest.raises(DataError, match="No dataset"):
        page.filling.take(*form(None))


@pytest.mark.parametrize("broken", [{"lora.rank": None}, {"data.holdout": None}, {"data.holdout": 7}])
def test_a_suggestion_is_made_of_a_form_that_is_not_valid_too(broken: dict[str, Any]) -> None:
    values = forms.standards(SHAPES) | broken
    assert suggesting.suggestion(rows(80), values, SHAPES).batch_size >= 1


def test_every_value_has_its_reason_in_words() -> None:
    values = forms.standards(SHAPES)
    found = suggesting.suggestion(rows(80), values, SHAPES)
    words = suggesting.line(rows(80), found, values)
    assert words.count("<li>") == len(found.reasons) + 1
    assert set(found.reasons) == set(suggesting.taken(found)) - {"optim.steps"}


def test_full_fine_tuning_is_suggested_a_lower_rate() -> None:
    lora, full = (
        suggesting.suggestion(rows(80), forms.standards(SHAPES) | {METHOD: method}, SHAPES)
        for method in ("lora", "full")
    )
    assert lora.learning_rate and full.learning_rate == pytest.approx(0.1 * lora.learning_rate)


# ---- an earlier run


def test_the_menu_is_out_of_sight_until_there_is_a_run(page: TrainPage) -> None:
    assert page.filling.open()["earlier"]["visible"] is False
    chosen = page.data.example("captain")["dataset"]["value"]
    made = page.launch(*form(chosen, **{"lora.rank": 2}))["launched"].partition("=")[2]
    menu = page.filling.open()["earlier"]
    assert menu["visible"] and [run_id for _, run_id in menu["choices"]] == [made]
    assert "rank" in menu["choices"][0][0] and menu["value"] is None


def test_an_earlier_runs_settings_fill_the_form(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    values = {"lora.rank": 2, "optim.steps": "60", "quant.bits": 4, "lora.layers": "0-3"}
    made = page.launch(*form(chosen, **values))["launched"].partition("=")[2]
    news = page.filling.copy(made)
    assert shown(news).items() >= values.items() and news["dataset"]["value"] == chosen
    assert news["kind"] == STARTER and "captain" in news["filled"]
    assert page.filling.copy(None) == {}
    with pytest.raises(NotFound):
        page.filling.copy("nope")


def test_an_address_with_a_run_chooses_it_in_the_menu(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    made = page.launch(*form(chosen, **{"lora.rank": 2}))["launched"].partition("=")[2]
    news = page.open(SimpleNamespace(query_params={"from": made}))  # type: ignore[arg-type]
    assert news["earlier"]["value"] == made and news["lora.rank"] == 2


def test_runs_are_told_apart_by_state_age_data_and_what_was_changed() -> None:
    words = copying.words(run(state="finished", config=run_config(lora={"rank": 2}, seed=3)), NOW)
    assert words == "captain-r8 · finished, just now · captain.jsonl · rank, seed"
    assert copying.words(run(), NOW).endswith("all standard")
    everything = run_config(lora={"rank": 2, "alpha": 3, "dropout": 0.1, "bias": "all", "use_dora": True},
                            optim={"epochs": 1, "batch_size": 2, "warmup": 0.1, "weight_decay": 0.1})  # fmt: skip
    assert copying.words(run(config=everything), NOW).endswith(" …")


def test_the_menu_has_the_newest_runs_and_keeps_the_choice() -> None:
    many = [run(id=f"r{number}") for number in range(copying.MOST_RUNS + 5)]
    menu = copying.update(many, NOW, chosen="r7")
    assert len(menu["choices"]) == copying.MOST_RUNS and menu["value"] == "r7"
    assert copying.update(many, NOW, chosen="gone")["value"] is None


# ---- a file


def uploaded(folder: Path, content: str | bytes) -> str:
    path = folder / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def loaded(page: TrainPage, path: str, dataset_id: str | None) -> dict[Any, Any]:
    return page.filling.load(path, *form(dataset_id))


def test_what_is_saved_is_the_file_of_the_form(page: TrainPage) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    link = page.refresh(*form(chosen, **{"lora.rank": 2}))["save_settings"]
    content = base64.b64decode(re.findall(r"base64,([^\"]+)\"", link)[0])
    config = run_file.from_yaml(content)
    assert (config.lora.rank, config.data.dataset_id) == (2, chosen)
    assert 'download="the-captain-r2.yaml"' in link
    for values in (form(None), form(chosen, **{"lora.rank": 0})):
        assert "href" not in page.refresh(*values)["save_settings"]


def test_a_name_in_the_link_is_text() -> None:
    assert XSS not in run_files.saved(run_config(name=XSS))


@pytest.mark.parametrize(("path", "values"), OTHER_VALUES, ids=lambda value: str(value)[:50])
def test_a_file_fills_the_form_as_it_was_saved(
    page: TrainPage, uploads: Path, path: str, values: dict[str, Any]
) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    config = run_config(**values)
    config = replace(config, data=replace(config.data, dataset_id=chosen))
    news = loaded(page, uploaded(uploads, run_file.to_yaml(config)), None)
    assert news["dataset"]["value"] == chosen and news["run_name"] == config.name
    assert read(shown(news), chosen) == config


def read(values: dict[str, Any], dataset_id: str) -> RunConfig:
    values = {forms.TARGETS: [], **values}
    return forms.config(values, name="captain-r8", dataset_id=dataset_id, base_model="starter", shapes=())


def test_a_file_whose_dataset_is_not_here_leaves_the_chosen_one(page: TrainPage, uploads: Path) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    news = loaded(page, uploaded(uploads, run_file.to_yaml(run_config(lora={"rank": 2}))), chosen)
    assert "dataset" not in news and news["lora.rank"] == 2 and "not here" in news["filled"]


def test_a_file_by_hand_needs_no_name_and_no_dataset(page: TrainPage, uploads: Path) -> None:
    chosen = page.data.example("captain")["dataset"]["value"]
    news = loaded(page, uploaded(uploads, "lora: {rank: 2}\n"), chosen)
    assert news["lora.rank"] == 2 and news["dataset"]["value"] == chosen


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\xff\xfe\x00", "not YAML"),
        ("lora:\n  rank: 0\n", "line 2"),
        ("a: &a [1]\nb: *a", "alias"),
        ("x" * 200_000, "too large"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_no_settings_is_refused_in_a_sentence(
    page: TrainPage, uploads: Path, content: str | bytes, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(page, uploaded(uploads, content), None)
    assert says in str(caught.value)


def test_only_files_that_were_uploaded_are_read(page: TrainPage, uploads: Path, tmp_path: Path) -> None:
    elsewhere = uploaded(tmp_path, "seed: 3")
    (uploads / "link.yaml").symlink_to(elsewhere)
    for path in (elsewhere, str(uploads / "link.yaml")):
        with pytest.raises(DataError, match="not uploaded here"):
            loaded(page, path, None)
