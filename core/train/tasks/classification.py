"""Naming the class that a text belongs to: an encoder or decoder with a classification head.

The head is new in most base models and drawn from the run's seed; so every method trains it whole. The classes are
those of the records, held-out ones included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from core.config import RunConfig
from core.data.records import Records
from core.data.tokens.encoding import Encoding
from core.data.tokens.labeling import ClassRow, encode_labeled_gradually, label_names
from core.models.load import ClassHead, LoadedModel, load_model, position_limit
from core.train.objective import Objective
from core.train.tasks.task import Notes, cut_note, row_limit
from core.train.trial import check_classifier

NAMED = 12


class Classification:
    """See `core.train.tasks.task`."""

    def __init__(self, config: RunConfig, records: Records) -> None:
        self._config, self._records = config, records
        self._head = ClassHead(labels=label_names(records), seed=config.seed)

    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> LoadedModel:
        return load_model(folder, dtype=dtype, quant=self._config.quant, device=device, head=self._head)

    def objective(self, loaded: LoadedModel) -> tuple[Objective, Notes]:
        notes: Notes = (f"{len(loaded.labels)} classes: {_listed(loaded.labels)}",)
        if loaded.new_weights:
            notes += (f"The base model has no head for them; these weights are new: {_listed(loaded.new_weights)}",)
        return check_classifier(loaded), notes

    def encode(self, loaded: LoadedModel, scratch: Path) -> Iterator[Encoding[ClassRow]]:
        limit = row_limit(self._config, position_limit(loaded.model))
        return encode_labeled_gradually(loaded.tokenizer, self._records, loaded.labels, limit, scratch)

    def losses(self, encoding: Encoding[ClassRow]) -> Notes:
        return cut_note(encoding)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
