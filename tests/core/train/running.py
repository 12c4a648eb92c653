"""A run of the engine in a folder of its own, and what its events say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from core.adapters.inject import lora_layers
from core.adapters.peft_format import WEIGHTS_FILE
from core.config import RunConfig, parse
from core.data.records import Records
from core.events import Event, Note, StepDone
from core.models.load import LoadedModel
from core.train.loop import Subject
from core.train.methods import Trainables
from core.train.objective import PackedRows
from core.train.run import carry_out
from tests.core.tiny import LINEARS, conversation

COLORS = ["red", "green", "blue", "black", "white", "brown", "pink", "gray", "gold", "teal"]
RECORDS = [conversation(f"Color {i}?", f"It is {color}.", row=i + 1) for i, color in enumerate(COLORS)]


class Run:
    """A run in its own folder, which can be stopped at a step and carried out again."""

    def __init__(self, base: Path, folder: Path, records: Records = RECORDS, **parts: Any) -> None:
        optim = {"learning_rate": 1e-2, "steps": 8, "batch_size": 4, "evaluations": 4, "micro_tokens": 64}
        self.config: RunConfig = parse({
            "name": "a run",
            "base_model": str(base),
            "data": {"dataset_id": "none", "holdout": 0.2} | parts.get("data", {}),
            "lora": {"rank": 4, "alpha": 16, "targets": LINEARS} | parts.get("lora", {}),
            "quant": {"bits": 32} | parts.get("quant", {}),
            "optim": optim | parts.get("optim", {}),
            "samples": {"rows": 0} | parts.get("samples", {}),
            "seed": 3,
            **{name: parts[name] for name in ("method", "task") if name in parts},
        })  # fmt: skip
        self.folder, self.records = folder, records
        self.answer: str | None = None

    def events(self) -> Iterator[Event]:
        return carry_out(
            self.config,
            records=self.records,
            run_folder=self.folder,
            models_root=self.folder / "no models",
            stop=lambda: self.answer,
        )

    def carry_out(self, *, until_step: int | None = None, answer: str | None = None) -> list[Event]:
        """All events; after `until_step` the run is asked to stop with `answer`, or is gone at once if that is None."""
        seen = []
        for event in self.events():
            seen.append(event)
            if isinstance(event, StepDone) and event.step == until_step:
                if answer is None:
                    break
                self.answer = answer
        self.answer = None
        return seen

    @property
    def output(self) -> Path:
        return self.folder / "adapter"

    @property
    def adapter(self) -> dict[str, torch.Tensor]:
        return load_file(self.output / WEIGHTS_FILE)

    @property
    def model(self) -> dict[str, torch.Tensor]:
        """The weights that full fine-tuning left."""
        return load_file(self.output / "model.safetensors")

    @property
    def checkpoints(self) -> list[str]:
        folder = self.folder / "checkpoints"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


Make = Callable[..., Run]


def same_bits(one: Run, other: Run) -> bool:
    return same_tensors(one.adapter, other.adapter)


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def adapter_subject(loaded: LoadedModel) -> Subject:
    """What a loop trains where an adapter was put into `loaded` by hand."""
    trainables = Trainables(
        parameters={name: p for name, p in loaded.model.named_parameters() if p.requires_grad},
        modules=tuple(lora_layers(loaded.model)),
        suggested_rate=1e-3,
        rate_factors={},
        dropping=tuple(lora_layers(loaded.model).values()),
    )
    return Subject(loaded=loaded, trainables=trainables, objective=PackedRows(loaded))


def of_kind(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def notes(events: list[Event]) -> str:
    return " | ".join(note.text for note in of_kind(events, Note))
