"""Classification for real: a pretrained encoder learns to tell complaints, questions and praise apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.reading import read_dataset
from core.events import EvalDone, Finished, Started
from core.models.catalogue import default_models_root
from tests.core.train.running import Make, of_kind
from tests.minilm import ensure_minilm

REQUESTS = Path(__file__).parents[2] / "data" / "requests.jsonl"


@pytest.fixture(scope="module")
def minilm() -> Path:
    return ensure_minilm(default_models_root())


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_a_pretrained_encoder_learns_three_classes_of_requests(make: Make, minilm: Path, method: str) -> None:
    """A third of the rows is held out; guessing would name a third of them right."""
    records = read_dataset(REQUESTS).records
    assert len(records) == 99
    optim = {"steps": 60, "batch_size": 16, "evaluations": 1, "micro_tokens": 1024, "learning_rate": None}
    run = make(
        base=minilm, records=records, task="classification", method=method, optim=optim, data={"holdout": 0.33},
        lora={"targets": ("auto",), "rank": 8},
    )  # fmt: skip
    events = run.carry_out()
    before, after = of_kind(events, EvalDone)
    assert of_kind(events, Started)[0].eval_rows == 32
    assert before.accuracy < 0.6 and after.accuracy > 0.85
    assert of_kind(events, Finished)[0].eval_loss < 0.5 * before.loss
