from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from core.config import RunConfig, parse, to_dict
from core.errors import ConfigError
from core.models.shapes import LinearShape
from core.models.targets import match
from jobs.service import Service
from tests.jobs.test_service_estimates import MODELS
from tests.ui.stand_in import model_card
from ui import forms
from ui.presets import PRESETS, Preset, apply, by_key
from ui.settings import SETTINGS

SHAPES = {"llama": MODELS["llama"], "gpt2": MODELS["gpt2"], "bert": MODELS["bert"], "gpt_neox": MODELS["gpt_neox"]}
QUERIES_AND_VALUES = {
    "llama": ("q_proj", "v_proj"),
    "gpt2": ("c_attn:q", "c_attn:v"),
    "bert": ("query", "value"),
    "gpt_neox": ("query_key_value:q", "query_key_value:v"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        auto = AutoModelForSequenceClassification if kind == "bert" else AutoModelForCausalLM
        if not (root / kind).exists():
            auto.from_config(AutoConfig.for_model(kind, **SHAPES[kind])).save_pretrained(root / kind)
        return root / kind

    return make


@pytest.fixture
def service(tmp_path: Path) -> Any:
    service = Service(tmp_path / "home", tmp_path / "models")
    yield service
    service.close()


def config(values: dict[str, Any], base_model: str, task: str = "chat") -> RunConfig:
    nested: dict[str, Any] = {"name": "x", "base_model": base_model, "task": task, "data": {"dataset_id": "d"}}
    for path, value in values.items():
        section, _, leaf = path.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = value
    return parse(nested)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.key)
@pytest.mark.parametrize("kind", SHAPES)
def test_each_preset_makes_a_run_that_the_engine_takes(
    kind: str, preset: Preset, folder: Any, service: Service
) -> None:
    ref, task = str(folder(kind)), "classification" if kind == "bert" else "chat"
    card = service.inspect_model(ref)
    estimate = service.estimate(config(apply(preset, card), ref, task))
    assert estimate is not None and estimate.trainable_parameters > 0


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.key)
def test_each_preset_fits_the_starter_and_a_model_that_is_not_here_yet(preset: Preset, starter: Path) -> None:
    service = Service(starter.parent / "home", starter)
    card = service.inspect_model("starter")
    values = apply(preset, card)
    assert card.shapes and values["lora.rank"] == preset.settings["lora.rank"]
    assert service.estimate(config(values, "starter")) is not None
    assert service.estimate(config(apply(preset, None), "owner/name-that-is-not-here")) is None
    service.close()


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """A models root with a model of the starter's shape: its width, heads and feed-forward layer, fewer blocks."""
    values = {
        "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
        "num_hidden_layers": 2, "vocab_size": 80, "tie_word_embeddings": True,
    }  # fmt: skip
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **values))
    made.save_pretrained(tmp_path / "models" / "smollm2-135m-instruct")
    return tmp_path / "models"


@pytest.mark.parametrize("kind", SHAPES)
def test_the_small_machines_targets_are_queries_and_values_whatever_they_are_called(
    kind: str, folder: Any, service: Service
) -> None:
    card = service.inspect_model(str(folder(kind)))
    assert apply(by_key("small-machine"), card)["lora.targets"] == QUERIES_AND_VALUES[kind]


def test_a_model_whose_names_tell_nothing_gets_all_linear_layers() -> None:
    card = model_card((LinearShape(name="blocks.0.mixer.in", in_features=8, out_features=8),))
    assert apply(by_key("small-machine"), card)["lora.targets"] == ("auto",)


def test_a_rank_that_no_layer_could_hold_is_lowered_with_its_alpha(folder: Any, service: Service) -> None:
    ref = str(folder("llama"))
    card = service.inspect_model(ref)
    values = apply(by_key("knowledge"), card)
    smallest = min(min(shape.in_features, shape.out_features) for shape in match(("all-linear",), card.shapes))
    assert values["lora.rank"] == smallest < 64
    # the same strength of the update: alpha ÷ √rank
    assert values["lora.alpha"] / smallest**0.5 == pytest.approx(16 / 64**0.5, rel=0.02)


def test_every_preset_sets_the_same_settings_and_each_is_one_of_the_form() -> None:
    paths = [set(apply(preset, None)) for preset in PRESETS]
    assert all(each == paths[0] for each in paths)
    assert paths[0] <= {setting.path for setting in SETTINGS}
    for preset in PRESETS:
        run = config(apply(preset, None), "starter")
        assert forms.values(run, ()) is not None and to_dict(run)["method"] == "lora"


def test_each_says_why_in_a_sentence_and_what_was_measured() -> None:
    for preset in PRESETS:
        assert preset.why.endswith(".") and "Table" in preset.evidence and len(preset.why) < 160


def test_a_preset_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="'fast'"):
        by_key("fast")
