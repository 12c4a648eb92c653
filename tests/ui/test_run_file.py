"""A run's settings as a file: saved, loaded, and taken by the command line as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import RunConfig, parse, to_dict
from core.errors import ConfigError
from jobs.recipes import Source, read_recipe
from tests.ui.stand_in import run_config
from tests.ui.test_forms import OTHER_VALUES, leaves
from ui import forms, run_file

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
PRINTED = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=DIRECTIONS)
NAMES = st.text(PRINTED, min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
RANKS = st.integers(1, 4096)
SHARES = st.floats(0, 0.5)
POSITIVE = st.floats(1e-9, 1000)
# What each setting may be; the test below sees that none is missing.
ALLOWED: dict[str, st.SearchStrategy[Any]] = {
    "name": NAMES, "base_model": TEXTS, "seed": st.integers(0, 2**31 - 1),
    "method": st.sampled_from(["lora", "full", "bitfit"]), "task": st.sampled_from(["chat", "classification"]),
    "data.dataset_id": TEXTS, "data.max_tokens": st.integers(8, 2**20), "data.holdout": SHARES,
    "data.train_on": st.sampled_from(["assistant", "last", "everything"]),
    "data.template": st.sampled_from([None, "plain", "chatml"]),
    "lora.rank": RANKS, "lora.alpha": POSITIVE, "lora.dropout": SHARES, "lora.targets": st.lists(TEXTS, min_size=1),
    "lora.layers": st.one_of(st.none(), st.lists(st.integers(0, 99), max_size=4)), "lora.use_rslora": st.booleans(),
    "lora.use_dora": st.booleans(), "lora.init": st.sampled_from(["pissa", "eva"]), "lora.freeze_a": st.booleans(),
    "lora.rank_pattern": st.dictionaries(TEXTS, RANKS, max_size=3),
    "lora.alpha_pattern": st.dictionaries(TEXTS, POSITIVE, max_size=3),
    "lora.bias": st.sampled_from(["none", "lora_only", "all"]), "lora.modules_to_save": st.lists(TEXTS, max_size=3),
    "lora.new_tokens": st.lists(TEXTS, max_size=3),
    "quant.bits": st.sampled_from([4, 8, 16, 32]), "quant.quant_type": st.sampled_from(["nf4", "fp4"]),
    "quant.double_quant": st.booleans(), "quant.block_size": st.sampled_from([64, 512]),
    "quant.skip": st.lists(TEXTS, max_size=3),
    "optim.learning_rate": st.one_of(st.none(), st.floats(1e-12, 1)),
    "optim.schedule": st.sampled_from(["linear", "cosine", "constant"]), "optim.warmup": SHARES,
    "optim.epochs": POSITIVE, "optim.steps": st.one_of(st.none(), st.integers(1, 10**9)),
    "optim.batch_size": RANKS, "optim.micro_tokens": st.integers(64, 10**9), "optim.checkpointing": st.booleans(),
    "optim.weight_decay": SHARES, "optim.clip_norm": POSITIVE, "optim.evaluations": st.integers(1, 1000),
    "optim.checkpoints": st.integers(1, 1000), "optim.lora_plus_ratio": POSITIVE,
    "samples.rows": st.integers(0, 4), "samples.prompts": st.lists(TEXTS, max_size=4),
    "tracker": st.sampled_from(["none", "trackio", "wandb"]),
}  # fmt: skip


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    """Any run: some of its settings drawn, the others at their standard."""
    paths = draw(st.sets(st.sampled_from(sorted(ALLOWED)), max_size=8)) | {"name", "data.dataset_id"}
    nested: dict[str, Any] = {}
    for path in sorted(paths):
        *parents, last = path.split(".")
        section = nested.setdefault(parents[0], {}) if parents else nested
        section[last] = draw(ALLOWED[path])
    return parse(nested)


def test_every_setting_is_drawn_below() -> None:
    assert set(ALLOWED) == leaves(to_dict(run_config()))


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(configs())
def test_any_run_is_loaded_as_it_was_saved(config: RunConfig) -> None:
    assert run_file.from_yaml(run_file.to_yaml(config)) == config


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(configs())
def test_the_command_line_reads_the_same_run_from_the_file(tmp_path: Path, config: RunConfig) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(run_file.to_yaml(config), encoding="utf-8", newline="\n")
    assert read_recipe(file, {}, Source()).config == config


@pytest.mark.parametrize(("path", "values"), OTHER_VALUES, ids=lambda value: str(value)[:50])
def test_the_file_has_what_differs_with_its_unit_and_standard_value(path: str, values: dict[str, Any]) -> None:
    config = run_config(**values)
    content = run_file.to_yaml(config)
    changed = {setting.path for setting in forms.changed(config)}
    assert leaves(yaml.safe_load(content)) == changed | {"name", "base_model", "data.dataset_id"}
    setting = forms.by_path(path)
    assert setting is not None
    line = next(line for line in content.splitlines() if line.strip().startswith(f"{path.rpartition('.')[2]}: "))
    assert setting.label in line and line.endswith(f"standard {forms.standard_words(setting)}")
    assert setting.unit in line


def test_a_name_cannot_write_settings() -> None:
    config = run_config(name="x\u2028seed: 7 # '\" : -")
    assert run_file.from_yaml(run_file.to_yaml(config)) == config and config.seed == 0


def test_what_the_file_does_not_name_is_as_it_was() -> None:
    config = run_file.from_yaml("lora: {rank: 4}", name="mine", dataset_id="d1")
    assert config == replace(run_config(lora={"rank": 4}), name="mine")
    theirs = run_file.from_yaml(run_file.to_yaml(run_config()), name="mine", dataset_id="d2")
    assert theirs == run_config()


@pytest.mark.parametrize(
    ("content", "says", "field"),
    [
        ("name: x\nlora:\n  rank: 0\n", "Rank is 0 (line 3); it must be greater than or equal to 1.", "lora.rank"),
        ("seed: 1\nlora: {ranks: 3}", "There is no setting lora.ranks (line 2)", "lora.ranks"),
        ("lora:\n  rank_pattern:\n    q_proj: 0\n", "(line 3)", "lora.rank_pattern.q_proj"),
        ("optim:\n  epochs: many", "Epochs is 'many' (line 2)", "optim.epochs"),
        ("quant: 4", "Quant is 4 (line 1)", "quant"),
        ("data: [1]", "Data is [1] (line 1)", "data"),
        ("name: ''", "Name is '' (line 1)", "name"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line_and_setting(content: str, says: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_file.from_yaml(content, name="x", dataset_id="d1")
    assert says in str(caught.value) and caught.value.field == field


def test_a_file_without_a_dataset_is_refused_where_none_is_chosen() -> None:
    with pytest.raises(ConfigError, match="dataset_id is missing"):
        run_file.from_yaml("name: x")
