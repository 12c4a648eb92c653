from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.config import QuantConfig
from core.errors import ModelError
from core.models.load import ClassHead, LoadedModel, load_model, position_limit
from core.models.quantize import QuantizedLinear

HEAD = ClassHead(labels=("no", "yes"), seed=5)
SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def save(tiny_folder: Path, tmp_path: Path) -> Any:
    def write(auto: Any, kind: str = "bert", **settings: Any) -> Path:
        folder = tmp_path / "model"
        config = CONFIG_MAPPING[kind](vocab_size=49152, **{**SMALL, "pad_token_id": 0, **settings})
        auto.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
        return folder

    return write


def load(folder: Path, head: ClassHead = HEAD, **settings: Any) -> LoadedModel:
    return load_model(folder, dtype=torch.float32, head=head, **settings)


def test_an_encoder_becomes_a_classifier_with_a_new_head_that_knows_its_classes(save: Any) -> None:
    loaded = load(save(AutoModel))
    assert loaded.labels == ("no", "yes") and loaded.model.config.label2id == {"no": 0, "yes": 1}
    assert loaded.heads == ("classifier",)
    assert loaded.new_weights == ("classifier.bias", "classifier.weight")
    assert loaded.model.classifier.out_features == 2
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.parameters == sum(p.numel() for p in loaded.model.parameters())


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("bert", ("bert.pooler", "classifier")),
        ("roberta", ("classifier",)),
        ("deberta-v2", ("pooler", "classifier")),
        ("electra", ("classifier",)),
    ],
)
def test_all_modules_that_a_masked_language_model_lacks_are_heads(save: Any, kind: str, heads: tuple[str, ...]) -> None:
    loaded = load(save(AutoModelForMaskedLM, kind))
    assert loaded.heads == heads
    inside = {
        name for name, _ in loaded.model.named_parameters() if name.startswith(tuple(f"{head}." for head in heads))
    }
    assert set(loaded.new_weights) == inside


def test_a_new_head_is_drawn_from_the_seed_and_from_nothing_else(save: Any) -> None:
    folder = save(AutoModel)
    torch.manual_seed(1)
    first, after = load(folder).model.classifier.weight, torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))  # and the caller's random stream is left alone
    assert torch.equal(first, load(folder).model.classifier.weight)
    assert not torch.equal(first, load(folder, ClassHead(labels=HEAD.labels, seed=6)).model.classifier.weight)


def test_a_head_that_is_there_is_kept(save: Any) -> None:
    folder = save(AutoModelForSequenceClassification, num_labels=2)
    loaded = load(folder)
    assert loaded.new_weights == () and loaded.labels == ("no", "yes")
    assert torch.equal(loaded.model.classifier.weight, load_file(folder / "model.safetensors")["classifier.weight"])


def test_a_head_that_knows_the_same_classes_keeps_their_order(save: Any) -> None:
    folder = save(AutoModelForSequenceClassification, id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1})
    loaded = load(folder)
    assert loaded.labels == ("yes", "no") and loaded.model.config.id2label == {0: "yes", 1: "no"}


def test_a_head_for_another_number_of_classes_is_replaced_and_named(save: Any) -> None:
    loaded = load(save(AutoModelForSequenceClassification, num_labels=5))
    assert loaded.new_weights == ("classifier.bias", "classifier.weight")
    assert loaded.model.classifier.out_features == 2


def test_nothing_but_the_head_may_be_missing(save: Any) -> None:
    folder = save(AutoModel)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("output.dense.weight"))
    save_file({other: weights[other] for other in weights if other != name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="lacks 1 of its weights .*output.dense.weight"):
        load(folder)


def test_nothing_but_the_head_may_have_another_shape(save: Any) -> None:
    folder = save(AutoModel)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("output.dense.weight"))
    save_file(weights | {name: torch.ones(3, 3)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="lacks 1 of its weights .*output.dense.weight"):
        load(folder)


def test_a_kind_that_cannot_classify_is_refused_in_one_sentence(save: Any) -> None:
    folder = save(AutoModelForCausalLM, "mamba", hidden_size=32, state_size=4)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and "classify" in caught.value.hint


def test_a_decoder_without_a_padding_token_pads_with_its_end_token(save: Any) -> None:
    folder = save(AutoModel, "llama", pad_token_id=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    loaded = load(folder)
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id == loaded.model.config.pad_token_id


def test_model_and_tokenizer_agree_on_what_pads(save: Any) -> None:
    loaded = load(save(AutoModel, pad_token_id=77))
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id != 77


def test_a_head_is_not_quantized(save: Any) -> None:
    loaded = load(save(AutoModelForMaskedLM), quant=QuantConfig(bits=4))
    quantized = {name for name, module in loaded.model.named_modules() if isinstance(module, QuantizedLinear)}
    assert quantized and all(name.startswith("bert.encoder.") for name in quantized)


@pytest.mark.parametrize(
    ("kind", "settings", "limit"),
    [
        ("bert", {"max_position_embeddings": 40}, 40),
        ("roberta", {"max_position_embeddings": 40, "pad_token_id": 1}, 38),
        ("gpt2", {"n_positions": 40}, 40),
        ("llama", {"max_position_embeddings": 40}, 40),
        ("bloom", {}, None),
    ],
)
def test_a_row_of_the_longest_length_has_a_position_for_each_token(kind: str, settings: Any, limit: int | None) -> None:
    config = CONFIG_MAPPING[kind](vocab_size=50, **{**SMALL, **settings})
    model = AutoModel.from_config(config).eval()
    assert position_limit(model) == limit
    if limit:
        model(input_ids=torch.full((1, limit), 7))
