"""What the browser sends of the tree, and what may be made of it; the same of the menu of base models."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError, ModelError
from core.models.catalogue import ModelSource
from jobs.blueprint import read_blueprint
from jobs.module_tree import Node, modules_of
from jobs.module_tree import module_tree as tree_of
from jobs.service import Estimate, ModelChoice, ModelFacts
from tests.core.models.test_shapes import GPT2, LLAMA, safetensors_file
from tests.ui.stand_in import NOW, XSS
from ui.pages import model_choice, model_tree

FUSED = {f"h.{at}.{name}": sizes for at in range(3) for name, sizes in (
    ("attn.c_attn.weight", (8, 24)), ("attn.c_proj.weight", (8, 8)), ("mlp.c_fc.weight", (8, 32)))}  # fmt: skip


def tree(folder: Path, header: dict[str, Any], kind: str) -> Node:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    (folder / "model.safetensors").write_bytes(safetensors_file(header))
    return tree_of(read_blueprint(folder))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return tree(tmp_path_factory.mktemp("a") / "llama", LLAMA, "llama")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return tree(tmp_path_factory.mktemp("a") / "gpt2", {**GPT2, **FUSED}, "gpt2")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_shown_as_checked_is_read_as_checked(llama: Node, gpt2: Node, data: st.DataObject) -> None:
    model = data.draw(st.sampled_from([llama, gpt2]))
    names = sorted(name for found in modules_of(model).values() for name in found)
    modules = data.draw(st.sets(st.sampled_from(names)))
    assert model_tree.checked(model_tree.value_of(modules, model), model) == modules


def test_what_auto_means_is_what_is_checked_at_first(llama: Node) -> None:
    value = model_tree.value_of(model_tree.usual(llama), llama)
    assert set(json.loads(value).values()) == {True}
    assert model_tree.said(value, llama) == (("auto",), None)


@pytest.mark.parametrize(
    "sent",
    [
        None, "", "{", "7", "[]", '{"absent": true}', '{"model.layers.*.mlp.up_proj": 1}',
        '{"model.layers.*.mlp.up_proj": [99, -1, "0", true, null, 1.0]}', '{"model.layers.*.mlp.up_proj": {"0": true}}',
    ],
)  # fmt: skip
def test_of_what_no_tree_sends_nothing_is_checked_and_a_sentence_says_so(llama: Node, sent: str | None) -> None:
    assert model_tree.checked(sent, llama) == frozenset()
    with pytest.raises(ConfigError, match="No target modules") as caught:
        model_tree.said(sent, llama)
    assert caught.value.field == "lora.targets"


def test_another_model_keeps_the_choice_as_far_as_it_has_the_names(llama: Node, gpt2: Node) -> None:
    up = frozenset({"model.layers.1.mlp.up_proj"})
    single, kind = model_tree.value_of(up, llama), json.dumps({"blocks.*.attn.q_proj": True})
    assert model_tree.carried_over(single, llama) == up
    assert model_tree.carried_over(kind, llama) == {f"model.layers.{at}.self_attn.q_proj" for at in (0, 1, 2, 10)}
    assert model_tree.carried_over(single, gpt2) == model_tree.usual(gpt2)
    assert model_tree.carried_over("", llama) == model_tree.usual(llama)


def test_a_row_says_its_size_and_why_it_can_be_no_target(llama: Node) -> None:
    rows = json.loads(model_tree.as_json(llama))
    assert rows["name"] == "All linear layers"
    block = rows["children"][1]
    assert (block["name"], block["numbers"]) == ("layers 0-2, 10", [0, 1, 2, 10])
    query = block["children"][0]["children"][0]
    assert (query["name"], query["size"], query["per_rank"], query["target"]) == ("q_proj", "8 → 8", 16, True)
    norm = block["children"][-1]
    assert (norm["size"], norm["target"]) == ("8", False) and "vector" in norm["reason"]


def test_the_figures_have_units_and_come_with_what_they_are_of() -> None:
    numbers = {"trainable_parameters": 2_442_240, "base_parameters": 134_515_008}
    line = model_tree.figures_line(Estimate(**numbers, adapter_bytes=9_768_960, adapted_modules=210))
    words = line.replace("<strong>", "").replace("</strong>", "")
    for part in ("2.4 M of 134.5 M parameters trained (1.8 %)", "9.8 MB on disk", "210 modules"):
        assert part in words
    assert "1</strong> module<" in model_tree.figures_line(Estimate(**numbers, adapter_bytes=1, adapted_modules=1))
    assert "once the model is on this machine" in model_tree.figures_line(None)


def test_targets_are_shown_as_text() -> None:
    assert (
        model_tree.said_line(("q_proj",), (0, 1, 5)) == '<p class="card-hint"><code>q_proj</code> in layers 0-1, 5</p>'
    )
    assert "<img" not in model_tree.said_line((XSS,), None)


def choice(**values: Any) -> ModelChoice:
    return ModelChoice(**({"ref": "owner/name", "title": "owner/name", "group": "recent", "is_here": True} | values))


def test_the_menu_says_why_a_model_is_offered() -> None:
    used = {"used_at": NOW - timedelta(hours=2), "run_name": "captain-r8"}
    labels = [label for label, _ in model_choice.options(
        [choice(**used), choice(**used, is_here=False), choice(is_here=False, problem="The folder is gone", **used),
         choice(group="folder", title="mine"), choice(group="hub"), choice(group="starter", is_here=False)], NOW,
    )]  # fmt: skip
    assert labels[0].startswith("owner/name · used by captain-r8, ") and labels[0].endswith("ago")
    assert labels[1].endswith("not on this machine yet") and labels[2].endswith("no longer there")
    assert labels[3:] == ["mine · folder", "owner/name · downloaded before", "owner/name · not on this machine yet"]


def facts(folder: Path | None = None, **values: Any) -> str:
    source = ModelSource(ref="owner/name", title="owner/name", kind="hub", folder=folder)
    return model_choice.facts(ModelFacts(source=source, **values))


def test_a_models_facts_are_a_line_with_units() -> None:
    line = facts(parameters=134_500_000, bytes=269_000_000, licence="apache-2.0", architecture="LlamaForCausalLM")
    parts = ("LlamaForCausalLM", "134.5 M parameters", "269 MB to download when the run starts", "licence apache-2.0")
    assert " · ".join(("owner/name", *parts)) in line and "banner" not in line
    assert "3.0 kB on this machine" in facts(Path("/m"), bytes=3000)


def test_what_is_in_the_way_comes_with_what_to_do_and_nothing_is_markup() -> None:
    line = facts(problem=ModelError(XSS, XSS, "Accept it"), remark=XSS, licence=XSS, architecture=XSS, url=XSS)
    assert "<img" not in line and "Accept it." in line and 'role="alert"' in line
