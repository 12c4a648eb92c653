"""Tokens that a model did not have: they join the tokenizer and, where there is no room, the embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.models.load import LoadedModel


def add_tokens(loaded: LoadedModel, texts: Sequence[str]) -> tuple[int, ...]:
    """Let each of `texts`, all different, be one token of `loaded`, which is changed; returns their ids.

    A new token's embedding begins as the mean of what its text was read as before, and so does its row of the output
    head. A text that is one token already stays that token.
    """
    tokenizer = loaded.tokenizer
    pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    tokenizer.add_tokens(list(texts))
    ids = tuple(int(tokenizer.convert_tokens_to_ids(text)) for text in texts)
    grow(loaded.model, max(ids, default=-1) + 1)
    with torch.no_grad():
        for end in _ends(loaded.model):
            for token, parts in zip(ids, pieces, strict=True):
                if list(parts) != [token]:
                    end[token] = end[parts].float().mean(dim=0).to(end.dtype)
    return ids


def grow(model: torch.nn.Module, tokens: int) -> None:
    """Let `model` have an embedding, and logits, for at least `tokens` tokens; what was there stays."""
    if tokens > model.get_input_embeddings().weight.shape[0]:  # type: ignore[operator]
        model.resize_token_embeddings(tokens, mean_resizing=False)  # type: ignore[operator]
        model.requires_grad_(False)


def _ends(model: torch.nn.Module) -> list[torch.Tensor]:
    """The embedding's weight `[vocabulary, width]`, and the head's where it is another one."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    weights = [embedding.weight.data]
    if head is not None and head.weight is not embedding.weight:
        weights.append(head.weight.data)
    return weights
