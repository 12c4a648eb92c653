from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from core.adapters.peft_tensors import MAX_HEADER_BYTES, MAX_TENSORS
from tests.core.adapters.peft_pairs import (
    EMBEDDING,
    NORM,
    PREFIX,
    Q0,
    A,
    B,
    Edit,
    edit_settings,
    edit_tensors,
    refused,
)


def content(*contents: bytes) -> Edit:
    return lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"".join(contents))


def header(text: str | bytes) -> Edit:
    raw = text.encode() if isinstance(text, str) else text
    return content(len(raw).to_bytes(8, "little"), raw)


def truncate(folder: Path) -> None:
    whole = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])


def both(*edits: Edit) -> Edit:
    def edit(folder: Path) -> None:
        for change in edits:
            change(folder)

    return edit


def put(name: str, tensor: torch.Tensor) -> Edit:
    return edit_tensors(lambda t: t.update({name: tensor}))


CROWD: dict[str, Any] = {str(number): {} for number in range(MAX_TENSORS + 1)}
FILES: dict[str, tuple[Edit, str]] = {
    "a truncated file": (truncate, "is broken"),
    "an empty file": (content(), "is broken"),
    "a file of another kind": (content(b"PK\x03\x04" * 99), "is broken"),
    "a header without end": (content((2**62).to_bytes(8, "little"), b"{}"), "is broken: its header would have"),
    "a header that is large": (header(" " * (MAX_HEADER_BYTES + 1)), "is broken: its header would have"),
    "a header that is no JSON": (header("{"), "its header cannot be read"),
    "a header that is nested": (header("[" * 100_000), "its header cannot be read"),
    "too many tensors": (header(json.dumps(CROWD)), f"at most {MAX_TENSORS:,} tensors"),
    "a name without end": (put("x" * 501, torch.ones(1)), "names of 500 characters"),
    "data beyond the file": (
        header('{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,39999999996]}}'), "is broken",
    ),
    "no tensors at all": (edit_tensors(lambda t: t.clear()), "holds no tensors"),
    "no weights": (lambda folder: (folder / WEIGHTS_FILE).unlink(), f"{WEIGHTS_FILE} is missing"),
    "no config": (lambda folder: (folder / CONFIG_FILE).unlink(), "There is no adapter"),
    "a config that is no JSON": (lambda folder: (folder / CONFIG_FILE).write_text("{r: 4"), "is not JSON"),
    "a config that is no text": (lambda folder: (folder / CONFIG_FILE).write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    "a config that is nested": (lambda folder: (folder / CONFIG_FILE).write_text("[" * 100_000), "is not JSON"),
    "a config without end": (lambda folder: (folder / CONFIG_FILE).write_text(" " * 1_000_001), "more than 1,000,000"),
    "a config that is a list": (lambda folder: (folder / CONFIG_FILE).write_text("[]"), "not a LoRA adapter"),
}  # fmt: skip

TENSORS: dict[str, tuple[Edit, str]] = {
    "a half is missing": (edit_tensors(lambda t: t.pop(B)), "q_proj has lora_A only"),
    "the other half is missing": (edit_tensors(lambda t: t.pop(A)), "q_proj has lora_B only"),
    "a module that the config names is missing": (
        edit_tensors(lambda t: (t.pop(A), t.pop(B))), "no tensors for model.layers.0.self_attn.q_proj",
    ),
    "a surplus module": (
        edit_tensors(lambda t: t.update({key.replace("q_proj", "r_proj"): t[key] + 0 for key in (A, B)})),
        "no linear layer model.layers.0.self_attn.r_proj",
    ),
    "a module that the config does not name": (
        edit_tensors(lambda t: t.update({key.replace("q_proj", "o_proj"): t[key] + 0 for key in (A, B)})),
        "o_proj, which its targets do not name",
    ),
    "a layer too many": (
        edit_tensors(lambda t: t.update({key.replace("layers.0", "layers.2"): t[key] + 0 for key in (A, B)})),
        "another base model",
    ),
    "halves for an embedding": (
        edit_tensors(lambda t: t.update({f"{Q0}embedding_A": t.pop(A), f"{Q0}embedding_B": t.pop(B)})),
        "no embedding model.layers.0.self_attn.q_proj",
    ),
    "halves of two kinds": (
        edit_tensors(lambda t: t.update({f"{Q0}embedding_A": t.pop(A)})), "q_proj has lora_embedding_A only",
    ),
    "a magnitude without DoRA": (put(f"{Q0}magnitude_vector", torch.ones(32)), "a DoRA magnitude, but use_dora"),
    "DoRA without a magnitude": (edit_settings(use_dora=True), "no DoRA magnitude, but use_dora"),
    "a magnitude of another size": (
        both(edit_settings(use_dora=True), edit_tensors(lambda t: t.update(
            {key.replace("B.weight", "magnitude_vector"): torch.ones(7) for key in t if "_B." in key}
        ))),
        "features and 7 DoRA magnitudes",
    ),
    "a bias of B": (put(f"{Q0}B.bias", torch.ones(32)), "not part of the adapter"),
    "a part of another method": (put(f"{Q0}E", torch.ones(4)), "not part of the adapter"),
    "a tensor without the prefix": (put("model.lm_head.weight", torch.ones(4)), "not part of the adapter"),
    "the same tensor twice": (
        edit_tensors(lambda t: t.update({A.replace("layers", "_orig_mod.layers"): t[A] + 0})), "is there twice",
    ),
    "another width": (put(A, torch.ones(4, 33)), "is 32×33 in it and 32×32 here"),
    "another height": (put(B, torch.ones(31, 4)), "is 31×32 in it and 32×32 here"),
    "another rank in one tensor": (put(A, torch.ones(3, 32)), "but r is 4"),
    "another rank in the config": (edit_settings(r=8), "but r is 8"),
    "another rank in a pattern": (edit_settings(rank_pattern={"q_proj": 3}), "but r is 3"),
    "the shape of a convolution": (
        edit_tensors(lambda t: t.update({A: torch.ones(4, 8, 4), B: torch.ones(32, 4, 1)})),
        "is 32×8×4 in it and 32×32 here",
    ),
    "B with a kernel": (
        edit_tensors(lambda t: t.update({A: torch.ones(4, 8, 4), B: torch.ones(32, 4, 2)})), "not half of a low-rank",
    ),
    "no dimensions": (put(A, torch.ones(())), "but r is 4"),
    "five dimensions": (put(A, torch.ones(4, 2, 2, 2, 4)), "not half of a low-rank update"),
    "NaN": (edit_tensors(lambda t: t[A].view(-1).__setitem__(7, torch.nan)), "not finite"),
    "infinity": (edit_tensors(lambda t: t[B].view(-1).__setitem__(7, -torch.inf)), "not finite"),
    "what is infinite in 32 bits": (put(A, torch.full((4, 32), 1e300, dtype=torch.float64)), "not finite"),
    "whole numbers": (put(A, torch.ones(4, 32, dtype=torch.int64)), "holds int64"),
    "eight bits": (put(A, torch.ones(4, 32).to(torch.float8_e4m3fn)), "holds float8_e4m3fn"),
    "a bias that the config does not have": (
        put(f"{Q0.removesuffix('lora_')}base_layer.bias", torch.ones(32)), "has a bias, but bias is none",
    ),
    "a bias that the base does not have": (
        both(edit_settings(bias="lora_only"), put(f"{Q0.removesuffix('lora_')}base_layer.bias", torch.ones(32))),
        "has no bias of 32 here",
    ),
    "a bias of a module that is not adapted": (
        both(edit_settings(bias="lora_only"), put(f"{NORM}.bias", torch.ones(32))), "not part of the adapter",
    ),
    "a weight of the base": (put(f"{NORM}.weight", torch.full((32,), 3.0)), "nothing for the tensor model.norm"),
    "another embedding": (put(f"{EMBEDDING}.weight", torch.ones(60, 32)), "copy of model.embed_tokens.weight has"),
    "a larger embedding": (put(f"{EMBEDDING}.weight", torch.ones(64, 32)), "64×32 in it and 60×32 here"),
    "a whole module that is not there": (edit_settings(modules_to_save=["model.norm"]), "no tensors for model.norm"),
    "a whole module that the base does not have": (
        both(edit_settings(modules_to_save=["pooler"]), put(f"{PREFIX}pooler.weight", torch.ones(3))),
        "no tensors for pooler",
    ),
    "a whole module that the base has elsewhere": (
        both(edit_settings(modules_to_save=["model.norm"]), edit_tensors(lambda t: t.update({
            f"{PREFIX}model.norm.weight": torch.ones(32), f"{PREFIX}vision.model.norm.weight": torch.ones(32),
        }))),
        "vision.model.norm is trained whole, and this one has no such module",
    ),
    "a whole module of another size": (
        both(edit_settings(modules_to_save=["model.norm"]), put(f"{PREFIX}model.norm.weight", torch.ones(31))),
        "model.norm.weight is 31 in it and 32 here",
    ),
    "a whole module with a bias too many": (
        both(edit_settings(modules_to_save=["model.norm"]), edit_tensors(lambda t: t.update({
            f"{PREFIX}model.norm.weight": torch.ones(32), f"{PREFIX}model.norm.bias": torch.ones(32),
        }))),
        "has a tensor bias in it, unlike here",
    ),
}  # fmt: skip

LOOK = "cannot be matched in linear time"
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "IA3"}, "not a LoRA adapter"),
    "no rank": ({"r": None}, "r is None"),
    "a rank of zero": ({"r": 0}, "r is 0"),
    "a rank without end": ({"r": 10**9}, "r is 1000000000"),
    "a rank that is not whole": ({"r": 4.5}, "r is 4.5"),
    "a rank that is a truth": ({"r": True}, "r is True"),
    "an alpha of zero": ({"lora_alpha": 0}, "lora_alpha is 0"),
    "an alpha that is not a number": ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    "an alpha without end": ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
    "an alpha in words": ({"lora_alpha": "16"}, "lora_alpha is '16'"),
    "a truth in words": ({"use_dora": "no"}, "use_dora is 'no'"),
    "an unknown bias": ({"bias": "some"}, "bias is 'some'"),
    "a bias of B": ({"lora_bias": True}, "lora_bias"),
    "a pattern of words": ({"rank_pattern": {"q_proj": "2"}}, "is '2'"),
    "a pattern that is a list": ({"alpha_pattern": [2]}, r"alpha_pattern is \[2\]"),
    "targets that are numbers": ({"target_modules": [1]}, r"target_modules is \[1\]"),
    "an empty target": ({"target_modules": [""]}, "target_modules is"),
    "whole modules in words": ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'"),
    "layers in words": ({"layers_to_transform": ["1"]}, "layers_to_transform is"),
    "a token twice": ({"trainable_token_indices": [1, 1]}, "trainable_token_indices is"),
    "tokens without rows": ({"trainable_token_indices": [1, 2]}, "no rows for the 2 tokens"),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    "an activation by tokens": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    "parameters of experts in words": ({"target_parameters": "experts.down_proj"}, "target_parameters is"),
    "a method that comes after us": ({"use_warp_drive": {"speed": 9}}, "use_warp_drive"),
    "a start that nothing brings back": ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight"),
    "CorDA": ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "path_initial_model_for_weight_conversion"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "changed its base for good"),
    "a start that comes after us": ({"init_lora_weights": "telepathy"}, "changed its base for good"),
    "targets that look ahead": ({"target_modules": r".*(?=q_proj)q_proj"}, f"target_modules has a pattern.*{LOOK}"),
    "targets that look back": ({"target_modules": r"(.)\1_proj"}, f"target_modules has a pattern.*{LOOK}"),
    "targets that are no pattern": ({"target_modules": "(q_proj"}, f"target_modules has a pattern.*{LOOK}"),
    "targets without end": ({"target_modules": "a|" * 20_000}, f"target_modules has a pattern.*{LOOK}"),
    "a rank for what looks ahead": ({"rank_pattern": {"(?!v)q_proj": 4}}, f"rank_pattern has a pattern.*{LOOK}"),
    "an alpha for what looks ahead": ({"alpha_pattern": {"(?!v)q_proj": 4}}, f"alpha_pattern has a pattern.*{LOOK}"),
    "exclusions that look ahead": ({"exclude_modules": "(?!v)q_proj"}, f"exclude_modules has a pattern.*{LOOK}"),
    "blocks that look ahead": (
        {"layers_to_transform": [0], "layers_pattern": "(?!x)layers"}, f"layers_pattern has a pattern.*{LOOK}",
    ),
    "a pattern that names others": ({"target_modules": r".*\.v_proj"}, "no tensors for .*v_proj"),
    "targets that are narrowed": ({"layers_to_transform": [1]}, "layers.0.*, which its targets do not name"),
    "targets that are excluded": ({"exclude_modules": ["up_proj"]}, "up_proj, which its targets do not name"),
}  # fmt: skip


@pytest.mark.parametrize("fault", [*FILES, *TENSORS])
def test_a_faulty_file_is_refused_with_what_where_and_what_to_do(base: nn.Module, saved: Path, fault: str) -> None:
    break_it, message = (FILES | TENSORS)[fault]
    break_it(saved)
    refused(base, saved, message)


@pytest.mark.parametrize("fault", SETTINGS)
def test_a_faulty_setting_is_refused_with_what_where_and_what_to_do(base: nn.Module, saved: Path, fault: str) -> None:
    changes, message = SETTINGS[fault]
    edit_settings(**changes)(saved)
    refused(base, saved, message)


@pytest.mark.parametrize("pattern", [r"([a-z0-9_.]+)+!", r"((.*)*(.*)*)*!", r"(.*_){25}.*!"])
@pytest.mark.parametrize("setting", ["target_modules", "rank_pattern", "alpha_pattern", "exclude_modules"])
def test_a_pattern_that_could_take_forever_takes_a_moment(
    base: nn.Module, saved: Path, setting: str, pattern: str
) -> None:
    edit_settings(**{setting: {pattern: 4} if setting.endswith("pattern") else pattern})(saved)
    before = time.process_time()
    if setting == "target_modules":
        refused(base, saved, "which its targets do not name")
    else:
        load_adapter(base, saved)
    assert time.process_time() - before < 1


def test_a_pickle_is_never_opened(base: nn.Module, saved: Path, tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    tensors = load_file(saved / WEIGHTS_FILE)
    (saved / WEIGHTS_FILE).unlink()
    for name in ("adapter_model.bin", "adapter_model.pt", "training_args.bin"):
        torch.save({**tensors, "canary": Canary()}, saved / name)
    refused(base, saved, f"{WEIGHTS_FILE} is missing, and adapter_model.bin is a pickle, which is never opened")
    torch.save({"canary": Canary()}, saved / WEIGHTS_FILE)
    refused(base, saved, "is broken")
    assert not (tmp_path / "executed").exists()


def test_a_setting_that_is_unset_may_be_unknown(base: nn.Module, saved: Path) -> None:
    settings = json.loads((saved / CONFIG_FILE).read_text())
    unset: dict[str, Any] = {
        "use_warp_drive": None,
        "warp_config": {},
        "warp_factor": 0,
        "arrow_config": None,
        "use_qalora": False,
    }
    (saved / CONFIG_FILE).write_text(json.dumps(settings | unset))
    assert load_adapter(base, saved)
