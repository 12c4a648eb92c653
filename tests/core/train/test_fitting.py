"""What happens where memory is short: really short, in a process that the system gives no more to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.adapters.inject import activate, inject
from core.config import parse
from core.data.tokens.encoding import Row
from core.models.load import LoadedModel
from core.train import memory
from core.train.loop import Loop
from core.train.memory import available_bytes, is_out_of_memory
from core.train.objective import PackedRows
from tests.core.tiny import LINEARS, random_rows
from tests.core.train.running import adapter_subject

PROJECT = Path(__file__).parents[3]


def train(folder: Path, megabytes: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    """What was said and what was trained by a process with so much memory."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.core.train.short_of_memory", str(folder), str(megabytes)]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=200)
    return json.loads((folder / "said.json").read_text()), load_file(folder / "trained.safetensors")


def test_a_batch_that_does_not_fit_is_halved_and_the_result_stays_the_same(tmp_path: Path) -> None:
    said, expected = train(tmp_path / "enough", 0)
    assert said == []
    said, trained = train(tmp_path / "short", 300)
    assert 1 <= len(said) <= 3
    assert said[0].startswith("There is not enough memory for 4,096 tokens at once: from here on it is 2,048")
    for name, tensor in expected.items():
        assert (trained[name] - tensor).norm() <= 1e-3 * tensor.norm(), name


def test_a_row_that_does_not_fit_alone_ends_the_run_with_what_to_do(tmp_path: Path) -> None:
    said, _ = train(tmp_path / "none", 20)
    (sentence,) = said
    assert sentence.startswith("There is not enough memory for") and "turn gradient checkpointing on" in sentence


class Watched(PackedRows):
    """Packed rows that remember which groups went through the model."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        self.seen: list[list[int]] = []

    def outcome(self, rows: Sequence[Row]) -> Any:
        self.seen.append([len(row.tokens) for row in rows])
        return super().outcome(rows)


@pytest.fixture
def loop(tiny: LoadedModel, tmp_path: Path) -> Iterator[tuple[Loop, Watched]]:
    optim = {"steps": 3, "batch_size": 3, "micro_tokens": 64, "learning_rate": 1e-2, "evaluations": 1}
    config = parse({"name": "loop", "data": {"dataset_id": "none"}, "lora": {"targets": LINEARS}, "optim": optim})
    inject(tiny.model, config.lora, key="a", seed=0)
    activate(tiny.model, "a")
    subject, watched = adapter_subject(tiny), Watched(tiny)
    object.__setattr__(subject, "objective", watched)
    rows = random_rows([9, 30, 12, 33, 25, 8, 21])
    yield Loop(subject, config, rows, [], tmp_path / "checkpoints", lambda: None), watched


def test_the_longest_batch_is_tried_before_the_first_step_and_leaves_no_gradient(loop: tuple[Loop, Watched]) -> None:
    running, watched = loop
    running._rehearse()
    assert watched.seen == [[33, 30]]
    assert all(parameter.grad is None for parameter in running.parameters.values())


def test_a_retry_draws_as_if_nothing_had_been_tried_and_a_resumed_run_keeps_what_fits(
    loop: tuple[Loop, Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, watched = loop
    running._rehearse()
    states: list[torch.Tensor] = []
    outcome, failures = watched.outcome, iter([False, True])

    def draws(rows: Sequence[Row]) -> Any:
        states.append(torch.get_rng_state())
        torch.rand(7)
        if next(failures, False):
            raise MemoryError
        return outcome(rows)

    monkeypatch.setattr(watched, "outcome", draws)
    running.micro_tokens = 40
    running._step()
    assert len(running.halvings) == 1 and running.micro_tokens < 40
    assert torch.equal(states[0], states[2]) and not torch.equal(states[0], states[1])
    running.save()
    resumed = Loop(running.subject, running.config, running.train_rows, [], running.checkpoints, lambda: None)
    list(resumed.resume())
    assert (resumed.steps_done, resumed.micro_tokens) == (1, running.micro_tokens)


def test_an_evaluation_that_does_not_fit_is_halved_too(
    loop: tuple[Loop, Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, watched = loop
    running.eval_rows = random_rows([30, 30])
    (expected,) = running._evaluate()
    outcome = watched.outcome

    def short(rows: Sequence[Row]) -> Any:
        if len(rows) > 1:
            raise MemoryError
        return outcome(rows)

    monkeypatch.setattr(watched, "outcome", short)
    (found,) = running._evaluate()
    assert len(running.halvings) == 1 and found.loss == pytest.approx(expected.loss)


def test_any_other_error_is_handed_on(loop: tuple[Loop, Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    running, watched = loop

    def broken(rows: Sequence[Row]) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(watched, "outcome", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        list(running.run())


def test_what_torch_says_of_a_tensor_too_large_is_known_for_what_it_is() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_containers_cached_files_count_as_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("4000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    assert available_bytes() == 1_000_000
    (tmp_path / "memory.stat").write_text("anon 900000\ninactive_file 1500000\nactive_file 10\n")
    assert available_bytes() == 2_500_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process be given no more memory")
def test_a_capped_process_is_refused_what_there_is_not_and_gets_what_there_is() -> None:
    program = (
        "import torch; from core.train.memory import available_bytes, cap_memory, is_out_of_memory\n"
        "cap_memory(); torch.empty(available_bytes() // 2, dtype=torch.uint8)\n"
        "try: torch.empty(available_bytes() + 2**30, dtype=torch.uint8)\n"
        "except RuntimeError as error: assert is_out_of_memory(error), error\n"
        "else: raise SystemExit('more than there is')"
    )
    assert available_bytes() > 0
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True, timeout=100)
