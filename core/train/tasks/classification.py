"""Naming the class that a text belongs to: an encoder or decoder with a classification head.

The head is new in most base models and drawn from the run's seed; so every method trains it whole. The classes are
those of the records, held-out ones included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from core.config import RunConfig
from core.data.encoding import Encoding
from core.data.labeling import ClassRow, encode_labeled, label_names, require_labeled
from core.data.records import Record
from core.models.load import ClassHead, LoadedModel, load_model, position_limit
from core.train.objective import Objective
from core.train.tasks.task import Notes, cut_note, row_limit
from core.train.trial import check_classifier

NAMED = 12


class Classification:
    """See `core.train.tasks.task`."""

    def __init__(self, config: RunConfig, records: Sequence[Record]) -> None:
        self._config, self._records = config, require_labeled(records)
        self._head = ClassHead(labels=label_names(self._records), seed=config.seed)

    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> LoadedModel:
        return load_model(folder, dtype=dtype, quant=self._config.quant, device=device, head=self._head)

    def objective(self, loaded: LoadedModel) -> tuple[Objective, Notes]:
        notes: Notes = (f"{len(loaded.labels)} classes: {_listed(loaded.labels)}",)
        if loaded.new_weights:
            notes += (f"The base model has no head for them; these weights are new: {_listed(loaded.new_weights)}",)
        return check_classifier(loaded), notes

    def encode(self, loaded: LoadedModel) -> tuple[Encoding[ClassRow], Notes]:
        limit = row_limit(self._config, position_limit(loaded.model))
        encoding = encode_labeled(loaded.tokenizer, self._records, loaded.labels, limit)
        return encoding, cut_note(encoding, limit)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
