"""What a person types, as settings: options, lists and files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.config import Method, Start, Task, TemplateName, TrainOn
from core.errors import ConfigError
from jobs import lists
from jobs.flags import FLAGS, settings
from jobs.recipes import Source, read_recipe

DATA = Path("captain.jsonl")
NAMES = st.from_regex(r"[a-z_]{1,8}(\.[a-z0-9_]{1,8}){0,3}(:[qkv])?", fullmatch=True)
NUMBERS = st.one_of(st.integers(1, 4096), st.floats(0.001, 65536).map(lambda number: float(f"{number:.9g}")))


def nothing(**changes: Any) -> dict[str, Any]:
    return {flag.parameter: None for flag in FLAGS} | changes


def test_only_what_was_given_is_a_setting() -> None:
    assert settings(nothing()) == {}
    assert settings(nothing(new_token=[])) == {}
    assert settings(nothing(rank=4, dora=False, layers="0-2")) == {
        "lora.rank": 4, "lora.use_dora": False, "lora.layers": [0, 1, 2],
    }  # fmt: skip


def test_the_help_names_every_choice_that_there_is() -> None:
    choices = {
        "method": Method, "task": Task, "lora.init": Start, "data.train_on": TrainOn, "data.template": TemplateName,
    }  # fmt: skip
    helps = {flag.path: flag.help or "" for flag in FLAGS}
    for path, kinds in choices.items():
        assert set(get_args(kinds)) <= set(re.findall(r"\w+", helps[path]))


def test_a_list_that_cannot_be_read_is_refused_by_its_options_name() -> None:
    with pytest.raises(ConfigError, match="--rank-pattern: 'q_proj' is no name") as caught:
        settings(nothing(rank_pattern="q_proj"))
    assert caught.value.field == "lora.rank_pattern"


def test_options_win_over_the_file_setting_by_setting(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: bitfit\nlora: {rank: 2, use_dora: true, rank_pattern: {q_proj: 4}}\noptim: {steps: 5}\n")
    given = settings(nothing(method="lora", rank=8, dora=False, epochs=2.0))
    config = read_recipe(file, given, Source(file=DATA)).config
    assert (config.method, config.lora.rank, config.lora.use_dora) == ("lora", 8, False)
    assert config.lora.rank_pattern == {"q_proj": 4}
    assert (config.optim.epochs, config.optim.steps) == (2.0, None)


@pytest.mark.parametrize(("text", "is_named"), [("seed: 3\n", False), ("task: chat\n", True)])
def test_a_recipe_says_whether_the_task_was_asked_for(tmp_path: Path, text: str, is_named: bool) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert read_recipe(tmp_path / "run.yaml", {}, Source(file=DATA)).names_task == is_named
    assert read_recipe(tmp_path / "run.yaml", {"task": "classification"}, Source(file=DATA)).names_task


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
@example([3, 2, 1])
@example([0, 1, 1, 2])
def test_layers_are_read_as_they_were_shown(layers: list[int]) -> None:
    assert lists.read_layers(lists.show_layers(layers)) == layers


def test_no_layers_are_all_of_them() -> None:
    assert lists.show_layers(None) == "" and lists.read_layers(" , ") is None
    assert lists.read_layers("0 - 3,7") == [0, 1, 2, 3, 7]


@given(st.lists(NAMES, max_size=5))
def test_names_are_read_as_they_were_shown(names: list[str]) -> None:
    assert lists.read_names(lists.show_names(names)) == names


@given(st.dictionaries(NAMES, NUMBERS, max_size=5))
def test_patterns_are_read_as_they_were_shown(pattern: dict[str, float]) -> None:
    assert lists.read_pattern(lists.show_pattern(pattern)) == pattern


@given(st.lists(st.text(min_size=1, max_size=12), max_size=5))
@example([" a"])
@example(['"a"'])
@example(["a\nb", "\u2028", "\x85", "\\"])
def test_lines_are_read_as_they_were_shown(texts: list[str]) -> None:
    assert lists.read_lines(lists.show_lines(texts)) == texts


@pytest.mark.parametrize("text", ["1e999=", "q_proj=nan", "q_proj=inf", "q_proj=", "q=1=2"])
def test_a_pattern_takes_numbers_alone(text: str) -> None:
    with pytest.raises(ConfigError, match="no name with its number"):
        lists.read_pattern(text)
