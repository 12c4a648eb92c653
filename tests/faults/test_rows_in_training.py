"""FAULTS.md, rows 15, 25, 28 and 30: rows that a run can hardly learn from, through the real worker and engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from core.adapters.inject import activate
from core.adapters.peft_format import load_adapter
from core.data.records import Passage
from core.data.tokens.batching import pad
from core.data.tokens.encoding import IGNORE, encode
from core.data.tokens.splits import hold_out
from core.events import Failed, Finished, Started, StepDone
from core.models.load import load_model
from jobs.service import Service
from tests.core.tiny import VOCABULARY, conversation, plain_logits, tiny_llama
from tests.core.train.running import Run as EngineRun
from tests.core.train.running import notes, of_kind
from tests.faults.running import carried_out, keep, lines

# ---- 15: one row


def test_one_row_is_trained_on_without_evaluation_and_the_run_says_so(
    working: Service, tiny_model: Path, tmp_path: Path
) -> None:
    file = keep(tmp_path, "one.jsonl", lines([{"prompt": "Who?", "completion": "Me."}]))
    run, events = carried_out(working, file, tiny_model)
    (finished,) = of_kind(events, Finished)
    (started,) = of_kind(events, Started)
    assert run.state == "finished" and run.adapter_id and (started.train_rows, started.eval_rows) == (1, 0)
    assert finished.eval_loss is None and finished.base_eval_loss is None
    assert "Too few rows that differ to hold any back: there is no evaluation loss" in notes(events)


# ---- 25: duplicates


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_counted_and_never_on_both_sides_of_the_split(starter_folder: Path, seed: int) -> None:
    """Real rows, through the real tokenizer and into the file that training reads."""
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    records = [conversation(f"What is {i % 20}?", f"It is {i % 20}.", row=i + 1) for i in range(60)]
    rows = encode(tokenizer, records, 1000).rows
    train, held, copies = hold_out(rows, 0.25, seed)
    assert len(rows) == 60 and copies == 40 and (len(train), len(held)) == (45, 15)
    assert not {tuple(row.tokens) for row in train} & {tuple(row.tokens) for row in held}


def test_a_run_tells_how_many_rows_are_copies(working: Service, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i % 6}?", "completion": f"It is {i % 6}."} for i in range(18)]
    _, events = carried_out(working, keep(tmp_path, "copies.jsonl", lines(rows)), tiny_model, holdout=0.5)
    (started,) = of_kind(events, Started)
    assert (started.train_rows, started.eval_rows) == (9, 9)
    assert "12 rows are copies of others" in notes(events)


def test_rows_that_differ_are_no_copies(starter_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    passages = [Passage(text=f"The number {i} is {i * i}.", source_row=i + 1) for i in range(20_000)]
    assert hold_out(encode(tokenizer, passages, 1000).rows, 0.5, 0).copies == 0


# ---- 28: no token to fill up with


@pytest.mark.parametrize("padding", [None, "the end"])
@pytest.mark.parametrize("kind", ["llama", "gptj"])
def test_without_a_padding_token_the_end_is_still_learned_and_filling_is_not(
    starter_folder: Path, tmp_path: Path, kind: str, padding: str | None
) -> None:
    """Packed rows (Llama) are filled up with nothing; padded ones (GPT-J) with a token that no label is ever asked of,
    be it the end token itself.
    """
    base, tokenizer = tmp_path / "base", AutoTokenizer.from_pretrained(starter_folder)
    tokenizer.pad_token = None if padding is None else tokenizer.eos_token
    gptj = {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 128, "vocab_size": VOCABULARY,
            "initializer_range": 0.1}  # fmt: skip
    model = tiny_llama() if kind == "llama" else AutoModelForCausalLM.from_config(CONFIG_MAPPING["gptj"](**gptj))
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    end = tokenizer.eos_token_id
    assert (AutoTokenizer.from_pretrained(base).pad_token_id == end) == (padding is not None)

    records = [conversation("Short?", "Yes.", row=1), conversation("Long?", "No, it is a longer answer.", row=2)]
    settings: dict[str, Any] = {"learning_rate": 2e-2, "steps": 40, "batch_size": 2, "evaluations": 1}
    targets = ("all-linear",) if kind == "llama" else ("all-linear", "lm_head")
    run = EngineRun(base, tmp_path / "run", records, data={"holdout": 0}, optim=settings, lora={"targets": targets})
    (finished,) = of_kind(list(run.events()), Finished)
    assert finished.last_loss < 0.3 * finished.first_loss

    loaded = load_model(base, dtype=torch.float32)
    activate(loaded.model, load_adapter(loaded.model, run.output))
    for row in encode(tokenizer, records, 1000).rows:
        assert row.labels[-2:].count(end) == 1, "the answer ends with the end token, and that has a label"
        place = max(at for at, label in enumerate(row.labels) if label == end)
        assert int(plain_logits(loaded.model, row.tokens)[place].argmax()) == end, "the end was learned"


def test_filling_has_no_label_though_it_is_the_end_token(starter_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    records = [conversation("Short?", "Yes."), conversation("Long?", "No, it is a longer answer.")]
    rows = list(encode(tokenizer, records, 1000).rows)
    batch = pad(rows, torch.device("cpu"), tokenizer.eos_token_id)
    assert batch.labeled[batch.mask == 0].sum() == 0 and (batch.mask == 0).sum() > 0
    assert batch.labels.tolist() == [label for row in rows for label in row.labels if label != IGNORE]
    assert (batch.labels == tokenizer.eos_token_id).sum() == 2


# ---- 30: nothing to learn


def test_rows_whose_labels_are_all_cut_off_end_the_run_before_anything_is_trained(
    working: Service, tiny_model: Path, tmp_path: Path
) -> None:
    """Only the tokenizer can tell, so the worker does, in a sentence, before its first step."""
    rows = [{"prompt": f"{i}: " + "word " * 40, "completion": "Never reached."} for i in range(4)]
    run, events = carried_out(working, keep(tmp_path, "long.jsonl", lines(rows)), tiny_model, max_tokens=32)
    assert run.state == "failed" and not of_kind(events, Started) and not of_kind(events, StepDone)
    (failed,) = of_kind(events, Failed)
    assert failed.title == "No row keeps anything to train on within 32 tokens"
    assert failed.hint == "Raise the token limit, or shorten the prompts"
    folder = working.home / "runs" / run.id
    assert not (folder / "checkpoints").exists() and not (folder / "adapter").exists()
