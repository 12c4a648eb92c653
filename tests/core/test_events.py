from __future__ import annotations

import json

import pytest

from core.events import EvalDone, Finished, Saved, Started, from_json, to_json

# Lines as runs wrote them before these events had a method, an accuracy and sizes.
OLD = {
    "started": {
        "steps": 8, "first_step": 1, "train_rows": 8, "eval_rows": 2, "tokens_per_epoch": 90, "bits": 16,
        "trained_tokens_per_epoch": 40, "trainable_parameters": 7, "base_parameters": 99, "adapted_modules": 2,
        "compute_dtype": "float32", "device": "cpu",
    },
    "eval": {"step": 3, "loss": 1.5},
    "saved": {"step": 3, "path": "step-00000003"},
    "finished": {
        "output": "adapter", "steps": 8, "tokens": 90, "seconds": 1.0, "tokens_per_second": 90.0,
        "peak_rss_bytes": 5, "first_loss": 2.0, "last_loss": 1.0, "eval_loss": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OLD)
def test_events_of_earlier_runs_are_still_read(kind: str) -> None:
    event = from_json(json.dumps({"event": kind, **OLD[kind]}))
    assert from_json(to_json(event)) == event
    if isinstance(event, Started):
        assert event.method == "lora"
    elif isinstance(event, EvalDone):
        assert event.accuracy is None and event.token_accuracy is None
    else:
        assert isinstance(event, Saved | Finished)
