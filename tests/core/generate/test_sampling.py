from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from core.errors import ModelError
from core.generate.requests import Sampling
from core.generate.sampling import LIKELY, choose, likeliest, nucleus, penalize


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smallest_set(probabilities: list[float], top_p: float) -> set[int]:
    """The obvious way: take the likeliest until they hold enough."""
    chosen: set[int] = set()
    mass = 0.0
    for index in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if chosen and mass >= top_p:
            break
        chosen.add(index)
        mass += probabilities[index]
    return chosen


@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=30, unique=True), top_p=st.floats(0, 1, allow_nan=False)
)
def test_the_nucleus_is_the_smallest_set_that_holds_enough(weights: list[int], top_p: float) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    kept = nucleus(probabilities, top_p)
    expected = smallest_set(probabilities.tolist(), top_p)
    if top_p < 1 - 1e-9 and abs(sum(probabilities[i] for i in expected) - top_p) > 1e-9:
        assert set(kept.nonzero()[:, 0].tolist()) == expected
    assert all(kept[i] in (0, probabilities[i]) for i in range(len(weights)))
    assert kept.max() == probabilities.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_temperature_the_likeliest_is_taken_and_nothing_is_drawn(dtype: torch.dtype) -> None:
    logits = torch.tensor([0.1, 5.0, -2.0, 4.9]).to(dtype)
    stream = generator()
    before = stream.get_state()
    assert choose(logits[None], [Sampling(temperature=0.0, top_p=0.1)], [stream], [()])[0] == 1
    assert torch.equal(stream.get_state(), before)


def frequencies(logits: Tensor, sampling: Sampling, draws: int = 4000) -> Tensor:
    stream = generator(3)
    drawn = [choose(logits[None], [sampling], [stream], [()])[0] for _ in range(draws)]
    return torch.bincount(torch.tensor(drawn), minlength=len(logits)) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_tempered_probabilities_say(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    expected = torch.softmax(logits / temperature, dim=-1)
    found = frequencies(logits, Sampling(temperature=temperature))
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((found - expected).abs() < 5 * deviation).all()


def test_tokens_outside_the_nucleus_never_come_and_the_others_share_their_part() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    found = frequencies(logits, Sampling(temperature=1.0, top_p=0.8))
    inside = torch.softmax(logits[:2], dim=-1)  # 0.64 and 0.24 of all
    assert found[2:].sum() == 0
    assert ((found[:2] - inside).abs() < 0.04).all()


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.9999, 1.0])
@pytest.mark.parametrize("sharpness", [0.01, 4.0])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_full_sort(top_p: float, sharpness: float) -> None:
    """Flat rows need more tokens than are looked at first, peaked ones fewer."""
    logits = torch.randn(3, 5 * LIKELY, generator=generator(2)) * torch.tensor([[1.0], [sharpness], [2.0]])
    probabilities = torch.softmax(logits, dim=-1)
    kept = nucleus(probabilities, top_p)
    for row in range(3):
        ordered, order = probabilities[row].sort(descending=True)
        before = ordered.cumsum(0) - ordered
        certain = (before - top_p).abs() > 1e-5  # the sums' rounding aside
        inside = torch.zeros_like(before, dtype=torch.bool).scatter(0, order, (before < top_p) | (top_p >= 1))
        clear = torch.zeros_like(inside).scatter(0, order, certain)
        assert torch.equal((kept[row] > 0)[clear], inside[clear])
        assert torch.equal(kept[row][kept[row] > 0], probabilities[row][kept[row] > 0])


SAMPLINGS = [
    Sampling(temperature=0.0),
    Sampling(temperature=0.8, top_p=0.9),
    Sampling(temperature=2.0, top_k=40, repetition_penalty=1.3),
    Sampling(temperature=0.5, top_p=0.999),
]
TEXTS = [(), (1, 2), tuple(range(200)), (7,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_gets_what_it_gets_alone_whatever_the_others_ask_for(dtype: torch.dtype) -> None:
    """bf16 has many ties, which a sort of several rows could break in another way."""
    logits = torch.randn(4, 3000, generator=generator(1)).to(dtype)
    together, alone = ([generator(seed) for seed in range(4)] for _ in range(2))
    for _ in range(10):
        expected = [choose(logits[row : row + 1], [SAMPLINGS[row]], [alone[row]], [TEXTS[row]])[0] for row in range(4)]
        assert choose(logits, SAMPLINGS, together, TEXTS) == expected
    assert expected[0] == logits[0].argmax() and len(set(expected)) > 1


def test_a_token_of_probability_zero_never_comes() -> None:
    logits = torch.full((1, 50), -torch.inf)
    logits[0, [7, 31]] = 0.0
    stream = generator(4)
    drawn = {choose(logits, [Sampling(temperature=1.0)], [stream], [()])[0] for _ in range(200)}
    assert drawn == {7, 31}


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits, sampling = torch.randn(100, generator=generator(1)), Sampling(temperature=1.0, top_p=0.95)
    one, again, other = (
        [choose(logits[None], [sampling], [stream], [()])[0] for _ in range(20)] for stream in map(generator, (5, 5, 6))
    )
    assert one == again != other


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused(temperature: float, wrong: float) -> None:
    logits = torch.randn(2, 9)
    logits[1, 4] = wrong
    sampling = Sampling(max_new_tokens=1, temperature=temperature, top_p=0.9, seed=0)
    with pytest.raises(ModelError, match="not a number"):
        choose(logits, [sampling] * 2, [generator(), generator()], [(), ()])


TOKENS = st.lists(st.integers(0, 49), max_size=60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(seed=st.integers(0, 10**6), tokens=TOKENS.filter(bool), penalty=st.floats(0.5, 3))
def test_the_penalty_is_that_of_transformers(dtype: torch.dtype, seed: int, tokens: list[int], penalty: float) -> None:
    """A token that stands there twice is penalized once."""
    logits = 4 * torch.randn(50, generator=generator(seed)).to(dtype).float()
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([tokens]), logits[None].clone())[0]
    assert torch.equal(penalize(logits, tokens, penalty), expected)


def test_a_penalty_of_one_or_a_row_without_tokens_changes_nothing() -> None:
    logits = torch.randn(50, generator=generator())
    assert penalize(logits, [1, 2, 3], 1.0) is logits
    assert penalize(logits, [], 2.0) is logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(seed=st.integers(0, 10**6), top_k=st.integers(1, 60))
def test_the_likeliest_are_those_of_transformers_equal_ones_included(dtype: torch.dtype, seed: int, top_k: int) -> None:
    logits = torch.randn(50, generator=generator(seed)).to(dtype).float()  # bf16 has equal ones
    expected = TopKLogitsWarper(top_k)(torch.tensor([[0]]), logits[None].clone())[0]
    assert torch.equal(likeliest(logits, top_k), expected)
    assert likeliest(logits, 0) is logits


CHAINS = [
    Sampling(temperature=0.7, top_k=5, top_p=0.8, repetition_penalty=1.5),
    Sampling(temperature=1.5, top_k=3, repetition_penalty=0.8),
    Sampling(temperature=1.0, top_p=0.6, repetition_penalty=2.0),
]


@pytest.mark.parametrize("sampling", CHAINS)
def test_all_settings_together_draw_from_what_transformers_would(sampling: Sampling) -> None:
    logits, tokens = 2 * torch.randn(30, generator=generator(9)), (3, 3, 14, 29)
    scores, ids = logits[None].clone(), torch.tensor([tokens])
    chain = [
        RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        TemperatureLogitsWarper(sampling.temperature),
    ]
    chain += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    chain += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    for step in chain:
        scores = step(ids, scores)
    expected = scores[0].softmax(-1)
    stream = generator(3)
    drawn = [choose(logits[None], [sampling], [stream], [tokens])[0] for _ in range(4000)]
    found = torch.bincount(torch.tensor(drawn), minlength=30) / 4000
    assert found[expected == 0].sum() == 0
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / 4000).sqrt()).all()


def test_without_a_temperature_the_penalty_still_holds_and_nothing_else_does() -> None:
    logits = torch.tensor([[1.0, 5.0, 4.9]])
    sampling = Sampling(temperature=0.0, repetition_penalty=1.1, top_k=1, top_p=0.1)
    assert choose(logits, [sampling], [generator()], [(1,)]) == [2]
    assert choose(logits, [sampling], [generator()], [(0,)]) == [1]
