"""Going on with a conversation or a text: a causal language model, trained on the tokens that answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from core.config import RunConfig
from core.data.encoding import Encoding, Row, encode, ensure_template, require_unlabeled
from core.data.records import Record
from core.models.load import LoadedModel, load_model, position_limit
from core.train.objective import Objective
from core.train.tasks.task import Notes, cut_note, row_limit
from core.train.trial import choose_layout


class Chat:
    """See `core.train.tasks.task`."""

    def __init__(self, config: RunConfig, records: Sequence[Record]) -> None:
        self._config, self._records = config, require_unlabeled(records)

    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> LoadedModel:
        return load_model(folder, dtype=dtype, quant=self._config.quant, device=device)

    def objective(self, loaded: LoadedModel) -> tuple[Objective, Notes]:
        layout, note = choose_layout(loaded)
        return layout, (note,) if note else ()

    def encode(self, loaded: LoadedModel) -> tuple[Encoding[Row], Notes]:
        notes: Notes = ()
        if ensure_template(loaded.tokenizer):
            notes = ("The model has no chat template; a plain one is used (### User / ### Assistant)",)
        limit = row_limit(self._config, position_limit(loaded.model))
        encoding = encode(loaded.tokenizer, self._records, limit)
        notes += cut_note(encoding, limit)
        if lost := encoding.without_labels:
            notes += (f"{lost} rows keep nothing to train on within {limit} tokens and were left out",)
        return encoding, notes
