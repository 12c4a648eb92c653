"""FAULTS.md, rows 29, 31 and 32: adapters that do not fit, tried on the real chat process; what travels with one."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.adapters.inject import inject, lora_layers
from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from core.config import LoraConfig
from core.data.records import Message
from core.data.tokens.named_templates import PLAIN_TEMPLATE
from core.data.tokens.templates import render
from core.errors import AdapterError
from core.models.load import load_model
from jobs.adapters import zip_folder
from jobs.exports import Export, export_adapter
from jobs.service import Delta, Pane, Service
from tests.core.adapters.peft_pairs import quiet
from tests.core.tiny import tiny_llama
from tests.core.train.running import RECORDS, notes
from tests.core.train.running import Run as EngineRun
from tests.jobs.tiny_model import write_tiny_model

ASK = (Message(role="user", content="What is 3?"),)
Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def write_adapter(folder: Path, model: Path, name: str | None = None) -> Path:
    """A real adapter of the model in `model`, which changes it; its config calls that `name`."""
    loaded, config = load_model(model, dtype=torch.float32), LoraConfig(rank=4, targets=("q_proj", "up_proj"))
    inject(loaded.model, config, key="a", seed=1)
    for layer in lora_layers(loaded.model).values():
        layer.update("a").b.data.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    save_adapter(loaded.model, "a", folder, config, name or str(model))
    return folder


def said(service: Service, base: Path, adapter: Path | None) -> tuple[str, str]:
    """What the base says, and what it says with the adapter beside it."""
    panes = [Pane(adapter=None, messages=ASK)]
    panes += [Pane(adapter=str(adapter), messages=ASK)] if adapter else []
    found = ["", ""]
    for update in service.chat(panes, base_model=str(base), max_new_tokens=12):
        if isinstance(update, Delta):
            found[update.pane] += update.text
    return found[0], found[1]


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """A base of the tiny model's shapes, and other weights."""
    return write_tiny_model(tmp_path / "other", seed=7)


# ---- 31: an adapter of another base


def test_an_adapter_whose_base_is_known_is_refused_on_another_and_both_are_named(
    service: Service, tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    """Though every shape fits."""
    adapter = write_adapter(tmp_path / "mine", tiny_model)
    with pytest.raises(AdapterError) as caught:
        said(service, other_model, adapter)
    assert f"mine was trained on {tiny_model}" in caught.value.title and str(other_model) in caught.value.title
    assert caught.value.hint


def test_an_adapter_of_a_hub_model_is_refused_on_another_base_and_nothing_is_fetched(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "mine", tiny_model, "someone/else")
    with pytest.raises(AdapterError, match=r"mine was trained on someone/else, but the chat uses .*tiny"):
        said(service, tiny_model, adapter)


def test_an_adapter_of_other_shapes_is_refused_by_the_chat_which_goes_on_answering(
    service: Service, tiny_model: Path, starter_folder: Path, tmp_path: Path
) -> None:
    """Its base is a folder of another machine, so that only the shapes can tell."""
    wide = tmp_path / "wide"
    tiny_llama(hidden_size=64, intermediate_size=96).save_pretrained(wide)
    AutoTokenizer.from_pretrained(starter_folder).save_pretrained(wide)
    foreign = write_adapter(tmp_path / "foreign", wide, "/elsewhere/wide")
    own = write_adapter(tmp_path / "own", tiny_model)
    before = said(service, tiny_model, own)
    with pytest.raises(AdapterError) as caught:
        said(service, tiny_model, foreign)
    assert "another base model" in caught.value.title
    assert "made for /elsewhere/wide, and this is" in caught.value.detail and str(tiny_model) in caught.value.detail
    assert said(service, tiny_model, own) == before and before[0] != before[1]


# ---- 32: tensors that do not fit


def first(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in tensors if part in name)


FAULTS: dict[str, tuple[Edit, str]] = {
    "a missing half": (lambda _, t: t.pop(first(t, "lora_B")), r"model\.layers\.0\.\S+ has lora_A only"),
    "a missing module": (
        lambda _, t: [t.pop(name) for name in list(t) if "layers.1.mlp.up_proj" in name],
        r"no tensors for model\.layers\.1\.mlp\.up_proj",
    ),
    "another shape": (
        lambda _, t: t.update({first(t, "lora_A"): torch.ones(4, 33)}), r"model\.layers\.0\.\S+ is \d+×33 in it and",
    ),
    "another rank": (lambda c, _: c.update(r=8), r"model\.layers\.0\.\S+ has the shape \[4, 32\], but r is 8"),
    "a key too many": (
        lambda _, t: t.update({name.replace("q_proj", "r_proj"): t[name] + 0 for name in list(t) if "q_proj" in name}),
        r"no linear layer model\.layers\.0\.self_attn\.r_proj",
    ),
    "not a number": (
        lambda _, t: t[first(t, "lora_B")].view(-1).__setitem__(3, torch.nan), r"layers\.0\.\S+ holds values that are",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[pytest.mark.slow] if at else []) for at, name in enumerate(FAULTS)]
)
def test_the_key_is_named_and_the_chat_answers_as_before(
    service: Service, tiny_model: Path, tmp_path: Path, fault: str
) -> None:
    """In one chat process: an adapter that was taken in part would change what it says afterwards."""
    good = write_adapter(tmp_path / "good", tiny_model)
    before = said(service, tiny_model, good)
    bad = Path(shutil.copytree(good, tmp_path / "bad"))
    change, says = FAULTS[fault]
    settings, tensors = json.loads((bad / CONFIG_FILE).read_text()), load_file(bad / WEIGHTS_FILE)
    change(settings, tensors)
    (bad / CONFIG_FILE).write_text(json.dumps(settings))
    save_file(tensors, bad / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=says):
        said(service, tiny_model, bad)
    assert said(service, tiny_model, good) == before
    with pytest.raises(AdapterError, match=says):
        export_adapter(Export(adapter=bad, form="merged", output=tmp_path / "merged", base_model=str(tiny_model)))
    assert not (tmp_path / "merged").exists()


# ---- 29: a base without a chat template


@pytest.fixture
def bare(tmp_path: Path, starter_folder: Path) -> Path:
    """A base without a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    tokenizer.chat_template = None
    tiny_llama().save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    return tmp_path / "bare"


def test_the_template_that_stands_in_is_named_and_travels_with_the_adapter(bare: Path, tmp_path: Path) -> None:
    run = EngineRun(bare, tmp_path / "run", optim={"steps": 2})
    assert "no chat template; a plain one is used (### User / ### Assistant)" in notes(list(run.events()))

    zip_folder(run.output, tmp_path / "adapter.zip")
    with zipfile.ZipFile(tmp_path / "adapter.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "elsewhere")
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    question = RECORDS[0].messages[:1]
    plain = [{"role": message.role, "content": message.content} for message in question]
    text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    assert text == render(tokenizer, question, opening=True) == "### User:\nColor 0?\n\n### Assistant:\n"

    card = (tmp_path / "elsewhere" / "README.md").read_text()
    assert 'AutoTokenizer.from_pretrained("path/to/this/folder")' in card and "plain chat template" in card
    base = AutoModelForCausalLM.from_pretrained(bare)
    with quiet():
        assert PeftModel.from_pretrained(base, tmp_path / "elsewhere").peft_config


def test_a_merged_model_has_the_template_too(bare: Path, tmp_path: Path) -> None:
    run = EngineRun(bare, tmp_path / "run", optim={"steps": 2})
    list(run.events())
    export_adapter(Export(adapter=run.output, form="merged", output=tmp_path / "merged", base_model=str(bare)))
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == PLAIN_TEMPLATE


def test_a_base_with_a_template_of_its_own_sends_no_tokenizer_along(tiny_folder: Path, tmp_path: Path) -> None:
    run = EngineRun(tiny_folder, tmp_path / "run", optim={"steps": 1})
    list(run.events())
    assert {path.name for path in run.output.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, "README.md"}
