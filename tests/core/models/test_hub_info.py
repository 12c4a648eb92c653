"""The real client of the Hugging Face hub, asking a hub of our own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from core.models.fetch import needed_files
from core.models.hub_info import HubFacts, ask_hub
from tests.core.models.hub_stand_in import Hub, Model, hub

NAME = "owner/name"
FILES = {"config.json": b"{}", "model.safetensors": b"w" * 1000, "tokenizer.json": b"t" * 20, "README.md": b"r" * 500}
ABOUT: dict[str, Any] = {
    "safetensors": {"parameters": {"BF16": 135_000_000}, "total": 135_000_000},
    "config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "cardData": {"license": "apache-2.0"},
}


@pytest.fixture(autouse=True)
def without_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever token the machine has, tests have none."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub() as running:
        yield running


def ask(there: Hub, **model: Any) -> HubFacts:
    if model:
        there.models[NAME] = Model(**({"files": FILES, "about": ABOUT} | model))
    return ask_hub(NAME, endpoint=there.url)


def named(*names: str) -> dict[str, bytes]:
    return dict.fromkeys(names, b"x")


def test_a_public_model_tells_its_size_licence_parameters_and_architecture(there: Hub) -> None:
    facts = ask(there, files=FILES)
    assert facts == HubFacts(
        hub_id=NAME,
        url=f"{there.url}/{NAME}",
        parameters=135_000_000,
        download_bytes=len(FILES["config.json"] + FILES["model.safetensors"] + FILES["tokenizer.json"]),
        licence="apache-2.0",
        architecture="LlamaForCausalLM",
    )
    assert there.tokens == [None]


def test_the_size_is_of_what_is_downloaded_alone() -> None:
    """The same weights in other layouts, folders and precisions are left where they are."""
    names = [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.model",
        "model.safetensors.index.json", "chat_template.jinja", "consolidated.00.safetensors", "pytorch_model.bin",
        "original/model.safetensors", "model.fp16.safetensors", "model.gguf", "README.md", "onnx/config.json",
    ]  # fmt: skip
    assert needed_files(names) == names[:6]


@pytest.mark.parametrize(
    ("about", "licence"),
    [
        ({"cardData": {"license": "other", "license_name": "gemma-terms"}}, "gemma-terms"),
        ({"cardData": {"license": ["mit", "apache-2.0"]}}, "mit"),
        ({"cardData": None, "tags": ["license:mit", "region:us"]}, "mit"),
        ({"cardData": None}, ""),
    ],
)
def test_a_licence_is_found_wherever_it_stands(there: Hub, about: dict[str, Any], licence: str) -> None:
    assert ask(there, about=ABOUT | about).licence == licence


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_where_to_accept_and_where_the_token_goes(there: Hub, status: int) -> None:
    facts = ask(there, about=ABOUT | {"gated": "manual"}, access=status)
    assert facts.is_gated and facts.problem is not None and facts.parameters == 135_000_000
    assert "owner/name is gated" in facts.problem.title
    assert f"Accept it at {there.url}/{NAME}" in facts.problem.hint and "HF_TOKEN" in facts.problem.hint


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_that_says_nothing_of_itself_is_told_as_such_too(there: Hub, status: int) -> None:
    facts = ask(there, status=status, code="GatedRepo")
    assert facts.is_gated and facts.problem is not None and "gated" in facts.problem.title


def test_a_token_without_access_is_told_apart_from_none(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    facts = ask(there, about=ABOUT | {"gated": "auto"}, access=403)
    assert facts.problem is not None and "belongs to an account that has no access" in facts.problem.detail
    assert there.tokens[-1] == "Bearer hf_" + "x" * 34
    assert ask(there, about=ABOUT | {"gated": "auto"}, access=200).problem is None


@pytest.mark.parametrize(("status", "code"), [(404, "RepoNotFound"), (401, "")])
def test_a_model_that_is_not_there_says_what_to_check(there: Hub, status: int, code: str) -> None:
    facts = ask(there, status=status, code=code)
    assert facts.is_known and not facts.is_gated and facts.problem is not None
    assert f"no model {NAME}, or it is private" in facts.problem.title and "HF_TOKEN" in facts.problem.hint


def test_a_token_that_is_not_valid_any_more_is_told_as_such(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    facts = ask(there, status=401)
    assert facts.problem is not None and "does not accept the token" in facts.problem.title


def test_a_closed_port_is_a_remark_and_no_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
        facts = ask_hub(NAME, endpoint=nobody)
    assert (facts.is_known, facts.problem) == (False, None)
    assert facts.remark == "The hub cannot be reached; size and licence are not known"


def test_a_slow_hub_is_waited_for_no_longer_than_said(there: Hub) -> None:
    there.models[NAME] = Model(files=FILES, about=ABOUT)
    there.wait.clear()
    began = time.monotonic()
    facts = ask_hub(NAME, endpoint=there.url, wait_seconds=0.5)
    assert time.monotonic() - began < 5
    assert not facts.is_known and facts.problem is None and "within 0.5 seconds" in facts.remark


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_of_the_hubs_own_is_a_remark_with_its_number(there: Hub, status: int) -> None:
    facts = ask(there, status=status)
    assert not facts.is_known and f"({status})" in facts.remark


@pytest.mark.parametrize("about", [{"siblings": [{}]}, {"siblings": 3}, {"safetensors": {"total": 1}}])
def test_an_answer_that_is_none_is_a_remark(there: Hub, about: dict[str, Any]) -> None:
    facts = ask(there, about=about)
    assert facts.problem is not None or not facts.is_known


@pytest.mark.parametrize(
    ("files", "title", "hint"),
    [
        (named("model.Q4_K_M.gguf", "config.json"), "GGUF files only", "Choose big/model, which it was made from"),
        (named("adapter_config.json", "adapter_model.safetensors"), "is a LoRA adapter", "Choose big/model"),
        (named("config.json", "pytorch_model.bin"), "pickled weights only", "such as big/model"),
        (named("model_index.json", "unet/model.safetensors"), "diffusion pipeline", "language model"),
        (named("config.json", "consolidated.safetensors"), "no model that can be loaded", "another"),
        (named("model.safetensors"), "no model that can be loaded", "another"),
        ({}, "no model that can be loaded", "another"),
    ],
)
def test_what_the_engine_could_not_load_is_told_with_a_way_out(
    there: Hub, files: dict[str, bytes], title: str, hint: str
) -> None:
    facts = ask(there, files=files, about={"cardData": {"base_model": ["big/model"]}})
    assert facts.problem is not None
    assert title in facts.problem.title and hint in facts.problem.hint


@pytest.mark.parametrize(
    ("about", "words"),
    [({"config": {"quantization_config": {"quant_method": "gptq"}}}, "gptq"), ({"tags": ["custom_code"]}, "own code")],
)
def test_what_might_be_in_the_way_is_a_remark(there: Hub, about: dict[str, Any], words: str) -> None:
    facts = ask(there, about=about)
    assert facts.problem is None and words.split()[-1] in facts.remark


PROGRAM = """
from pathlib import Path
from core.models.fetch import ensure_model
from core.models.hub_info import ask_hub
facts = ask_hub("owner/name")
print(facts.is_known, facts.remark)
if facts.is_known:
    folder = ensure_model("owner/name", Path("/nowhere"), lambda words: None)
    print(sorted(path.name for path in folder.rglob("*") if path.is_file()), facts.download_bytes)
    print(sum(path.stat().st_size for path in folder.rglob("*")))
"""


def run_with(tmp_path: Path, **environment: str) -> list[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()


def test_the_environments_hub_is_asked_and_what_comes_is_as_large_as_it_said(there: Hub, tmp_path: Path) -> None:
    extra = {"original/model.safetensors": b"o" * 4000, "consolidated.safetensors": b"c" * 4000}
    there.models[NAME] = Model(files=FILES | extra, about=ABOUT)
    said = run_with(tmp_path, HF_ENDPOINT=there.url)
    size = len(FILES["config.json"] + FILES["model.safetensors"] + FILES["tokenizer.json"])
    assert said[0].strip() == "True"
    assert said[1:] == [f"['config.json', 'model.safetensors', 'tokenizer.json'] {size}", str(size)]


def test_the_hub_is_not_asked_where_the_environment_forbids_it(there: Hub, tmp_path: Path) -> None:
    there.models[NAME] = Model(files=FILES, about=ABOUT)
    said = run_with(tmp_path, HF_ENDPOINT=there.url, HF_HUB_OFFLINE="1")
    assert said == ["False HF_HUB_OFFLINE is set, so the hub is not asked; size and licence are not known"]
    assert there.asked == []
