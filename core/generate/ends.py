"""Where an answer ends."""

from __future__ import annotations

from typing import Any

from core.models.load import LoadedModel


def end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model's generation settings name."""
    settings: Any = loaded.model.generation_config.eos_token_id
    named = settings if isinstance(settings, list) else [settings]
    return frozenset(token for token in [*named, loaded.tokenizer.eos_token_id] if token is not None)
