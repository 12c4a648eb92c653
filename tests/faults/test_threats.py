"""FAULTS.md, section 2: what a model from elsewhere may hold: pickles, broken weights, configs and chat templates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE
from core.errors import AdapterError, DataError, ModelError, UserError
from core.events import Failed
from jobs.service import Service
from tests.core.train.running import of_kind
from tests.faults.files import files_under, names_in, our_sources
from tests.faults.running import run_on
from tests.faults.test_adapters import said, write_adapter
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for

# ---- pickles


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    """What creates the file `executed` when it is unpickled."""

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    return Canary()


def test_a_pickle_is_opened_by_no_process_wherever_it_lies(
    service: Service, tmp_path: Path, dataset_file: Path, canary: Any
) -> None:
    """In place of a base's weights, beside them, in an adapter, and as a dataset."""
    whole, bare = write_tiny_model(tmp_path / "whole"), write_tiny_model(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    for folder in (whole, bare):
        for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
            torch.save({"canary": canary}, folder / name)
    with pytest.raises(ModelError, match="pickled weights only"):
        service.inspect_model(str(bare))

    adapter = write_adapter(tmp_path / "adapter", whole)
    (adapter / WEIGHTS_FILE).rename(tmp_path / "kept")
    torch.save({"canary": canary}, adapter / "adapter_model.bin")
    with pytest.raises(AdapterError, match="adapter_model.safetensors is missing"):
        said(service, whole, adapter)
    torch.save({"canary": canary}, adapter / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="is broken"):
        said(service, whole, adapter)
    for name in ("rows.pkl", "rows.jsonl", "rows.parquet"):
        torch.save({"canary": canary}, tmp_path / name)
        with pytest.raises(DataError):
            service.data.add(tmp_path / name)

    run = service.submit(run_on(service, dataset_file, whole))
    service.start()
    wait_for(lambda: service.run(run.id).has_ended, 200)
    assert service.run(run.id).state == "finished"
    assert not (tmp_path / "executed").exists()
    left = [path.suffix for path in files_under(service.home / "runs" / run.id)]
    assert not {".bin", ".pt", ".pth", ".pkl"} & set(left)


def test_nothing_of_ours_can_read_a_pickle() -> None:
    forbidden = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
    for path in our_sources():
        assert not names_in(path) & forbidden, path
        assert "torch.load(" not in path.read_text(encoding="utf-8"), path


# ---- weight files


BROKEN_WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "a header without end": lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
    "a header of 200 MB": lambda whole: (200_000_000).to_bytes(8, "little") + whole[8:],
    "a header that is no JSON": lambda whole: whole[:8] + b"\xff" * (len(whole) - 8),
    "nested": lambda whole: (100_000).to_bytes(8, "little") + b"[" * 100_000,
}


@pytest.mark.parametrize("fault", BROKEN_WEIGHTS)
def test_a_broken_weight_file_of_a_base_is_refused_before_a_run_is_queued(
    service: Service, tmp_path: Path, dataset_file: Path, fault: str
) -> None:
    model = write_tiny_model(tmp_path / "model")
    file = model / "model.safetensors"
    config = run_on(service, dataset_file, model)
    file.write_bytes(BROKEN_WEIGHTS[fault](file.read_bytes()))
    with pytest.raises(ModelError, match="is no whole safetensors file"):
        service.submit(config)
    assert service.runs() == () and list((service.home / "runs").iterdir()) == []


def test_an_adapter_that_is_not_a_number_is_refused_by_the_chat(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", tiny_model)
    tensors = load_file(adapter / WEIGHTS_FILE)
    name = next(iter(tensors))
    tensors[name].view(-1)[5] = float("nan")
    save_file(tensors, adapter / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=f"{re.escape(name)} holds values that are not finite"):
        said(service, tiny_model, adapter)


# ---- an adapter's config


def test_an_adapters_config_names_code_and_templates_and_none_of_it_is_run(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    """The module it names lies where it could be imported from, and its template would change every word."""
    adapter = write_adapter(tmp_path / "adapter", tiny_model)
    before = said(service, tiny_model, adapter)
    module = adapter / "canary.py"
    module.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    settings = json.loads((adapter / CONFIG_FILE).read_text())
    settings["auto_mapping"] = {"base_model_class": "Canary", "parent_library": "canary"}
    (adapter / CONFIG_FILE).write_text(json.dumps(settings))
    template = "{{ ''.__class__.__mro__ }}{{ 'a' * 10**9 }}"
    (adapter / "chat_template.jinja").write_text(template)
    tokenizer = {"chat_template": template, "auto_map": {"AutoTokenizer": ["canary.Canary", None]}}
    (adapter / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert said(service, tiny_model, adapter) == before
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["nobody_knows_it", pytest.param("encoder-decoder", marks=pytest.mark.slow), "llama"])
def test_a_base_that_brings_code_is_not_let_run_it(
    service: Service, tmp_path: Path, dataset_file: Path, kind: str
) -> None:
    """Of a kind that transformers lacks, has with another config, or has: only in the last case is it used."""
    model = write_tiny_model(tmp_path / "model")
    (model / "canary.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    settings = json.loads((model / "config.json").read_text())
    settings |= {"model_type": kind, "auto_map": {"AutoConfig": "canary.C", "AutoModelForCausalLM": "canary.M"}}
    (model / "config.json").write_text(json.dumps(settings))
    run = service.submit(run_on(service, dataset_file, model))
    service.start()
    wait_for(lambda: service.run(run.id).has_ended, 200)
    failed = of_kind(list(service.events(run.id)[0]), Failed)
    assert (service.run(run.id).state == "finished") == (kind == "llama")
    assert all("cannot be loaded" in event.title and event.hint for event in failed)
    assert not (tmp_path / "executed").exists()


# ---- chat templates


TEMPLATES = {
    "reaches for classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a range without end": "{% for i in range(10**9) %}x{% endfor %}",
    "more letters than memory": "{{ 'a' * 10**13 }}",
    "opens a file": "{% include '/etc/passwd' %}",
    "sets an attribute": "{% set messages.append = 1 %}",
    "recurses": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
}


def with_template(model: Path, template: str) -> Path:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return model


ATTACKS = [pytest.param(name, marks=[pytest.mark.slow] if at else []) for at, name in enumerate(TEMPLATES)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_template_of_a_base_ends_the_run_or_the_reply_with_a_sentence(
    service: Service, tmp_path: Path, dataset_file: Path, attack: str
) -> None:
    """A base is trusted; still its template runs in a sandbox, in another process than the app."""
    model = with_template(write_tiny_model(tmp_path / "model"), TEMPLATES[attack])
    run = service.submit(run_on(service, dataset_file, model))
    service.start()
    wait_for(lambda: service.run(run.id).has_ended, 200)
    (failed,) = of_kind(list(service.events(run.id)[0]), Failed)
    assert failed.title.startswith("Row 1: the model's chat template refused it"), failed.title
    with pytest.raises(UserError, match="chat template refused the conversation"):
        said(service, model, None)


def test_a_run_whose_template_never_ends_can_be_cancelled(service: Service, tmp_path: Path, dataset_file: Path) -> None:
    """There is no time limit for a template, which is a program of the base's author; the way out is Cancel."""
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = with_template(write_tiny_model(tmp_path / "model"), loops)
    run = service.submit(run_on(service, dataset_file, model))
    service.start()
    wait_for(lambda: any(getattr(event, "phase", "") == "tokenizing" for event in service.events(run.id)[0]), 120)
    service.cancel_run(run.id)
    wait_for(lambda: service.run(run.id).has_ended, 60)
    assert service.run(run.id).state == "cancelled"
