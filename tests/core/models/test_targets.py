from __future__ import annotations

import pytest

from core.errors import ConfigError
from core.models.shapes import LinearShape
from core.models.targets import check_rank, match, suggestions


def shape(name: str, in_features: int = 8, out_features: int = 8) -> LinearShape:
    return LinearShape(name=name, in_features=in_features, out_features=out_features)


BLOCKS = tuple(
    shape(f"model.layers.{layer}.{name}")
    for layer in range(12)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
)
SHAPES = (shape("model.projector"), *BLOCKS, shape("model.qa_outputs"))


def names(*targets: str) -> list[str]:
    return [found.name for found in match(targets, SHAPES)]


def test_a_last_part_is_matched_in_every_block() -> None:
    assert names("q_proj") == [f"model.layers.{layer}.self_attn.q_proj" for layer in range(12)]


@pytest.mark.parametrize("target", ["layers.1.mlp.up_proj", "1.mlp.up_proj", "model.layers.1.mlp.up_proj"])
def test_longer_paths_and_full_names_name_one_module(target: str) -> None:
    assert names(target) == ["model.layers.1.mlp.up_proj"]


@pytest.mark.parametrize(
    "target",
    ["proj", "_proj", ".*", "q_proj|k_proj", "(a+)+$", "layers", "model.layers", "Q_proj", "q_proj ", "", ".q_proj",
     "layers.1.mlp.up_proj.weight"],
)  # fmt: skip
def test_only_whole_parts_from_the_end_match_and_never_a_pattern(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        match((target,), SHAPES)
    assert caught.value.field == "lora.targets"
    assert "projector, q_proj, k_proj, up_proj, down_proj, qa_outputs" in caught.value.hint


def test_one_target_that_matches_nothing_is_refused_among_others_that_do() -> None:
    with pytest.raises(ConfigError, match=r"'q_prj' matches no module.*did you mean q_proj\?"):
        match(("k_proj", "q_prj"), SHAPES)


def test_each_module_comes_once_and_in_model_order() -> None:
    assert match(("down_proj", "q_proj", "self_attn.q_proj", "mlp.down_proj"), SHAPES) == tuple(
        found for found in SHAPES if found.name.endswith(("q_proj", "down_proj"))
    )


def test_auto_takes_the_blocks_and_all_linear_everything() -> None:
    assert match(("auto",), SHAPES) == BLOCKS
    assert match(("all-linear",), SHAPES) == SHAPES
    assert match(("auto", "qa_outputs"), SHAPES) == (*BLOCKS, SHAPES[-1])


@pytest.mark.parametrize("target", ["auto", "all-linear", "q_proj"])
def test_a_model_without_linear_layers_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="no linear layers"):
        match((target,), ())


def test_every_suggestion_matches_and_each_is_made_once() -> None:
    found = suggestions(SHAPES)
    assert found == ("projector", "q_proj", "k_proj", "up_proj", "down_proj", "qa_outputs")
    assert all(match((target,), SHAPES) for target in found)


def test_the_largest_rank_is_the_smaller_side_of_the_smallest_module() -> None:
    shapes = (shape("layers.0.q_proj", 64, 64), shape("layers.0.k_proj", 64, 12), shape("layers.0.up_proj", 64, 256))
    check_rank(12, shapes)
    with pytest.raises(
        ConfigError, match=r"Rank 13 .*layers\.0\.k_proj \(it maps 64 features to 12\).*at most 12"
    ) as caught:
        check_rank(13, shapes)
    assert caught.value.field == "lora.rank"
