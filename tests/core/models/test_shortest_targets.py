from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from core.models.shapes import Kind, LinearShape
from core.models.shortest_targets import meant, targets_and_layers

FUSED = ("q", "k", "v")


def shape(name: str, kind: Kind = "linear") -> LinearShape:
    return LinearShape(name=name, in_features=8, out_features=8, kind=kind)


def blocks(count: int, *names: str, under: str = "model.layers") -> tuple[LinearShape, ...]:
    return tuple(shape(f"{under}.{at}.{name}") for at in range(count) for name in names)


LLAMA = (
    shape("model.embed_tokens", "embedding"),
    *blocks(4, "self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"),
    shape("lm_head", "head"),
)
GPT2 = (shape("wte", "embedding"), *blocks(3, "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", under="h"))
T5 = (
    *blocks(2, "layer.0.SelfAttention.q", "layer.1.DenseReluDense.wi", under="encoder.block"),
    *blocks(2, "layer.0.SelfAttention.q", "layer.1.EncDecAttention.q", under="decoder.block"),
)
MODELS = {"llama": LLAMA, "gpt2": GPT2, "t5": T5}


def all_named(shapes: tuple[LinearShape, ...], *ends: str) -> set[str]:
    return {found.name for found in shapes if found.name.endswith(ends)}


@pytest.mark.parametrize(
    ("checked", "said"),
    [
        (all_named(LLAMA, "q_proj"), (("q_proj",), None)),
        (all_named(LLAMA, "_proj"), (("auto",), None)),
        (all_named(LLAMA, "_proj", "lm_head"), (("auto", "lm_head"), None)),
        ({"model.layers.3.mlp.up_proj"}, (("layers.3.mlp.up_proj",), None)),
        (all_named(LLAMA, "0.self_attn.q_proj", "1.self_attn.q_proj"), (("q_proj",), (0, 1))),
        (all_named(LLAMA, "q_proj") | {"model.layers.2.mlp.up_proj"}, (("q_proj", "layers.2.mlp.up_proj"), None)),
        ({name for name in all_named(LLAMA, "_proj") if ".2." in name}, (("auto",), (2,))),
        ({f"{name}:v" for name in all_named(LLAMA, "q_proj")}, (("q_proj:v",), None)),
        (set(), ((), None)),
    ],
)
def test_what_is_checked_is_said_as_a_person_would(checked: set[str], said: object) -> None:
    assert targets_and_layers(checked, LLAMA) == said


def test_a_last_part_that_two_modules_share_is_told_apart_by_the_word_before_it() -> None:
    assert targets_and_layers(all_named(GPT2, "attn.c_proj"), GPT2) == (("attn.c_proj",), None)
    assert targets_and_layers(all_named(GPT2, "c_proj"), GPT2) == (("c_proj",), None)


def test_a_part_beside_its_whole_counts_for_nothing() -> None:
    assert targets_and_layers({"h.0.attn.c_attn", "h.0.attn.c_attn:q"}, GPT2)[0] == ("h.0.attn.c_attn",)


def test_a_name_that_ends_another_takes_it_along_as_the_engine_does() -> None:
    shapes = (shape("q"), shape("inner.q"), shape("other"))
    said = targets_and_layers({"q"}, shapes)
    assert meant(*said, shapes) == {"q", "inner.q"}


def test_what_names_nothing_is_refused_in_the_engines_words() -> None:
    with pytest.raises(ConfigError, match="'qq_proj' matches no module"):
        meant(("qq_proj",), None, LLAMA)


@st.composite
def models(draw: st.DrawFn) -> tuple[LinearShape, ...]:
    """Names of all sorts: blocks that differ, blocks within blocks, names that occur in several places."""
    names: dict[str, Kind] = {}
    for stack in draw(st.lists(st.sampled_from(["layers", "encoder.block", "decoder.block"]), max_size=2, unique=True)):
        inner = st.lists(st.sampled_from(["attn.q", "attn.o", "mlp.o", "0.q", "1.q", "w"]), min_size=1, unique=True)
        common = draw(inner)
        for at in range(draw(st.integers(1, 3))):
            names |= dict.fromkeys([f"{stack}.{at}.{name}" for name in draw(st.just(common) | inner)], "linear")
    outside: list[tuple[str, Kind]] = [("embed", "embedding"), ("head", "head"), ("proj.o", "linear")]
    names |= dict(draw(st.lists(st.sampled_from(outside), min_size=0 if names else 1, unique=True)))
    return tuple(shape(name, kind) for name, kind in names.items())


@st.composite
def choices(draw: st.DrawFn) -> tuple[tuple[LinearShape, ...], frozenset[str]]:
    """A model and what is checked in it: kinds in all blocks, single modules, parts."""
    shapes = draw(models())
    names = [found.name for found in shapes]
    kinds = draw(st.sets(st.sampled_from(sorted({name.rpartition(".")[2] for name in names}))))
    checked = {name for name in names if name.rpartition(".")[2] in kinds} ^ draw(st.sets(st.sampled_from(names)))
    parted = draw(st.dictionaries(st.sampled_from(names), st.sets(st.sampled_from(FUSED), min_size=1), max_size=3))
    pieces = {f"{name}:{part}" for name, found in parted.items() for part in found}
    return shapes, frozenset({name for name in checked if name not in parted} | pieces)


@settings(max_examples=400, deadline=None)
@given(choices())
def test_saying_and_reading_gives_back_what_was_checked(chosen: tuple[tuple[LinearShape, ...], frozenset[str]]) -> None:
    shapes, checked = chosen
    targets, layers = targets_and_layers(checked, shapes)
    if checked:
        assert meant(targets, layers, shapes) == checked
    else:
        assert targets == ()


@functools.cache
def all_that_can_be_said(model: str, most: int) -> frozenset[frozenset[str]]:
    """All that up to `most` targets can mean, with every choice of layers."""
    return frozenset(said for size in range(1, most + 1) for said in sayings(MODELS[model], size))


def sayings(shapes: tuple[LinearShape, ...], size: int) -> Iterator[frozenset[str]]:
    endings = {".".join(found.name.split(".")[at:]) for found in shapes for at in range(found.name.count(".") + 1)}
    numbers = sorted({int(piece) for found in shapes for piece in found.name.split(".")[:3] if piece.isdecimal()})
    scopes = [None, *(layers for many in range(1, len(numbers) + 1) for layers in combinations(numbers, many))]
    for targets in combinations(["auto", "all-linear", *sorted(endings)], size):
        for layers in scopes:
            try:
                yield meant(targets, layers, shapes)
            except ConfigError:
                continue


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(sorted(MODELS)))
def test_no_fewer_targets_say_the_same(data: st.DataObject, model: str) -> None:
    simple = sorted(all_that_can_be_said(model, 1), key=sorted)
    checked = frozenset().union(*data.draw(st.lists(st.sampled_from(simple), min_size=1, max_size=3)))
    targets, _ = targets_and_layers(checked, MODELS[model])
    assert len(targets) <= 2 or checked not in all_that_can_be_said(model, 2)
    assert len(targets) == 1 or checked not in simple
