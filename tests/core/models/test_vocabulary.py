"""New tokens: one id each, beginning as the mean of what they were read as."""

from __future__ import annotations

import torch

from core.models.load import LoadedModel
from core.models.vocabulary import add_tokens, grow


def test_a_new_token_is_one_id_and_begins_as_the_mean_of_its_pieces(plain: LoadedModel) -> None:
    embedding = plain.model.get_input_embeddings().weight.detach().clone()
    pieces = plain.tokenizer("<ahoy>", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    (token,) = add_tokens(plain, ["<ahoy>"])
    assert plain.tokenizer("<ahoy>", add_special_tokens=False)["input_ids"] == [token]
    grown = plain.model.get_input_embeddings().weight
    assert torch.equal(grown[: len(embedding)], embedding)
    assert torch.allclose(grown[token], embedding[pieces].mean(dim=0))
    assert plain.model.get_output_embeddings().weight is grown  # tied they were and tied they stay
    assert not any(parameter.requires_grad for parameter in plain.model.parameters())


def test_a_token_that_is_there_keeps_its_embedding(plain: LoadedModel) -> None:
    (known,) = plain.tokenizer("hello", add_special_tokens=False)["input_ids"]
    before = plain.model.get_input_embeddings().weight.detach().clone()
    assert add_tokens(plain, ["hello"]) == (known,)
    assert torch.equal(plain.model.get_input_embeddings().weight, before)


def test_growing_to_what_is_there_changes_nothing(plain: LoadedModel) -> None:
    weight = plain.model.get_input_embeddings().weight
    grow(plain.model, len(weight))
    assert plain.model.get_input_embeddings().weight is weight
