from __future__ import annotations

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from core.config import QuantConfig
from core.errors import ModelError
from core.kernels import packed_attention
from core.models.linears import find_linears
from core.models.load import LoadedModel
from core.models.quantize import quantize_linears
from core.train.objective import PackedRows, PaddedRows
from core.train.trial import check_classifier, choose_layout
from tests.core.tiny import tiny_llama
from tests.core.train.architectures import causal, classifier


def loaded_with(model: torch.nn.Module) -> LoadedModel:
    packed_attention.register()
    dtype = next(model.parameters()).dtype
    return LoadedModel(model=model, tokenizer=None, dtype=dtype, device=torch.device("cpu"), parameters=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_llama_is_packed_in_every_precision_and_nothing_is_said(dtype: torch.dtype, bits: int) -> None:
    loaded = loaded_with(tiny_llama().to(dtype))
    if bits < 16:
        names = [shape.name for shape in find_linears(loaded.model)]
        quantize_linears(loaded.model, names, QuantConfig(bits=bits))  # type: ignore[arg-type]
    layout, note = choose_layout(loaded)
    assert isinstance(layout, PackedRows) and note is None
    assert loaded.model.config._attn_implementation == packed_attention.NAME


def test_learned_positions_begin_anew_in_each_row() -> None:
    """Rotary positions are relative and would not notice if they ran on; OPT's are looked up in a table."""
    assert isinstance(choose_layout(causal("opt"))[0], PackedRows)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("falcon", "its attention cannot be replaced"),  # an attention of its own
        ("gptj", "its attention cannot be replaced"),
        ("bloom", "its attention cannot be replaced"),  # and a bias on positions, computed from a mask
        ("mamba", "its logits are off by"),  # a convolution and a recurrence
        ("gemma2", "it fails with NotImplementedError"),  # capped scores
        ("gpt_oss", "it fails with NotImplementedError"),  # sinks
    ],
)
def test_a_model_whose_rows_would_not_stay_apart_is_padded_and_the_reason_is_said(kind: str, why: str) -> None:
    loaded = causal(kind)
    layout, note = choose_layout(loaded)
    assert isinstance(layout, PaddedRows) and note is not None
    assert f"because this is a {kind} model: packed, {why}" in note
    assert loaded.model.config._attn_implementation != packed_attention.NAME


def test_where_the_attention_at_hand_leaves_something_out_the_plainest_is_taken() -> None:
    """Gemma 2 caps its scores, of which torch's attention knows nothing."""
    loaded = causal("gemma2")
    AttentionInterface.register("without_cap", sdpa_attention_forward)
    for layer in loaded.model.model.layers:
        layer.self_attn.attn_logit_softcapping = 0.1
    loaded.model.set_attn_implementation("without_cap")
    assert isinstance(choose_layout(loaded)[0], PaddedRows)
    assert loaded.model.config._attn_implementation == "eager"


def test_a_model_whose_tokens_see_what_follows_is_refused() -> None:
    with pytest.raises(ModelError, match="kind bert cannot be trained here yet .its tokens see those that come after"):
        choose_layout(causal("bert"))


def test_weights_that_are_not_finite_are_refused() -> None:
    model = tiny_llama()
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = torch.nan
    with pytest.raises(ModelError, match="nan%"):
        choose_layout(loaded_with(model))


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "llama", "gpt2"])
def test_a_classifier_that_heeds_the_mask_passes(kind: str) -> None:
    check_classifier(classifier(kind))


def test_a_classifier_that_looks_at_the_padding_is_refused() -> None:
    """XLNet takes the last position for the text's summary, wherever the text ends."""
    with pytest.raises(ModelError, match="its logits are off by .* BERT"):
        check_classifier(classifier("xlnet"))


def test_a_decoder_with_another_idea_of_padding_than_the_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = classifier("llama")
    monkeypatch.setattr("core.train.trial.pad_classes", _padded_with_7(loaded))
    with pytest.raises(ModelError, match="its logits are off by"):
        check_classifier(loaded)


def _padded_with_7(loaded: LoadedModel):  # type: ignore[no-untyped-def]
    from core.data.tokens.batching import pad_classes

    return lambda rows, device, _padding: pad_classes(rows, device, 7)
