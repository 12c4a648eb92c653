"""FAULTS.md, rows 33 to 35: settings that cannot work, and names, through the service and the command line."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig, parse
from core.errors import ConfigError
from jobs.service import Service
from tests.jobs.test_commands import Terminal
from ui import markup

PIRATE = "🏴‍☠️ مرحبا"


def config_on(service: Service, dataset_file: Path, model: Path, name: str = "a run", **lora: Any) -> RunConfig:
    dataset = service.data.add(dataset_file)
    return parse({"name": name, "base_model": str(model), "data": {"dataset_id": dataset.id}, "lora": lora})


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


def refused_by_the_terminal(terminal: Terminal, dataset_file: Path, model: Path, *options: object) -> str:
    """The one sentence with which `train` refuses `options`; nothing is kept."""
    answer = terminal("train", "--data", dataset_file, "--model", model, "--output", "out", *options)
    assert (answer.code, answer.out) == (2, "") and len(answer.err.strip().splitlines()) == 1
    assert not (terminal.folder / "out").exists()
    assert list((terminal.folder / "home" / "datasets").glob("*")) == []
    return answer.err


# ---- 33: a rank beyond the matrix, an alpha of nothing


@pytest.mark.parametrize("targets", [["k_proj"], ["q_proj", "k_proj"], ["auto"]])
def test_a_rank_above_the_smaller_side_of_a_matrix_is_refused(
    service: Service, dataset_file: Path, tiny_model: Path, targets: list[str]
) -> None:
    """k_proj maps 32 features to 16."""
    service.submit(config_on(service, dataset_file, tiny_model, rank=16, targets=targets))
    with pytest.raises(ConfigError) as caught:
        service.submit(config_on(service, dataset_file, tiny_model, rank=17, targets=targets))
    assert "Rank 17 is too large for model.layers.0.self_attn.k_proj" in caught.value.title
    assert caught.value.detail == "it maps 32 features to 16" and "at most 16" in caught.value.hint
    assert caught.value.field == "lora.rank" and len(service.runs()) == 1


def test_a_rank_that_is_right_for_some_layers_is_refused_where_a_pattern_gives_it_to_others(
    service: Service, dataset_file: Path, tiny_model: Path
) -> None:
    with pytest.raises(ConfigError, match="Rank 17 is too large for .*k_proj"):
        service.submit(config_on(service, dataset_file, tiny_model, rank=4, rank_pattern={"k_proj": 17}))


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), "sixteen"])
@pytest.mark.parametrize("where", ["alpha", "alpha_pattern"])
def test_an_alpha_that_would_have_no_effect_is_refused(alpha: Any, where: str) -> None:
    lora = {where: alpha if where == "alpha" else {"q_proj": alpha}}
    with pytest.raises(ConfigError) as caught:
        parse({"name": "x", "data": {"dataset_id": "d"}, "lora": lora})
    assert caught.value.field.startswith(f"lora.{where}") and caught.value.hint.startswith("It must be ")


def test_the_terminal_refuses_them_in_a_sentence(terminal: Terminal, dataset_file: Path, tiny_model: Path) -> None:
    train = refused_by_the_terminal
    assert "Alpha is 0.0; it must be greater than 0" in train(terminal, dataset_file, tiny_model, "--alpha", 0)
    assert "Rank 64 is too large for" in train(terminal, dataset_file, tiny_model, "--rank", 64)
    assert "Rank is 0; it must be greater than" in train(terminal, dataset_file, tiny_model, "--rank", 0)


# ---- 34: targets that name nothing


@pytest.mark.parametrize("target", ["q_prj", "nonsense", "model.layers.9.self_attn.q_proj", ".*", "q_proj$", ""])
def test_targets_that_match_nothing_list_the_modules_there_are(
    service: Service, dataset_file: Path, tiny_model: Path, target: str
) -> None:
    """A target is text and no pattern, so `.*` names nothing either."""
    with pytest.raises(ConfigError) as caught:
        service.submit(config_on(service, dataset_file, tiny_model, rank=4, targets=[target]))
    assert f"Target {target!r} matches no module of this model" in caught.value.title
    for module in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert module in caught.value.hint
    assert ("did you mean q_proj?" in caught.value.detail) == (target in ("q_prj", "q_proj$"))
    assert caught.value.field == "lora.targets" and service.runs() == ()


def test_one_good_target_does_not_excuse_another(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="'q_prj' matches no module"):
        service.submit(config_on(service, dataset_file, tiny_model, rank=4, targets=["q_proj", "q_prj"]))


def test_the_terminal_lists_them_too(terminal: Terminal, dataset_file: Path, tiny_model: Path) -> None:
    said = refused_by_the_terminal(terminal, dataset_file, tiny_model, "--targets", "q_prj", "--rank", 4)
    assert "did you mean q_proj?" in said and "down_proj" in said


# ---- 35, and the threat of names


KEPT = [
    "../../x", "..\\..\\x", "/etc/passwd", "CON", "a\u200db", PIRATE, "'; DROP TABLE runs; --", "x" * 80, "%2e%2e%2f",
]  # fmt: skip
REFUSED = [
    "", " \t ", "x" * 81, "x" * 300, "a\nb", "a\x00b", "a\x85b", "\u202egnp.exe", "a\u200fb", "a\u2066b", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_a_name_is_kept_as_text_and_names_no_file(
    service: Service, dataset_file: Path, tiny_model: Path, name: str
) -> None:
    dataset = service.data.add(dataset_file, name=name)
    run = service.submit(config_on(service, dataset_file, tiny_model, name, rank=4))
    assert (service.data.get(dataset.id).name, service.run(run.id).name) == (name, name)
    assert {path.name for path in (service.home / "datasets").iterdir()} == {one.id for one in service.data.all()}
    assert [path.name for path in (service.home / "runs").iterdir()] == [run.id]
    assert len(run.id) == 26 and run.id.isalnum()
    assert json.loads((service.home / "runs" / run.id / "config.json").read_text())["name"] == name
    assert not (service.home.parent / "x").exists()


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_name_that_cannot_be_shown_is_refused_for_datasets_and_runs_alike(
    service: Service, dataset_file: Path, tiny_model: Path, name: str
) -> None:
    with pytest.raises(ConfigError):
        service.data.add(dataset_file, name=name)
    with pytest.raises(ConfigError) as caught:
        parse({"name": name, "data": {"dataset_id": "d"}})
    assert caught.value.field == "name" and len(str(caught.value)) < 300
    assert service.data.all() == () and service.runs() == ()


def test_what_looks_the_same_is_spelled_the_same(service: Service, dataset_file: Path, tiny_model: Path) -> None:
    apart = "  Cafe\u0301 "
    assert service.data.add(dataset_file, name=apart).name == "Caf\u00e9" == unicodedata.normalize("NFC", "Café")
    assert config_on(service, dataset_file, tiny_model, apart).name == "Caf\u00e9"


def test_the_length_is_said(service: Service, dataset_file: Path) -> None:
    with pytest.raises(ConfigError, match="The name has 300 characters.*at most 80"):
        service.data.add(dataset_file, name="x" * 300)
    with pytest.raises(ConfigError, match="it must be at most 80 characters long"):
        parse({"name": "x" * 300, "data": {"dataset_id": "d"}})


def test_a_file_is_called_by_what_of_its_name_can_be_shown(service: Service, dataset_file: Path) -> None:
    """It is the person's own name for it, so it is cleaned and not refused."""
    for name, shown in (("a\u202egnp.jsonl", "agnp.jsonl"), ("x" * 200 + ".jsonl", "x" * 74 + ".jsonl")):
        path = dataset_file.with_name(name)
        path.write_bytes(dataset_file.read_bytes())
        assert service.data.add(path).name == shown


def test_markup_in_a_name_is_text_on_the_page() -> None:
    assert markup.esc("<img src=x onerror=window.p=1>\"'&") == "&lt;img src=x onerror=window.p=1&gt;&quot;&#x27;&amp;"
