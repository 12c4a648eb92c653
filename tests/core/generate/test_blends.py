"""Strengths and blends of adapters as panes: compared with peft's own, and with what the base says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.adapters.peft_format import save_adapter
from core.config import LoraConfig
from core.data.records import Message
from core.generate.chat import ChatModel
from core.generate.requests import Blend, PaneRequest, Sampling
from core.models.load import LoadedModel
from tests.core.tiny import adapt

ASKED = (Message(role="user", content="Tell me what the sea looked like on that morning."),)
TOLERANCE = 2e-4  # of logits around 20, fp32


@pytest.fixture(scope="module")
def adapters(pristine: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of other ranks and layers."""
    folders = []
    for name, rank, targets in (("one", 3, ("q_proj", "down_proj")), ("two", 6, ("v_proj", "up_proj", "down_proj"))):
        model = copy.deepcopy(pristine.model)
        config: LoraConfig = adapt(model, rank=rank, alpha=4, targets=targets, seed=rank)
        folders.append(tmp_path_factory.mktemp("adapters") / name)
        save_adapter(model, "a", folders[-1], config, "tiny")
    return folders


@pytest.fixture(scope="module")
def chat(tiny_folder: Path) -> ChatModel:
    return ChatModel(tiny_folder, bits=32)


@pytest.fixture(scope="module")
def keys(chat: ChatModel, adapters: list[Path]) -> list[str]:
    return [chat.load_adapter(folder) for folder in adapters]


@pytest.fixture(scope="module")
def theirs(tiny_folder: Path, adapters: list[Path]) -> Any:
    """peft's model with both adapters."""
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    model: Any = PeftModel.from_pretrained(base, adapters[0], adapter_name="one")
    model.load_adapter(adapters[1], adapter_name="two")
    return model


def logits(chat: ChatModel, routes: Sequence[str | Blend | None], keeps: bool = True) -> Tensor:
    """`[rows, vocab]` behind the question, and behind two more tokens, added up along the way."""
    prompt = chat._tokenize(PaneRequest(adapter=None, messages=ASKED))
    decoder = chat.decoder
    with torch.inference_mode():
        rows = [decoder.read(prompt, route, keeps) for route in routes]
        found = [torch.stack([row.logits for row in rows])]
        for token in (17, 4711):
            found.append(decoder.write(rows, [token] * len(routes)))
        for row in rows:
            decoder.keep(row)
        decoder.rest()
    return torch.stack(found, dim=1)


def expected(chat: ChatModel, model: Any) -> Tensor:
    prompt = chat._tokenize(PaneRequest(adapter=None, messages=ASKED))
    with torch.inference_mode():
        result: Tensor = model(input_ids=torch.tensor([[*prompt, 17, 4711]]), use_cache=False).logits[0, -3:]
    return result


@pytest.mark.parametrize("strength", [-1.0, -0.3, 0.5, 1.0, 2.0])
def test_a_strength_is_that_of_pefts_set_scale(chat: ChatModel, keys: list[str], theirs: Any, strength: float) -> None:
    theirs.set_adapter("one")
    layers = [module for module in theirs.modules() if hasattr(module, "set_scale")]
    try:
        for layer in layers:
            layer.set_scale("one", strength)
        wanted = expected(chat, theirs)
    finally:
        for layer in layers:
            layer.set_scale("one", 1.0)
    found = logits(chat, [((keys[0], strength),), None])
    assert (found[0] - wanted).abs().max() < TOLERANCE
    assert (found[1] - wanted).abs().max() > 0.1


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.7, -0.6), (1.0, 1.0)])
def test_a_blend_is_pefts_concatenation(
    chat: ChatModel, keys: list[str], theirs: Any, weights: tuple[float, float]
) -> None:
    name = f"blend {weights}".replace(".", "_")
    theirs.add_weighted_adapter(["one", "two"], list(weights), name, combination_type="cat")
    theirs.set_adapter(name)
    wanted = expected(chat, theirs)
    blend = tuple(zip(keys, weights, strict=True))
    alone, beside = logits(chat, [blend]), logits(chat, [None, blend, keys[1]])
    assert (alone[0] - wanted).abs().max() < TOLERANCE
    assert (beside[1] - wanted).abs().max() < TOLERANCE


def test_strength_zero_is_the_base_and_one_the_adapter_to_the_last_bit(chat: ChatModel, keys: list[str]) -> None:
    routes: list[str | Blend | None] = [None, ((keys[0], 0.0), (keys[1], 0.0)), keys[1], ((keys[1], 1.0),)]
    base, none, adapter, whole = logits(chat, routes, keeps=False)
    assert torch.equal(none, base) and torch.equal(whole, adapter) and not torch.equal(adapter, base)


def test_what_is_kept_of_one_strength_serves_no_other(chat: ChatModel, keys: list[str]) -> None:
    """The same conversation, again and again, on a model that keeps keys and values and on one that does not."""
    afresh = copy.copy(chat)
    afresh.decoder = copy.copy(chat.decoder)
    afresh.decoder.kept = type(chat.decoder.kept)(0)
    routes: list[str | Blend | None] = [
        keys[0],
        ((keys[0], 0.5),),
        ((keys[0], -1.0),),
        ((keys[0], 0.5), (keys[1], 1.0)),
    ]
    for route in [*routes, *routes]:
        assert (logits(chat, [route]) - logits(afresh, [route])).abs().max() < TOLERANCE, route
    assert chat.decoder.kept.bytes > 0
    chat.decoder.keep(chat.decoder.read([5, 6, 7, 8], ((keys[0], 0.25),)))
    for route, unread in ((((keys[0], 0.25),), 1), (((keys[0], 0.26),), 4), (None, 4), (keys[0], 4)):
        assert chat.decoder.read([5, 6, 7, 8], route).unread == unread, route
    chat.decoder.rest()


def test_panes_of_every_strength_answer_together_as_alone(chat: ChatModel, keys: list[str]) -> None:
    routes: list[str | Blend | None] = [
        None,
        keys[0],
        ((keys[0], -1.0),),
        ((keys[0], 2.0),),
        ((keys[0], 0.5), (keys[1], 0.5)),
    ]
    panes = [PaneRequest(adapter=route, messages=ASKED, sampling=Sampling(max_new_tokens=12)) for route in routes]

    def answers(asked: Sequence[PaneRequest]) -> list[str]:
        said = [""] * len(asked)
        for delta in chat.reply(asked, lambda: False):
            said[delta.pane] += delta.text
        return said

    together = answers(panes)
    assert together == [answers([pane])[0] for pane in panes]
    assert len(set(together)) == len(together)


def test_a_blend_follows_the_template_of_its_strongest_adapter(
    chat: ChatModel, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% for message in messages %}SPOKEN {{ message['content'] }}{% endfor %}"
    monkeypatch.setitem(chat._templates, keys[1], template)
    asked = PaneRequest(adapter=((keys[0], 0.4), (keys[1], -0.6)), messages=ASKED)
    assert chat.loaded.tokenizer.decode(chat._tokenize(asked)) == f"SPOKEN {ASKED[0].content}"
    weaker = replace(asked, adapter=((keys[0], 0.7), (keys[1], -0.6)))
    assert chat._tokenize(weaker) == chat._tokenize(PaneRequest(adapter=None, messages=ASKED))
