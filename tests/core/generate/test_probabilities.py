"""What a pane tells of its tokens: compared with a plain forward pass of transformers' model, adapted by peft."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.adapters.peft_format import save_adapter
from core.data.records import Message
from core.generate.chat import ChatModel
from core.generate.requests import Delta, PaneRequest, Sampling, TokenProbability, delta_of
from core.models.load import LoadedModel
from tests.core.tiny import adapt

ASKED = (Message(role="user", content="Tell me what the sea looked like on that morning."),)
HOT = Sampling(max_new_tokens=9, temperature=1.5, top_k=50, repetition_penalty=1.2, seed=4)


@pytest.fixture(scope="module")
def adapter(pristine: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = copy.deepcopy(pristine.model)
    config = adapt(model, rank=3, alpha=4, targets=("q_proj", "down_proj"), seed=3)
    folder = tmp_path_factory.mktemp("adapters") / "one"
    save_adapter(model, "a", folder, config, "tiny")
    return folder


@pytest.fixture(scope="module")
def chat(tiny_folder: Path) -> ChatModel:
    return ChatModel(tiny_folder, bits=32)


def likelihoods(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> Tensor:
    """`[answer, vocab]`, the obvious way."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    found: Tensor = logits[len(prompt) - 1 : -1].double().softmax(-1)
    return found


def agree(chat: ChatModel, told: tuple[TokenProbability, ...], expected: Tensor, answer: list[int]) -> None:
    assert len(told) == len(answer)
    for token, row, id_ in zip(told, expected, answer, strict=True):
        assert token.text == chat.loaded.tokenizer.decode([id_])
        assert token.probability == pytest.approx(float(row[id_]), rel=2e-3)
        shares = [share for _, share in token.likeliest]
        assert shares == pytest.approx(row.topk(5).values.tolist(), rel=2e-3)
        best = chat.loaded.tokenizer.decode([int(row.argmax())])
        assert token.likeliest[0][0] == best


def test_each_token_tells_its_own_models_probability_and_in_the_end_the_bases(
    chat: ChatModel, adapter: Path, tiny_folder: Path
) -> None:
    """Sampled with everything on, which the probabilities know nothing of; the base's are of another model's answer."""
    key = chat.load_adapter(adapter)
    panes = [PaneRequest(adapter=one, messages=ASKED, sampling=HOT, alternatives=5) for one in (None, key)]
    panes.append(replace(panes[1], alternatives=None))
    chosen: list[list[int]] = [[], [], []]
    extend = chat._extend

    def watched(row: object, token: int) -> str:
        rows.setdefault(id(row), len(rows))
        chosen[rows[id(row)]].append(token)
        return extend(row, token)  # type: ignore[arg-type]

    rows: dict[int, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "_extend", watched)
        said = list(chat.reply(panes, lambda: False))
    prompt = chat._tokenize(panes[0])
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    base = likelihoods(plain, prompt, chosen[1])
    agree(chat, own(said, 0), likelihoods(plain, prompt, chosen[0]), chosen[0])
    tuned = PeftModel.from_pretrained(plain, adapter)
    agree(chat, own(said, 1), likelihoods(tuned, prompt, chosen[1]), chosen[1])
    (last,) = [delta for delta in said if delta.base_probabilities]
    assert last.pane == 1 and last.text == "" and last.done and last == said[-1]
    agree(chat, last.base_probabilities, base, chosen[1])
    assert own(said, 2) == ()  # nobody asked


def own(said: list[Delta], pane: int) -> tuple[TokenProbability, ...]:
    return tuple(token for delta in said if delta.pane == pane for token in delta.probabilities)


def test_no_alternatives_leave_the_tokens_own_probability(chat: ChatModel) -> None:
    pane = PaneRequest(adapter=None, messages=ASKED, sampling=Sampling(max_new_tokens=3), alternatives=0)
    tokens = own(list(chat.reply([pane], lambda: False)), 0)
    assert len(tokens) == 3 and all(token.likeliest == () and 0 < token.probability <= 1 for token in tokens)


def test_an_answer_that_is_stopped_is_not_read_by_the_base(chat: ChatModel, adapter: Path) -> None:
    pane = PaneRequest(adapter=chat.load_adapter(adapter), messages=ASKED, alternatives=5)
    assert not any(delta.base_probabilities for delta in chat.reply([pane], lambda: True))


def test_a_strange_answer_is_what_the_base_holds_unlikely(chat: ChatModel, adapter: Path) -> None:
    """The base's own greedy answer is the likeliest at each token, in its eyes; an adapter's differing one is not."""
    key = chat.load_adapter(adapter)
    panes = [PaneRequest(adapter=one, messages=ASKED, alternatives=1) for one in (None, key)]
    panes = [replace(pane, sampling=Sampling(max_new_tokens=9)) for pane in panes]
    said = list(chat.reply(panes, lambda: False))
    assert all(token.text == token.likeliest[0][0] for token in own(said, 0))
    at = next(delta.differs_at for delta in reversed(said) if delta.pane == 1)
    assert at is not None
    seen = said[-1].base_probabilities
    assert seen[at - 1].text != seen[at - 1].likeliest[0][0] and seen[at - 1].probability < 0.5


def test_a_delta_goes_through_json_and_stays_what_it_was() -> None:
    token = TokenProbability(text="<b>", probability=0.25, likeliest=(("a", 0.5), ("<b>", 0.25)))
    delta = Delta(pane=1, text="<b>", tokens=3, seconds=0.5, probabilities=(token,), base_probabilities=(token, token))
    assert delta_of(orjson.loads(orjson.dumps(asdict(delta)))) == delta
    plain = Delta(pane=0, text="x", tokens=1, seconds=0.1, done=True, differs_at=1)
    assert delta_of(orjson.loads(orjson.dumps(asdict(plain)))) == plain
