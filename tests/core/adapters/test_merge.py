from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from core.adapters.inject import activate, lora_layers
from core.adapters.merge import export_merged, merged
from core.adapters.peft_format import save_adapter
from core.config import LoraConfig, QuantConfig
from core.errors import AdapterError
from core.models.linears import find_linears
from core.models.load import LoadedModel
from core.models.quantize import QuantizedLinear, quantize_linears
from tests.core.tiny import adapt, bits, plain_logits, random_rows

TOKENS = random_rows([25])[0].tokens


@pytest.fixture
def adapted(plain: LoadedModel) -> LoadedModel:
    adapt(plain.model, targets=("q_proj", "up_proj", "down_proj"))
    return plain


def test_merged_equals_unmerged(adapted: LoadedModel) -> None:
    base = plain_logits(adapted.model, TOKENS)
    activate(adapted.model, "a")
    unmerged = plain_logits(adapted.model, TOKENS)
    with merged(adapted.model, "a"):
        assert torch.allclose(plain_logits(adapted.model, TOKENS), unmerged, atol=2e-4)
    assert (unmerged - base).abs().max() > 0.1


def test_leaving_gives_the_same_bits_and_the_same_active_adapter(adapted: LoadedModel) -> None:
    activate(adapted.model, "a")
    before, unmerged = bits(adapted.model), plain_logits(adapted.model, TOKENS)
    with merged(adapted.model, "a"):
        weight = lora_layers(adapted.model)["model.layers.0.mlp.up_proj"].base.weight
        assert not torch.equal(weight, before["model.layers.0.mlp.up_proj.base.weight"])
    assert all(torch.equal(before[name], tensor) for name, tensor in adapted.model.state_dict().items())
    assert torch.equal(plain_logits(adapted.model, TOKENS), unmerged)


def test_an_error_inside_gives_the_same_bits_too(adapted: LoadedModel) -> None:
    before = bits(adapted.model)
    with pytest.raises(KeyError), merged(adapted.model, "a"):
        raise KeyError
    assert all(torch.equal(before[name], tensor) for name, tensor in adapted.model.state_dict().items())


def test_merging_twice_changes_nothing(adapted: LoadedModel) -> None:
    with merged(adapted.model, "a"):
        once = bits(adapted.model)
        with merged(adapted.model, "a"):
            assert all(torch.equal(once[name], tensor) for name, tensor in adapted.model.state_dict().items())
        assert all(torch.equal(once[name], tensor) for name, tensor in adapted.model.state_dict().items())
    with merged(adapted.model, "a"):
        assert all(torch.equal(once[name], tensor) for name, tensor in adapted.model.state_dict().items())


def test_two_adapters_are_not_merged_over_each_other(adapted: LoadedModel) -> None:
    adapt(adapted.model, key="b", targets=("q_proj",))
    with merged(adapted.model, "a"):
        inside = bits(adapted.model)
        with pytest.raises(AdapterError, match="a is merged already"), merged(adapted.model, "b"):
            pass
        assert all(torch.equal(inside[name], tensor) for name, tensor in adapted.model.state_dict().items())


def test_a_key_that_names_nothing_is_refused(adapted: LoadedModel) -> None:
    with pytest.raises(AdapterError, match="No adapter b"), merged(adapted.model, "b"):
        pass


def test_a_bf16_base_is_rounded_once(adapted: LoadedModel) -> None:
    adapted.model.to(torch.bfloat16)
    layer = lora_layers(adapted.model)["model.layers.1.mlp.down_proj"]
    update = layer.update("a")
    assert update is not None
    update.float()
    exact = layer.base.weight.detach().double() + update.scale * (update.b.double() @ update.a.double())
    with merged(adapted.model, "a"):
        error = (layer.base.weight.double() - exact).abs()
        assert (error <= exact.abs() * 2**-8).all()


@pytest.mark.parametrize("bits_of_base", [4, 8])
def test_a_quantized_base_is_merged_dequantized_and_comes_back(plain: LoadedModel, bits_of_base: int) -> None:
    names = [shape.name for shape in find_linears(plain.model)]
    quantize_linears(plain.model, names, QuantConfig(bits=bits_of_base))  # type: ignore[arg-type]
    adapt(plain.model)
    activate(plain.model, "a")
    before = plain_logits(plain.model, TOKENS)
    with merged(plain.model, "a") as report:
        assert not any(isinstance(layer.base, QuantizedLinear) for layer in lora_layers(plain.model).values())
        assert torch.allclose(plain_logits(plain.model, TOKENS), before, atol=2e-4)
        assert report.largest_error == 0.0 < report.largest_change
    assert torch.equal(plain_logits(plain.model, TOKENS), before)


def test_the_exported_model_is_a_plain_one_that_says_the_same(
    plain: LoadedModel, tiny_folder: Path, tmp_path: Path
) -> None:
    config: LoraConfig = adapt(plain.model)
    save_adapter(plain.model, "a", tmp_path / "adapter", config, "tiny")
    activate(plain.model, "a")
    export_merged(tmp_path / "adapter", tiny_folder, tmp_path / "whole")
    reloaded, findings = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not any(findings.values())
    assert reloaded.dtype == torch.float32
    assert torch.allclose(plain_logits(reloaded, TOKENS), plain_logits(plain.model, TOKENS), atol=2e-4)
    assert (tmp_path / "whole" / "tokenizer.json").is_file()


def test_a_layer_that_is_kept_in_fp32_inside_a_bf16_model_stays_so(adapted: LoadedModel) -> None:
    adapted.model.to(torch.bfloat16)
    layer = lora_layers(adapted.model)["model.layers.1.mlp.down_proj"]
    layer.base.float()
    update = layer.update("a")
    assert update is not None
    exact = layer.base.weight.detach() + update.float().delta()
    with merged(adapted.model, "a"):
        assert layer.base.weight.dtype == torch.float32
        assert torch.allclose(layer.base.weight, exact, rtol=0, atol=1e-6)
