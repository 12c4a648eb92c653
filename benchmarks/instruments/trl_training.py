"""A few optimizer steps of TRL's SFTTrainer on a peft adapter, timed one by one: a side of `benchmarks.training`.

    python -m benchmarks.instruments.trl_training ORDER

The order says where the rows with tokens and labels, the fresh adapter and the base are (`starting_point`), and which
settings differ from TRL's own. What is timed is an optimizer step as the trainer's callbacks bound it: from
`on_step_begin`, when the batch is already there, to `on_step_end`, after the optimizer. Real tokens are counted where
the trainer hands a batch to the model; filling is none.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.instruments.process import answer, order


class Account(TrainerCallback):
    """What each optimizer step took and did; with gradient accumulation it has several batches."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.losses: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        for sums in (self.tokens, self.positions, self.losses):
            sums.append(0)
        self._begin = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.monotonic() - self._begin)

    def enter(self, inputs: dict[str, Any], loss: float) -> None:
        """Take one batch down; its loss is its share of the step's."""
        mask, positions = inputs.get("attention_mask"), inputs["input_ids"].numel()
        self.positions[-1] += positions
        self.tokens[-1] += positions if mask is None else int(mask.sum())
        self.losses[-1] += loss


class AccountingTrainer(SFTTrainer):
    """Keeps an account of its batches."""

    def __init__(self, account: Account, **given: Any) -> None:
        self._account = account
        super().__init__(callbacks=[account], **given)

    def training_step(self, model: Any, inputs: dict[str, Any], *others: Any, **more: Any) -> Any:
        taken = dict(inputs)  # the trainer adds to them
        loss = super().training_step(model, inputs, *others, **more)
        self._account.enter(taken, float(loss))
        return loss


def adapted(folder: Path, model: str, options: dict[str, Any], adapter_dtype: str) -> Any:
    """The base with the fresh adapter of `folder`, trained; A and B in fp32, as peft has it, or in the base's dtype."""
    options = {"dtype": "float32", **options}
    base = AutoModelForCausalLM.from_pretrained(model, **{**options, "dtype": getattr(torch, options["dtype"])})
    return PeftModel.from_pretrained(
        base, folder / "adapter", is_trainable=True, autocast_adapter_dtype=adapter_dtype == "float32"
    )


def train(given: dict[str, Any]) -> dict[str, Any]:
    """The steps' seconds, tokens and losses."""
    folder, setting = Path(given["folder"]), given["setting"]
    rows = [json.loads(line) for line in (folder / "tokens.jsonl").read_text(encoding="utf-8").splitlines()]
    settings = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": given["rows_at_once"],
        "gradient_accumulation_steps": setting["batches"],
        "max_steps": given["steps"],
        "learning_rate": given["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **setting["trainer"],
    }
    account = Account()
    trainer = AccountingTrainer(
        account,
        model=adapted(folder, given["model"], setting["model"], setting["adapter_dtype"]),
        args=SFTConfig(**settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(given["model"]),
    )
    trainer.train()
    names = ("seconds", "tokens", "positions", "losses")
    return {name: getattr(account, name) for name in names}


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # advice on settings, which are what is compared here
    answer(train(order()))
