from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from core.adapters.inject import activate, lora_layers
from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, fingerprint, load_adapter, read_adapter, save_adapter
from core.errors import AdapterError
from core.models.load import LoadedModel, load_model
from tests.core.tiny import LINEARS, adapt, bits, plain_logits, random_rows, tiny_llama

TOKENS = random_rows([25])[0].tokens
PREFIX = "base_model.model."


@pytest.fixture
def saved(plain: LoadedModel, tmp_path: Path) -> Path:
    """An adapter on q_proj and up_proj, saved by us."""
    model = copy.deepcopy(plain.model)
    config = adapt(model, targets=("q_proj", "up_proj"))
    save_adapter(model, "a", tmp_path / "adapter", config, "some/base")
    return tmp_path / "adapter"


def peft_model(base: nn.Module, rank: int = 5, alpha: float = 11, **settings: Any) -> Any:
    """An adapter that peft made over a copy of `base`, with a B that is not zero."""
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM", **settings)  # type: ignore[arg-type]
    torch.manual_seed(4)
    model = peft.get_peft_model(copy.deepcopy(base), config)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model.eval()


def loaded_by_us(base: LoadedModel, folder: Path, tokens: list[int] = TOKENS) -> Tensor:
    activate(base.model, load_adapter(base.model, folder))
    return plain_logits(base.model, tokens)


# ---- what we write, peft reads; what peft writes, we read


@pytest.mark.parametrize(
    "targets", [LINEARS, ("q_proj",), ("layers.1.self_attn.v_proj",), ("o_proj", "model.layers.0.mlp.up_proj")]
)
@pytest.mark.parametrize("alpha", [8.0, 2.5])
def test_peft_loads_what_we_saved_and_says_the_same(
    plain: LoadedModel, tmp_path: Path, targets: tuple[str, ...], alpha: float
) -> None:
    base = copy.deepcopy(plain.model)
    config = adapt(plain.model, targets=targets, alpha=alpha)
    save_adapter(plain.model, "a", tmp_path / "ours", config, "some/base")
    activate(plain.model, "a")
    ours = plain_logits(plain.model, TOKENS)
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "ours")).eval()
    assert torch.allclose(plain_logits(theirs, TOKENS), ours, atol=1e-5)
    adapted = {
        name.removeprefix(PREFIX) for name, m in theirs.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)
    }
    assert adapted == set(lora_layers(plain.model))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": list(LINEARS)},
        {"target_modules": "all-linear"},
        {"target_modules": ["v_proj"], "lora_dropout": 0.3},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": r".*\.(q|k)_proj"},
        {"target_modules": ["q_proj"], "exclude_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    ],
)
def test_we_load_what_peft_saved_and_say_the_same(plain: LoadedModel, tmp_path: Path, settings: dict[str, Any]) -> None:
    theirs = peft_model(plain.model, **settings)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = plain_logits(theirs, TOKENS)
    assert torch.allclose(loaded_by_us(plain, tmp_path / "theirs"), expected, atol=1e-5)


def test_a_bf16_adapter_of_peft_is_read_without_loss(plain: LoadedModel, tmp_path: Path) -> None:
    theirs = peft_model(plain.model, target_modules=["q_proj"])
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16()
    theirs.save_pretrained(tmp_path / "theirs")
    files = read_adapter(tmp_path / "theirs")
    raw = load_file(tmp_path / "theirs" / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in raw.values()} == {torch.bfloat16}
    for module, (a, b) in files.tensors.items():
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(a, raw[f"{PREFIX}{module}.lora_A.weight"].float())
        assert torch.equal(b, raw[f"{PREFIX}{module}.lora_B.weight"].float())


def test_the_starter_with_an_adapter_says_the_same_in_peft(starter_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(starter_folder, dtype=torch.float32)
    config = adapt(loaded.model, rank=8, alpha=16)
    for name, parameter in loaded.model.named_parameters():
        if name.endswith(".adapters.a.b"):
            parameter.data.mul_(0.05)
    save_adapter(loaded.model, "a", tmp_path / "ours", config, "starter")
    tokens = loaded.tokenizer("The captain of the ship writes a letter home.")["input_ids"]
    base = plain_logits(loaded.model, tokens)
    activate(loaded.model, "a")
    ours = plain_logits(loaded.model, tokens)
    del loaded
    reference = AutoModelForCausalLM.from_pretrained(starter_folder, dtype=torch.float32)
    theirs = plain_logits(peft.PeftModel.from_pretrained(reference, str(tmp_path / "ours")).eval(), tokens)
    assert (ours - base).abs().max() > 0.1
    assert (ours - theirs).abs().max() < 1e-4


def test_saving_and_loading_gives_the_same_bits(plain: LoadedModel, tmp_path: Path) -> None:
    base = copy.deepcopy(plain.model)
    config = adapt(plain.model)
    save_adapter(plain.model, "a", tmp_path / "ours", config, "some/base")
    key = load_adapter(base, tmp_path / "ours")
    for name, layer in lora_layers(plain.model).items():
        saved, loaded = layer.update("a"), lora_layers(base)[name].update(key)
        assert saved is not None and loaded is not None
        assert torch.equal(saved.a, loaded.a) and torch.equal(saved.b, loaded.b) and saved.scale == loaded.scale
        assert not loaded.a.requires_grad and not loaded.b.requires_grad


def test_only_the_named_adapter_is_saved(plain: LoadedModel, tmp_path: Path) -> None:
    adapt(plain.model, key="other", targets=("v_proj",))
    config = adapt(plain.model, key="a", targets=("q_proj",))
    save_adapter(plain.model, "a", tmp_path / "ours", config, "some/base")
    assert all("q_proj" in module for module in read_adapter(tmp_path / "ours").tensors)
    with pytest.raises(AdapterError, match="No adapter nobody"):
        save_adapter(plain.model, "nobody", tmp_path / "none", config, "some/base")
    assert not (tmp_path / "none").exists()


def test_loading_again_changes_nothing_and_gives_the_same_key(plain: LoadedModel, saved: Path) -> None:
    key = load_adapter(plain.model, saved)
    before = bits(plain.model)
    assert load_adapter(plain.model, saved) == key
    after = plain.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_weights_with_another_alpha_are_another_adapter(
    plain: LoadedModel, saved: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    (twin / WEIGHTS_FILE).write_bytes((saved / WEIGHTS_FILE).read_bytes())
    settings = json.loads((saved / CONFIG_FILE).read_text())
    (twin / CONFIG_FILE).write_text(json.dumps(settings | {"lora_alpha": 40.5}))
    first, second = load_adapter(plain.model, saved), load_adapter(plain.model, twin)
    assert fingerprint(saved) == fingerprint(twin) and first != second
    activate(plain.model, first)
    one = plain_logits(plain.model, TOKENS)
    activate(plain.model, second)
    assert not torch.equal(plain_logits(plain.model, TOKENS), one)


# ---- what does not fit is refused, as a whole


def edit_settings(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / CONFIG_FILE).read_text()) | changes
        (folder / CONFIG_FILE).write_text(json.dumps(settings))

    return edit


def edit_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        change(tensors)
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    return edit


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[: len(content) // 2])


Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_"
A, B = f"{Q0}A.weight", f"{Q0}B.weight"

FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a half is missing": (edit_tensors(lambda t: t.pop(B)), "q_proj has lora_A only"),
    "the other half is missing": (edit_tensors(lambda t: t.pop(A)), "q_proj has lora_B only"),
    "a module that the config names is missing": (
        edit_tensors(lambda t: (t.pop(A), t.pop(B))),
        "no tensors for model.layers.0.self_attn.q_proj",
    ),
    "a surplus module": (
        edit_tensors(lambda t: t.update({key.replace("q_proj", "r_proj"): t[key] + 0 for key in (A, B)})),
        "no linear layer model.layers.0.self_attn.r_proj",
    ),
    "a layer too many": (
        edit_tensors(lambda t: t.update({key.replace("layers.0", "layers.2"): t[key] + 0 for key in (A, B)})),
        "another base model",
    ),
    "a tensor that is no half": (
        edit_tensors(lambda t: t.update({f"{Q0}magnitude_vector": torch.ones(4)})),
        "not part of a plain LoRA adapter",
    ),
    "a tensor without the prefix": (
        edit_tensors(lambda t: t.update({"lm_head.weight": torch.ones(4)})),
        "lm_head.weight",
    ),
    "a whole module": (edit_tensors(lambda t: t.update({f"{PREFIX}lm_head.weight": torch.ones(4)})), "lm_head.weight"),
    "another width": (edit_tensors(lambda t: t.update({A: torch.ones(4, 65)})), "is 64×65 in it and 64×64 here"),
    "another height": (edit_tensors(lambda t: t.update({B: torch.ones(63, 4)})), "is 63×64 in it and 64×64 here"),
    "another rank in one tensor": (edit_tensors(lambda t: t.update({A: torch.ones(3, 64)})), "but r is 4"),
    "another number of dimensions": (edit_tensors(lambda t: t.update({A: torch.ones(4, 8, 8)})), r"shape \[4, 8, 8\]"),
    "another rank in the config": (edit_settings(r=8), "but r is 8"),
    "NaN": (edit_tensors(lambda t: t[A].view(-1).__setitem__(7, torch.nan)), "not finite"),
    "infinity": (edit_tensors(lambda t: t[B].view(-1).__setitem__(7, -torch.inf)), "not finite"),
    "no tensors at all": (edit_tensors(lambda t: t.clear()), "holds no tensors"),
    "a truncated file": (truncate, "is broken"),
    "an empty file": (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b""), "is broken"),
    "a file of another kind": (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"PK\x03\x04" * 99), "is broken"),
    "no weights": (lambda folder: (folder / WEIGHTS_FILE).unlink(), f"{WEIGHTS_FILE} is missing"),
    "no config": (lambda folder: (folder / CONFIG_FILE).unlink(), "There is no adapter"),
    "a config that is no JSON": (lambda folder: (folder / CONFIG_FILE).write_text("{r: 4"), "is not JSON"),
    "a config that is no text": (lambda folder: (folder / CONFIG_FILE).write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    "a config that is a list": (lambda folder: (folder / CONFIG_FILE).write_text("[]"), "not a LoRA adapter"),
    "another method": (edit_settings(peft_type="IA3"), "not a LoRA adapter"),
    "no rank": (edit_settings(r=None), "r is None"),
    "a rank of zero": (edit_settings(r=0), "r is 0"),
    "a rank that is not whole": (edit_settings(r=4.5), "r is 4.5"),
    "a rank that is a truth": (edit_settings(r=True), "r is True"),
    "an alpha of zero": (edit_settings(lora_alpha=0), "lora_alpha is 0"),
    "an alpha that is not a number": (edit_settings(lora_alpha=float("nan")), "lora_alpha is nan"),
    "an alpha without end": (edit_settings(lora_alpha=float("inf")), "lora_alpha is inf"),
    "an alpha in words": (edit_settings(lora_alpha="16"), "lora_alpha is '16'"),
    "DoRA": (edit_settings(use_dora=True), "use_dora"),
    "rsLoRA": (edit_settings(use_rslora=True), "use_rslora"),
    "a rank pattern": (edit_settings(rank_pattern={"q_proj": 2}), "rank_pattern"),
    "an alpha pattern": (edit_settings(alpha_pattern={"q_proj": 2}), "alpha_pattern"),
    "whole modules": (edit_settings(modules_to_save=["lm_head"]), "modules_to_save"),
    "biases": (edit_settings(bias="lora_only"), "bias"),
    "a bias of B": (edit_settings(lora_bias=True), "lora_bias"),
    "another start of the base": (edit_settings(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
    "repeated layers": (edit_settings(layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
    "an activation by tokens": (edit_settings(alora_invocation_tokens=[5]), "alora_invocation_tokens"),
    "trained embeddings": (edit_settings(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "a method that comes after us": (edit_settings(use_warp_drive={"speed": 9}), "use_warp_drive"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_adapter_is_refused_with_what_where_and_what_to_do(
    plain: LoadedModel, saved: Path, fault: str
) -> None:
    break_it, message = FAULTS[fault]
    break_it(saved)
    before, modules = bits(plain.model), list(plain.model.modules())
    with pytest.raises(AdapterError, match=message) as caught:
        load_adapter(plain.model, saved)
    assert caught.value.title and caught.value.detail and caught.value.hint
    assert list(plain.model.modules()) == modules
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.model.state_dict().items())


def test_a_faulty_adapter_leaves_one_that_is_loaded_alone(plain: LoadedModel, saved: Path) -> None:
    expected = loaded_by_us(plain, saved)
    edit_tensors(lambda t: t.pop(B))(saved)
    with pytest.raises(AdapterError):
        load_adapter(plain.model, saved)
    assert torch.equal(plain_logits(plain.model, TOKENS), expected)


@pytest.mark.parametrize("changes", [{"hidden_size": 32}, {"num_hidden_layers": 1}, {"intermediate_size": 96}])
def test_an_adapter_of_another_base_is_refused_with_the_name_of_its_own(saved: Path, changes: dict[str, int]) -> None:
    with pytest.raises(AdapterError, match="another base model") as caught:
        load_adapter(tiny_llama(**changes), saved)
    assert "some/base" in caught.value.detail


def test_a_base_with_more_layers_than_the_adapter_has_is_another_base(saved: Path) -> None:
    with pytest.raises(AdapterError, match=r"no tensors for model\.layers\.2") as caught:
        load_adapter(tiny_llama(num_hidden_layers=3), saved)
    assert "some/base" in caught.value.detail


def test_a_pickle_is_never_opened(plain: LoadedModel, saved: Path, tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    tensors = load_file(saved / WEIGHTS_FILE)
    (saved / WEIGHTS_FILE).unlink()
    for name in ("adapter_model.bin", "adapter_model.pt", "training_args.bin"):
        torch.save({**tensors, "canary": Canary()}, saved / name)
    with pytest.raises(AdapterError, match=f"{WEIGHTS_FILE} is missing"):
        load_adapter(plain.model, saved)
    torch.save({"canary": Canary()}, saved / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="is broken"):
        load_adapter(plain.model, saved)
    assert not (tmp_path / "executed").exists()


def test_only_the_settings_that_we_implement_are_written(saved: Path) -> None:
    """peft knows every key, and takes from none of them anything but a plain LoRA."""
    settings = json.loads((saved / CONFIG_FILE).read_text())
    theirs = peft.LoraConfig.from_pretrained(str(saved))
    assert all(hasattr(theirs, name) for name in settings)
    assert theirs.inference_mode and theirs.r == 4 and theirs.lora_alpha == 8
    assert theirs.target_modules == {"q_proj", "up_proj"}
    assert set(load_file(saved / WEIGHTS_FILE)) == {
        f"{PREFIX}model.layers.{layer}.{part}.lora_{half}.weight"
        for layer in (0, 1)
        for part in ("self_attn.q_proj", "mlp.up_proj")
        for half in "AB"
    }
