from __future__ import annotations

import pytest
import torch

from core.adapters.inject import activate
from core.generate.decoder import Decoder
from core.generate.padded import PaddedBatch
from core.models.load import LoadedModel
from tests.core.generate.test_decoder import LANGUAGE_MODELS, LIMIT, words
from tests.core.parity.architectures import build
from tests.core.tiny import adapt


def loaded(architecture: str) -> LoadedModel:
    model = build(architecture)
    return LoadedModel(model=model, tokenizer=None, dtype=torch.float32, device=torch.device("cpu"), parameters=0)


@pytest.mark.parametrize("architecture", LANGUAGE_MODELS)
@torch.inference_mode()
def test_rows_of_other_lengths_get_the_logits_that_each_gets_alone(architecture: str) -> None:
    found = loaded(architecture)
    prompts = [words(11, 1), words(5, 2), words(8, 3)]
    decoder = Decoder(found, 0)
    rows = [decoder.read(prompt, None) for prompt in prompts]
    expected = [torch.stack([row.logits for row in rows]), decoder.write(rows, [7, 8, 9])]
    decoder.rest()
    batch = PaddedBatch(found, prompts)
    for logits, wanted in zip([batch.read(), batch.write([7, 8, 9])], expected, strict=True):
        assert (logits - wanted).norm() <= 10 * LIMIT * wanted.norm()


@torch.inference_mode()
def test_the_adapter_that_is_active_answers() -> None:
    found = loaded("llama")
    before = PaddedBatch(found, [words(6)]).read()
    adapt(found.model, key="a", alpha=40)
    activate(found.model, "a")
    assert not torch.allclose(PaddedBatch(found, [words(6)]).read(), before, atol=1e-2)
