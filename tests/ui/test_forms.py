from __future__ import annotations

from typing import Any

import pytest

from core.config import to_dict
from core.errors import ConfigError
from tests.ui.stand_in import SHAPES, run_config
from ui import forms
from ui.evidence import EVIDENCE
from ui.settings import ELSEWHERE, NUMBER_KINDS, TASK


def leaves(values: dict[str, Any], before: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        is_section = isinstance(value, dict) and not name.endswith("_pattern")
        found |= leaves(value, f"{before}{name}.") if is_section else {f"{before}{name}"}
    return found


# Every setting with another value than its default, and whatever else that value needs.
OTHER_VALUES: list[tuple[str, dict[str, Any]]] = [
    ("method", {"method": "full"}),
    ("method", {"method": "bitfit", "quant": {"bits": 4, "quant_type": "fp4"}}),
    ("task", {"task": "classification"}),
    ("lora.rank", {"lora": {"rank": 16}}),
    ("lora.alpha", {"lora": {"alpha": 12.5}}),
    ("lora.dropout", {"lora": {"dropout": 0.1}}),
    ("lora.targets", {"lora": {"targets": ["q_proj", "v_proj"]}}),
    ("lora.layers", {"lora": {"layers": [0, 1, 2, 3, 7]}}),
    ("lora.layers", {"lora": {"layers": [7, 1]}}),
    ("lora.use_rslora", {"lora": {"use_rslora": True}}),
    ("lora.use_dora", {"lora": {"use_dora": True}}),
    ("lora.init", {"lora": {"init": "pissa"}}),
    ("lora.freeze_a", {"lora": {"freeze_a": True}}),
    ("lora.rank_pattern", {"lora": {"rank_pattern": {"q_proj": 16, "layers.3.mlp.up_proj": 4}}}),
    ("lora.alpha_pattern", {"lora": {"alpha_pattern": {"q_proj": 0.5, "v_proj": 64}}}),
    ("lora.bias", {"lora": {"bias": "lora_only"}}),
    ("lora.modules_to_save", {"lora": {"modules_to_save": ["norm", "layers.1"]}}),
    ("lora.new_tokens", {"lora": {"new_tokens": ["<tool>", "two words, and a comma", ' "quoted" ', "a\nb", "\u2028"]}}),
    ("quant.bits", {"quant": {"bits": 4}}),
    ("quant.quant_type", {"quant": {"quant_type": "fp4"}}),
    ("quant.double_quant", {"quant": {"double_quant": False}}),
    ("quant.block_size", {"quant": {"block_size": 128}}),
    ("quant.skip", {"quant": {"skip": ["down_proj", "layers.0.self_attn.q_proj"]}}),
    ("data.max_tokens", {"data": {"dataset_id": "d1", "max_tokens": 512}}),
    ("data.train_on", {"data": {"dataset_id": "d1", "train_on": "last"}}),
    ("data.template", {"data": {"dataset_id": "d1", "template": "chatml"}}),
    ("data.holdout", {"data": {"dataset_id": "d1", "holdout": 0.2}}),
    ("optim.learning_rate", {"optim": {"learning_rate": 0.0005}}),
    ("optim.schedule", {"optim": {"schedule": "cosine"}}),
    ("optim.warmup", {"optim": {"warmup": 0.1}}),
    ("optim.epochs", {"optim": {"epochs": 1.5}}),
    ("optim.steps", {"optim": {"steps": 60}}),
    ("optim.batch_size", {"optim": {"batch_size": 4}}),
    ("optim.micro_tokens", {"optim": {"micro_tokens": 512}}),
    ("optim.checkpointing", {"optim": {"checkpointing": True}}),
    ("optim.weight_decay", {"optim": {"weight_decay": 0.01}}),
    ("optim.clip_norm", {"optim": {"clip_norm": 0.5}}),
    ("optim.evaluations", {"optim": {"evaluations": 2}}),
    ("optim.checkpoints", {"optim": {"checkpoints": 5}}),
    ("optim.lora_plus_ratio", {"optim": {"lora_plus_ratio": 16}}),
    ("samples.rows", {"samples": {"rows": 0}}),
    ("samples.prompts", {"samples": {"prompts": ["What is a star?", "Two words, and a comma"]}}),
    ("tracker", {"tracker": "trackio"}),
    ("seed", {"seed": 7}),
]


def filled(**changes: Any) -> dict[str, Any]:
    return {**forms.values(run_config(), SHAPES), **changes}


def read(form: dict[str, Any], shapes: Any = SHAPES) -> Any:
    return forms.config(form, name="captain-r8", dataset_id="d1", base_model="starter", shapes=shapes)


def test_every_setting_of_a_run_is_in_the_table_once() -> None:
    paths = [setting.path for setting in forms.SETTINGS]
    assert set(paths) - {forms.MORE_TARGETS} | set(ELSEWHERE) == leaves(to_dict(run_config()))
    assert len(paths) == len(set(paths)) and all(ELSEWHERE.values()) and not set(paths) & set(ELSEWHERE)


def test_an_untouched_form_is_the_default_run() -> None:
    assert read(filled()) == run_config()


def test_every_setting_has_a_label_and_a_hint_and_an_id_of_its_own() -> None:
    assert all(setting.label and setting.hint for setting in forms.SETTINGS)
    assert len({setting.elem_id for setting in forms.SETTINGS}) == len(forms.SETTINGS)


def test_every_number_says_what_it_counts_and_every_label_is_told_from_the_others() -> None:
    assert all(setting.unit for setting in forms.SETTINGS if setting.kind in NUMBER_KINDS)
    assert len({setting.title for setting in forms.SETTINGS}) == len(forms.SETTINGS)


def test_every_setting_tells_its_standard_value() -> None:
    assert all(forms.standard_words(setting) for setting in forms.SETTINGS)
    found = {setting.path: forms.standard_words(setting) for setting in forms.SETTINGS}
    wanted = {"lora.rank": "8", "quant.bits": "16-bit", "lora.use_dora": "off", "optim.steps": "by epochs"}
    assert wanted.items() <= found.items()
    assert all(forms.with_standard(row, row.hint).endswith(found[row.path]) for row in forms.SETTINGS)


def test_evidence_is_about_settings_that_there_are() -> None:
    assert set(EVIDENCE) <= {setting.path for setting in forms.SETTINGS}


@pytest.mark.parametrize("shapes", [SHAPES, ()], ids=["here", "not here"])
def test_an_untouched_form_differs_in_nothing(shapes: Any) -> None:
    standard = forms.standards(shapes)
    assert forms.differing(standard, shapes) == ()
    assert read(standard, shapes) == run_config()


@pytest.mark.parametrize(("path", "values"), OTHER_VALUES, ids=lambda value: str(value)[:50])
def test_what_differs_is_marked_and_goes_back(path: str, values: dict[str, Any]) -> None:
    shown = forms.values(run_config(**values), SHAPES)
    marked = {setting.path for setting in forms.differing(shown, SHAPES)}
    assert marked == {setting.path for setting in forms.changed(run_config(**values))} - {TASK}
    back = shown | {path: forms.standards(SHAPES)[path] for path in marked}
    assert forms.differing(back, SHAPES) == ()


def test_what_cannot_be_read_is_marked_too_and_blanks_are_no_difference() -> None:
    form = filled(**{"lora.rank": 0, "optim.batch_size": None, "optim.steps": "  ", forms.MORE_TARGETS: " lm_head"})
    assert {row.path for row in forms.differing(form, SHAPES)} == {"lora.rank", "optim.batch_size", forms.MORE_TARGETS}


def test_what_a_method_has_no_use_for_is_not_marked() -> None:
    form = filled(method="full", **{"lora.rank": 3})
    assert [row.path for row in forms.differing(form, SHAPES)] == ["method"]


@pytest.mark.parametrize(("path", "values"), OTHER_VALUES, ids=lambda value: str(value)[:50])
def test_every_setting_goes_from_the_form_to_the_run_and_back(path: str, values: dict[str, Any]) -> None:
    run = run_config(**values)
    assert forms.at(to_dict(run), path) != forms.default(path)
    shown = forms.values(run, SHAPES)
    assert read(shown) == run
    assert forms.values(read(shown), SHAPES) == shown


def test_no_setting_was_forgotten_above() -> None:
    assert {path for path, _ in OTHER_VALUES} == {setting.path for setting in forms.SETTINGS} - {forms.MORE_TARGETS}


@pytest.mark.parametrize(
    "targets",
    [
        ("auto",), ("q_proj",), ("auto", "embed_tokens"), ("v_proj", "q_proj", "layers.1.mlp.up_proj"), ("lm_head",),
        ("qkv_proj:v", "o_proj"), ("model.layers.0.self_attn.q_proj",),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("shapes", [SHAPES, ()], ids=["here", "not here"])
def test_targets_without_a_box_of_their_own_are_kept_as_text(targets: tuple[str, ...], shapes: Any) -> None:
    run = run_config(lora={"targets": targets})
    assert set(read(forms.values(run, shapes), shapes).lora.targets) == set(targets)


@pytest.mark.parametrize("method", ["full", "bitfit"])
def test_settings_of_an_adapter_are_left_alone_by_other_methods(method: str) -> None:
    form = filled(method=method, **{"lora.rank": 0, "lora.init": "pissa", "lora.rank_pattern": "nonsense"})
    assert read(form) == run_config(method=method)
    shown = [setting.path for setting in forms.SETTINGS if forms.applies(setting, method)]
    assert "optim.epochs" in shown and not any(path.startswith("lora.") for path in shown)


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("lora.rank_pattern", "q_proj", "'q_proj' is no name with its number"),
        ("lora.rank_pattern", "q_proj=many", "no name with its number"),
        ("lora.rank_pattern", "q_proj=4, q_proj=8", "q_proj is there twice"),
        ("lora.rank_pattern", "q_proj=0", "0"),
        ("lora.rank_pattern", "q_proj=2.5", "2.5"),
        ("lora.rank_pattern", "layers.3.mlp.up_proj=0", "0"),
        ("lora.alpha_pattern", "=4", "'=4'"),
        ("lora.layers", "0-", "'0-'"),
        ("lora.layers", "3-1", "'3-1'"),
        ("lora.layers", "all", "'all'"),
        ("lora.layers", "0-99999999999", "0-99999999999"),
        ("lora.new_tokens", '"<a', "quotation mark"),
    ],
)
def test_what_is_typed_and_cannot_be_read_is_said_beside_its_box(path: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(filled(**{path: text}))
    assert says in caught.value.title
    assert forms.by_path(caught.value.field) == forms.by_path(path) is not None


def test_the_precision_explains_what_full_fine_tuning_needs() -> None:
    bits = forms.by_path("quant.bits")
    assert bits is not None
    assert "16 or 32" in forms.hint(bits, None, "full") and "16 or 32" not in forms.hint(bits, None, "lora")


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("lora.rank", 0, "Rank"),
        ("lora.rank", 8.5, "Rank"),
        ("optim.learning_rate", "fast", "Learning rate"),
        ("optim.steps", "-1", "Steps"),
        ("data.holdout", 0.9, "Holdout"),
        ("quant.bits", 3, "Bits"),
    ],
)
def test_an_error_names_the_setting_beside_which_it_belongs(path: str, value: Any, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(filled(**{path: value}))
    assert forms.by_path(caught.value.field) == forms.by_path(path)
    assert word in caught.value.title and caught.value.hint


def test_an_emptied_number_is_asked_for_and_an_optional_one_is_not() -> None:
    with pytest.raises(ConfigError, match="Batch size is empty"):
        read(filled(**{"optim.batch_size": None}))
    assert read(filled(**{"optim.steps": "  "})).optim.steps is None


def test_all_that_auto_means_is_auto_and_less_is_its_names() -> None:
    assert read(filled()).lora.targets == ("auto",)
    assert read(filled(**{forms.TARGETS: ["up_proj", "v_proj", "q_proj"]})).lora.targets == ("auto",)
    assert read(filled(**{forms.TARGETS: ["q_proj"]})).lora.targets == ("q_proj",)


def test_no_targets_are_refused_but_not_while_the_model_is_unknown() -> None:
    with pytest.raises(ConfigError) as caught:
        read(filled(**{forms.TARGETS: []}))
    assert caught.value.field == forms.TARGETS
    assert read(filled(**{forms.TARGETS: []}), shapes=()).lora.targets == ("auto",)


def test_target_choices_tell_sizes() -> None:
    assert forms.target_choices(SHAPES)[1] == ("v_proj  64→32", "v_proj")


def test_changed_lists_what_differs_from_the_defaults() -> None:
    assert forms.changed(run_config()) == ()
    assert [row.path for row in forms.changed(run_config(seed=7, lora={"rank": 4}))] == ["lora.rank", "seed"]
