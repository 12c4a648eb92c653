"""A checkpoint opened as an adapter is what the run itself would have written there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from core.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE
from core.errors import RunError
from core.models.load import LoadedModel
from core.train.checkpoint import TENSORS_FILE
from core.train.opened import write_opened
from tests.core.tiny import tiny_llama
from tests.core.train.running import Make, Run, same_tensors

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "pissa": {"lora": {"init": "pissa"}},
    "eva": {"lora": {"init": "eva"}},
    "dora": {"lora": {"use_dora": True}},
    "tokens and template": {
        "data": {"template": "gemma"},
        "lora": {"new_tokens": ["<start_of_turn>", "<end_of_turn>"]},
    },
    "four bits": {"quant": {"bits": 4}},
}


def opened(run: Run, step: int, output: Path) -> int:
    checkpoint = run.folder / "checkpoints" / f"step-{step:08d}"
    models = run.folder / "no models"
    return write_opened(checkpoint, run.config, run_folder=run.folder, models_root=models, output=output)


@pytest.mark.parametrize("case", CASES)
def test_the_last_checkpoint_opened_is_the_runs_own_adapter(make: Make, tmp_path: Path, case: str) -> None:
    run = make(**CASES[case])
    run.carry_out()
    is_the_runs_own(run, tmp_path / "opened")


def is_the_runs_own(run: Run, output: Path) -> None:
    assert opened(run, 8, output) == 8
    assert same_tensors(load_file(output / WEIGHTS_FILE), run.adapter)
    for file in (CONFIG_FILE, "chat_template.jinja", "tokenizer.json"):
        ours, theirs = output / file, run.output / file
        assert ours.exists() == theirs.exists()
        assert not ours.exists() or ours.read_bytes() == theirs.read_bytes()


def test_trained_biases_are_opened_too(make: Make, plain: LoadedModel, tmp_path: Path) -> None:
    tiny_llama(attention_bias=True).save_pretrained(tmp_path / "biased")
    plain.tokenizer.save_pretrained(tmp_path / "biased")
    run = make(base=tmp_path / "biased", method="bitfit")
    run.carry_out()
    is_the_runs_own(run, tmp_path / "opened")


def test_an_earlier_checkpoint_is_the_adapter_of_a_run_that_was_stopped_there(make: Make, tmp_path: Path) -> None:
    run, stopped = make(), make("stopped")
    run.carry_out(until_step=6, answer="pause")
    stopped.carry_out(until_step=4, answer="keep")
    assert run.checkpoints == ["step-00000004", "step-00000006"]
    assert opened(run, 4, tmp_path / "opened") == 4
    assert same_tensors(load_file(tmp_path / "opened" / WEIGHTS_FILE), stopped.adapter)
    run.carry_out()  # and the run goes on as if nothing had been opened
    whole = make("whole")
    whole.carry_out()
    assert same_tensors(run.adapter, whole.adapter)


def test_a_damaged_checkpoint_is_refused_and_leaves_nothing(make: Make, tmp_path: Path) -> None:
    run = make()
    run.carry_out(until_step=4, answer="pause")
    file = run.folder / "checkpoints" / "step-00000004" / TENSORS_FILE
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match="step-00000004 is damaged"):
        opened(run, 4, tmp_path / "opened")
    assert not (tmp_path / "opened").exists()
