"""Small models, and adapters on them that change what they say, made by us or by peft."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    Phi3Config,
    Phi3ForCausalLM,
)

from core.adapters.copies import AdaptedWhole
from core.adapters.inject import activate, inject, lora_layers
from core.adapters.layer import LoraLayer
from core.adapters.lowrank import BiasOnly, LowRank, TokenRows
from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from core.config import LoraConfig
from core.errors import AdapterError
from tests.core.tiny import bits, tiny_llama

VOCABULARY, WIDTH = 60, 32
TOKENS = torch.tensor([[5, 17, 3, 59, 20, 21, 3, 8, 40]])
PREFIX = "base_model.model."
Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_"
NORM, EMBEDDING = f"{PREFIX}model.norm", f"{PREFIX}model.embed_tokens"
A, B = f"{Q0}A.weight", f"{Q0}B.weight"
Edit = Callable[[Path], object]
PLAIN = {"rank": 4, "alpha": 8.0, "targets": ("q_proj", "up_proj")}
PICTURES = torch.linspace(-1, 1, 2 * 3 * 8).view(2, 3, 8).sin()


class Convolutions(nn.Module):
    """Convolutions of one and two dimensions, a normalization with running means, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(3, 6, kernel_size=3, stride=1, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.sheet = nn.Conv2d(1, 4, kernel_size=(2, 3), stride=(2, 1), bias=False)
        self.out = nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.line(x)).tanh()
        out: Tensor = self.out(self.sheet(hidden[:, None]).flatten(1).tanh())
        return out


def llama(**changes: Any) -> nn.Module:
    """With an untied head, unless told otherwise."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "tie_word_embeddings": False}
    return tiny_llama(**(sizes | changes))


def tied_llama() -> nn.Module:
    return llama(tie_word_embeddings=True)


def gpt2() -> nn.Module:
    config = GPT2Config(
        n_embd=WIDTH, n_layer=2, n_head=4, n_positions=32, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2,
        initializer_range=0.2,
    )  # fmt: skip
    return _drawn(lambda: GPT2LMHeadModel(config))


def phi3() -> nn.Module:
    config = Phi3Config(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    return _drawn(lambda: Phi3ForCausalLM(config))


def classifier() -> nn.Module:
    config = tiny_llama(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48).config
    config.num_labels, config.pad_token_id = 3, 0
    return _drawn(lambda: LlamaForSequenceClassification(config))


def convolutions() -> nn.Module:
    return _drawn(Convolutions)


def _drawn(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().float().eval()


def says(model: Any) -> Tensor:
    """What a model gives for a fixed input."""
    inner = model.base_model.model if isinstance(model, peft.PeftModel) else model
    with torch.no_grad():
        found: Tensor = model(PICTURES) if isinstance(inner, Convolutions) else model(input_ids=TOKENS).logits
    return found


def is_close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether the largest difference is below `tolerance` of the largest value."""
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


def ours(
    model: nn.Module, settings: dict[str, Any], *, tokens: Sequence[int] = (), bias_only: bool = False
) -> LoraConfig:
    """An adapter `a` of ours on `model`, active, with everything trained moved away from where it began."""
    config = LoraConfig(**settings)
    inject(model, config, key="a", seed=1, tokens=tokens, bias_only=bias_only)
    stir(model)
    activate(model, "a")
    return config


def stir(model: nn.Module) -> None:
    """Move all that `a` trains."""
    generator = torch.Generator().manual_seed(1)

    def moved(tensor: Tensor, by: float) -> Tensor:
        return tensor.data + by * torch.randn(tensor.shape, generator=generator)

    for layer in lora_layers(model).values():
        if isinstance(layer, AdaptedWhole):
            copied = layer.copy_of("a")
            for parameter in copied.trained().values() if copied is not None else ():
                parameter.data = moved(parameter, 0.2)
        update = layer.update("a") if isinstance(layer, LoraLayer) else None
        if not isinstance(update, LowRank):
            continue
        if not isinstance(update, BiasOnly | TokenRows):
            update.a.data = moved(update.a, 0.2)
        update.b.data = moved(update.b, 0.2)
        if update.magnitude is not None:
            update.magnitude.data *= 1 + moved(torch.zeros_like(update.magnitude), 0.2)
        if update.bias is not None:
            update.bias.data = moved(update.bias, 0.3)


def theirs(base: nn.Module, settings: dict[str, Any]) -> Any:
    """An adapter of peft's over a copy of `base`, everything trained moved away from where it began."""
    task = None if isinstance(base, Convolutions) else "CAUSAL_LM"
    with quiet():
        config = peft.LoraConfig(**({"r": 5, "lora_alpha": 11, "task_type": task} | settings))
        torch.manual_seed(4)
        model = peft.get_peft_model(copy.deepcopy(base), config)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif "trainable_tokens_delta" in name:
            raise AssertionError(name)
    return model.eval()


def saved_by_them(model: Any, folder: Path) -> Path:
    with quiet():
        model.save_pretrained(folder)
    return folder


def loaded_by_them(base: nn.Module, folder: Path) -> Any:
    with quiet():
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()  # type: ignore[arg-type]


def loaded_by_us(base: nn.Module, folder: Path) -> nn.Module:
    model = copy.deepcopy(base)
    activate(model, load_adapter(model, folder))
    return model


def saved_by_us(model: nn.Module, config: LoraConfig, folder: Path) -> Path:
    save_adapter(model, "a", folder, config, "some/base")
    return folder


@contextmanager
def quiet() -> Any:
    """peft's advice about tied weights, target names and what it saves is not what we test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def settings_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    return found


def edit_settings(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / CONFIG_FILE).write_text(json.dumps(settings_in(folder) | changes))

    return edit


def edit_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        change(tensors)
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    return edit


def refused(model: nn.Module, folder: Path, message: str) -> AdapterError:
    """What is said when `folder` is loaded, which must leave everything as it is."""
    before, modules = bits(model), list(model.modules())
    with pytest.raises(AdapterError, match=message) as caught:
        load_adapter(model, folder)
    assert caught.value.title and caught.value.detail and caught.value.hint
    assert list(model.modules()) == modules
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    return caught.value
