"""Going on with a conversation or a text: a causal language model, trained on the tokens that answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from core.config import RunConfig
from core.data.records import Records
from core.data.tokens.encoding import Encoding, Row, encode_gradually, require_unlabeled
from core.data.tokens.templates import choose_template
from core.models.load import LoadedModel, load_model, position_limit
from core.train.objective import Objective
from core.train.tasks.task import Notes, cut_note, row_limit
from core.train.trial import choose_layout


class Chat:
    """See `core.train.tasks.task`."""

    def __init__(self, config: RunConfig, records: Records) -> None:
        self._config, self._records = config, records
        for record in records:
            require_unlabeled(record)

    def load(self, folder: Path, dtype: torch.dtype, device: torch.device) -> LoadedModel:
        return load_model(folder, dtype=dtype, quant=self._config.quant, device=device)

    def objective(self, loaded: LoadedModel) -> tuple[Objective, Notes]:
        layout, note = choose_layout(loaded)
        notes: Notes = (note,) if note else ()
        return layout, notes + choose_template(loaded.tokenizer, self._config.data.template)

    def encode(self, loaded: LoadedModel, scratch: Path) -> Iterator[Encoding[Row]]:
        limit = row_limit(self._config, position_limit(loaded.model))
        return encode_gradually(loaded.tokenizer, self._records, limit, scratch, self._config.data.train_on)

    def losses(self, encoding: Encoding[Row]) -> Notes:
        lost = encoding.without_labels
        if not lost:
            return cut_note(encoding)
        limit = encoding.max_tokens
        return *cut_note(encoding), f"{lost} rows keep nothing to train on within {limit} tokens and were left out"
