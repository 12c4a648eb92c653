"""The tree of a model's files holds what the loaded model has, for every kind of model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from core.config import parse
from core.errors import ConfigError
from core.models.linears import find_layers
from core.models.targets import match, names, parts
from jobs.blueprint import read_blueprint
from jobs.estimates import estimate
from jobs.module_tree import Node, checked_of, layers_of, module_tree, modules_of, targets_of
from tests.core.models.test_shapes import safetensors_file
from tests.jobs.test_service_estimates import CLASSIFIERS, MODELS

T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 80}
KINDS = [*MODELS, "t5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A maker of folders with tiny random models, each made once."""
    root = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        if not (root / kind).exists():
            auto = {"t5": AutoModelForSeq2SeqLM}.get(kind, AutoModelForCausalLM)
            auto = AutoModelForSequenceClassification if kind in CLASSIFIERS else auto
            values = T5 if kind == "t5" else MODELS[kind]
            auto.from_config(AutoConfig.for_model(kind, **values)).save_pretrained(root / kind)
        return root / kind

    return make


def tree_of(folder: Path, kind: str) -> Node:
    return module_tree(read_blueprint(folder), has_head=kind not in CLASSIFIERS)


def rows(tree: Node) -> Iterator[Node]:
    yield tree
    for child in tree.children:
        yield from rows(child)


def row(tree: Node, path: str) -> Node:
    (found,) = (each for each in rows(tree) if each.path == path and each.kind != "model")
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_the_tree_has_every_layer_that_the_engine_finds_in_the_loaded_model(kind: str, folder: Any) -> None:
    auto = AutoModelForSequenceClassification if kind in CLASSIFIERS else AutoModelForCausalLM
    layers = find_layers(auto.from_pretrained(folder(kind)))
    loaded = {layer.name: layer for layer in layers if not layer.name.startswith("classifier")}
    ours = layers_of(tree_of(folder(kind), kind))
    assert len(ours) == len(loaded)
    for layer in ours:  # files may name modules from further inside than the loaded model does
        (found,) = (name for name in loaded if names(layer.name, name))
        same = loaded[found]
        assert (layer.kind, layer.in_features, layer.out_features) == (same.kind, same.in_features, same.out_features)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_hold_all_parameters_and_stand_for_each_module_once(kind: str, folder: Any) -> None:
    blueprint = read_blueprint(folder(kind))
    tree = module_tree(blueprint)
    assert tree.parameters == blueprint.parameters
    named = [name for names in modules_of(tree).values() for name in names]
    assert len(named) == len(set(named))
    wholes = {name for name in named if ":" not in name}
    assert wholes == {layer.name for layer in blueprint.layers(has_head=True)}
    for each in rows(tree):
        assert each.count == len(modules_of(tree).get(each.path, [None] * each.count))
        if each.kind in ("group", "blocks") and all(child.kind in ("group", "blocks") for child in each.children):
            assert each.parameters == sum(child.parameters for child in each.children)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_that_are_alike_are_one_row(kind: str, folder: Any) -> None:
    tree = tree_of(folder(kind), kind)
    folds = [each for each in rows(tree) if each.kind == "blocks"]
    # T5's first block of each half alone knows relative positions, so no two of its blocks are alike
    assert [(fold.numbers, fold.count) for fold in folds] == ([] if kind == "t5" else [((0, 1), 2)])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "t5"])
def test_a_row_adds_what_the_estimate_says(kind: str, folder: Any) -> None:
    """Each row by itself, at rank 2: the numbers of A and B together."""
    tree, path = tree_of(folder(kind), kind), folder(kind)
    task = "classification" if kind in CLASSIFIERS else "chat"
    for each in rows(tree):
        if not each.is_target or "token_type" in each.path:
            continue
        targets, layers = targets_of(modules_of(tree)[each.path], tree)
        lora = {"rank": 2, "targets": targets, "layers": layers}
        values = {"name": "x", "base_model": str(path), "task": task, "data": {"dataset_id": "d"}, "lora": lora}
        found = estimate(parse(values), path)
        assert found is not None
        if not each.tied_to:
            assert found.trainable_parameters == 2 * each.per_rank * each.count, each.path


def test_a_llama_reads_as_a_person_would_draw_it(folder: Any) -> None:
    tree = tree_of(folder("llama"), "llama")
    assert [each.name for each in tree.children] == ["embed_tokens", "layers 0-1", "norm", "lm_head"]
    block = tree.children[1]
    assert [each.name for each in block.children] == [
        "self_attn", "mlp", "input_layernorm", "post_attention_layernorm",
    ]  # fmt: skip
    key = row(tree, "model.layers.*.self_attn.k_proj")
    assert (key.kind, key.shape, key.parameters, key.count, key.per_rank) == ("linear", (32, 16), 2 * 512, 2, 48)
    assert row(tree, "lm_head").tied_to == "model.embed_tokens"


def test_what_can_be_no_target_says_why(folder: Any) -> None:
    norm = row(tree_of(folder("llama"), "llama"), "model.norm")
    assert (norm.kind, norm.is_target, norm.reason) == ("norm", False, "a vector, where LoRA needs a matrix")
    assert "experts" in row(tree_of(folder("qwen3_moe"), "qwen3_moe"), "model.layers.*.mlp.gate").reason
    assert "positions" in row(tree_of(folder("opt"), "opt"), "model.decoder.embed_positions").reason
    for kind in KINDS:
        for each in rows(tree_of(folder(kind), kind)):
            assert each.is_target or each.children or each.reason, each.path


def test_a_fused_matrix_has_its_parts_inside(folder: Any) -> None:
    tree = tree_of(folder("gpt2"), "gpt2")
    fused = row(tree, "transformer.h.*.attn.c_attn" if "transformer" in tree.children[0].path else "h.*.attn.c_attn")
    assert [(part.name, part.kind, part.shape) for part in fused.children] == [
        (name, "part", (32, 32)) for name in ("q", "k", "v")
    ]


def test_experts_are_one_row_with_how_many_there_are(folder: Any) -> None:
    tree = tree_of(folder("mixtral"), "mixtral")
    down = next(each for each in rows(tree) if each.name == "down_proj")
    assert (down.kind, down.shape[2], down.per_rank) == ("experts", 4, 4 * (down.shape[0] + down.shape[1]))


def test_blocks_that_differ_are_apart_and_those_alike_are_found_among_them(tmp_path: Path) -> None:
    """As in models whose first block is dense, or in which every other block is another kind."""
    inner = {0: "mlp.up_proj", 1: "mixer.in_proj", 2: "mlp.up_proj", 3: "mixer.in_proj", 4: "other.w"}
    header = {f"layers.{at}.{name}.weight": (8, 4) for at, name in inner.items()}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x"}))
    (tmp_path / "model.safetensors").write_bytes(safetensors_file(header))
    tree = module_tree(read_blueprint(tmp_path))
    found = [(each.name, each.numbers) for each in rows(tree) if each.kind == "blocks"]
    assert found == [("0, 2", (0, 2)), ("1, 3", (1, 3))]
    assert modules_of(tree)["layers.*.mlp.up_proj"] == ("layers.0.mlp.up_proj", "layers.2.mlp.up_proj")
    assert modules_of(tree)["layers.4.other.w"] == ("layers.4.other.w",)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(KINDS))
def test_what_is_checked_comes_back_from_the_config_it_makes(folder: Any, data: st.DataObject, kind: str) -> None:
    """Against the engine's own reading of targets, over the layers that the files have."""
    tree = tree_of(folder(kind), kind)
    modules = modules_of(tree)
    chosen = data.draw(st.sets(st.sampled_from(sorted(modules)), min_size=1))
    some = data.draw(st.sets(st.sampled_from(sorted(name for names in modules.values() for name in names)), max_size=3))
    checked = {name for path in chosen for name in modules[path]} ^ some
    checked = {name for name in checked if name.partition(":")[0] == name or name.partition(":")[0] not in checked}
    targets, layers = targets_of(checked, tree)
    if not checked:
        assert targets == ()
        return
    shapes = read_blueprint(folder(kind)).layers(has_head=kind not in CLASSIFIERS)
    matched = match(targets, shapes, layers)
    assert {f"{shape.name}:{part}" for shape in matched for part in parts(targets, shape)} | {
        shape.name for shape in matched if not parts(targets, shape)
    } == checked
    assert checked_of(targets, layers, tree) == checked


def test_a_classifier_offers_no_head_and_says_why(folder: Any) -> None:
    tree = tree_of(folder("bert"), "bert")
    assert all(layer.kind != "head" for layer in layers_of(tree))
    with pytest.raises(ConfigError, match="lm_head"):
        checked_of(("lm_head",), None, tree)
