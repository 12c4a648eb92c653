from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.kernels import packed_attention
from core.kernels.packed_attention import packed_attention as attend
from core.kernels.row_blocks import BLOCK
from core.models.load import LoadedModel
from tests.core.tiny import packed_inputs, packed_logits, plain_logits, random_rows

HEADS, DIM = 4, 8


def tensors(length: int, kv_heads: int = HEADS) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(1, HEADS, length, DIM), (1, kv_heads, length, DIM), (1, kv_heads, length, DIM)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def bounds(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def dense(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], window: int | None, scale: float, shared: int = 0
) -> Tensor:
    """The same through one softmax over all T² scores, most of them masked."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(list(lengths)))
    at = torch.cat([torch.arange(n) + (shared if i else 0) for i, n in enumerate(lengths)])  # positions
    distance = at[:, None] - at[None]
    seen = ((row[:, None] == row[None]) | (row[None] == 0) * bool(shared)) & (distance >= 0)
    if window is not None:
        seen &= distance < window
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(~seen, -torch.inf)
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("lengths", [(11,), (1, 1, 1), (5, 1, 9, 3), (2 * BLOCK + 5, 600)])
@pytest.mark.parametrize("kv_heads", [1, 2, HEADS])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("is_shared", [False, True])
def test_output_and_gradients_are_those_of_one_dense_mask(
    lengths: tuple[int, ...], kv_heads: int, window: int | None, is_shared: bool
) -> None:
    inputs, shared = tensors(sum(lengths), kv_heads), lengths[0] * is_shared
    ours, weights = attend(
        nn.Module(),
        *inputs,
        None,
        cu_seq_lens_q=bounds(lengths),
        shared_tokens=shared,
        scaling=0.3,
        sliding_window=window,
    )
    theirs = dense(*inputs, lengths, window, 0.3, shared)
    direction = torch.randn_like(theirs)
    assert weights is None and torch.allclose(ours, theirs, atol=1e-12)
    for got, wanted in zip(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(theirs, inputs, direction), strict=True
    ):
        assert torch.allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize("shared", [0, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_fewer_bits_gradients_are_off_by_rounding_alone(dtype: torch.dtype, shared: int) -> None:
    lengths, exact = (6, 150, 40), tensors(196, 2)
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    ours, _ = attend(nn.Module(), *inputs, None, cu_seq_lens_q=bounds(lengths), shared_tokens=shared, scaling=0.3)
    theirs = dense(*exact, lengths, None, 0.3, shared)
    direction = torch.randn_like(theirs)
    off = 2 ** -(18 if dtype == torch.float32 else 6)
    for got, wanted in zip(
        torch.autograd.grad(ours, inputs, direction.to(dtype)),
        torch.autograd.grad(theirs, exact, direction),
        strict=True,
    ):
        assert got.dtype == dtype and (got - wanted).norm() <= off * wanted.norm()


@pytest.mark.parametrize("shared", [0, 2])
def test_gradients_are_those_of_finite_differences(shared: int) -> None:
    def attended(*inputs: Tensor) -> Tensor:
        return attend(nn.Module(), *inputs, None, cu_seq_lens_q=bounds([2, 3, 4]), shared_tokens=shared)[0]

    assert torch.autograd.gradcheck(attended, tensors(9, 2))


@pytest.mark.parametrize("kept", [0, 10_000])
def test_gradients_are_the_same_bits_whether_probabilities_are_kept_or_not(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> Sequence[Tensor]:
        inputs = tensors(5 * BLOCK + 7)
        out, _ = attend(nn.Module(), *inputs, None, cu_seq_lens_q=bounds((7, 5 * BLOCK)), shared_tokens=7)
        return torch.autograd.grad(out.square().sum(), inputs)

    usual = gradients()
    monkeypatch.setattr(packed_attention, "KEPT_KEYS", kept)
    assert all(map(torch.equal, gradients(), usual))


def test_what_is_kept_grows_with_the_tokens_and_not_with_their_square() -> None:
    def kept(lengths: Sequence[int]) -> int:
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            attend(nn.Module(), *tensors(sum(lengths)), None, cu_seq_lens_q=bounds(lengths))
        return sum(saved)

    inputs, short, long = 3 * HEADS * DIM, kept([4 * BLOCK]), kept([40 * BLOCK])
    assert 2 * inputs * 4 * BLOCK < short < long < inputs * 40 * BLOCK + short
    assert kept([4 * BLOCK] * 10) == 10 * short


def test_dropout_is_refused_and_not_ignored() -> None:
    with pytest.raises(NotImplementedError, match="dropout"):
        attend(nn.Module(), *tensors(3), None, cu_seq_lens_q=bounds([3]), dropout=0.1)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_what_would_change_the_scores_is_refused_and_not_ignored(name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        attend(nn.Module(), *tensors(3), None, cu_seq_lens_q=bounds([3]), **{name: torch.ones(1)})
    attend(nn.Module(), *tensors(3), None, cu_seq_lens_q=bounds([3]), **{name: None})


def test_registering_twice_changes_nothing() -> None:
    packed_attention.register()
    packed_attention.register()


def test_each_row_of_a_packed_batch_gets_the_logits_that_it_gets_alone(tiny: LoadedModel, plain: LoadedModel) -> None:
    rows = [row.tokens for row in random_rows([9, 1, 30, 17])]
    with torch.no_grad():
        packed = tiny.model(**packed_inputs(rows), use_cache=False).logits[0]
    for row, logits in zip(rows, packed.split([len(row) for row in rows]), strict=True):
        assert torch.allclose(logits, packed_logits(tiny.model, row), atol=1e-5)
        assert torch.allclose(logits, plain_logits(plain.model, row), atol=1e-5)


def test_what_lies_in_one_row_cannot_be_seen_from_another(tiny: LoadedModel) -> None:
    first, changed, second = (row.tokens for row in random_rows([12, 12, 20]))
    with torch.no_grad():
        before = tiny.model(**packed_inputs([first, second, first]), use_cache=False).logits[0, 12:32]
        after = tiny.model(**packed_inputs([changed, second, changed]), use_cache=False).logits[0, 12:32]
    assert torch.equal(before, after)


FAMILIES = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma3_text",
    "phi",
    "phi3",
    "gpt_neox",
    "opt",
    "olmo2",
    "granite",
]


def family_config(name: str) -> PreTrainedConfig:
    settings = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 96, "ffn_dim": 96, "word_embed_proj_dim": 64, "vocab_size": 300, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 128, "sliding_window": 5,
        "initializer_range": 0.1,
    }  # fmt: skip
    config: PreTrainedConfig = CONFIG_MAPPING[name](**settings)
    return config


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_that_uses_the_registry_packs_exactly(name: str) -> None:
    """Grouped heads, windows, biases, learned positions: no model's code is rewritten, so each is tried once."""
    torch.manual_seed(0)
    packed = AutoModelForCausalLM.from_config(family_config(name), attn_implementation=packed_attention.NAME).eval()
    alone = AutoModelForCausalLM.from_config(family_config(name), attn_implementation="eager").eval()
    alone.load_state_dict(packed.state_dict())
    rows = [[token % 297 + 3 for token in row.tokens] for row in random_rows([9, 4, 21])]
    with torch.no_grad():
        logits = packed(**packed_inputs(rows), use_cache=False).logits[0]
    for row, ours in zip(rows, logits.split([9, 4, 21]), strict=True):
        assert torch.allclose(ours, plain_logits(alone, row), atol=2e-5)
