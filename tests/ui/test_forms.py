from __future__ import annotations

from typing import Any

import pytest

from core.config import to_dict
from core.errors import ConfigError
from tests.ui.stand_in import SHAPES, run_config
from ui import forms

NOT_IN_THE_TABLE = {"name", "base_model", "data.dataset_id"}


def leaves(values: dict[str, Any], before: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        found |= leaves(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}"}
    return found


def filled(**changes: Any) -> dict[str, Any]:
    return {**forms.values(run_config(), SHAPES), **changes}


def read(form: dict[str, Any], shapes: Any = SHAPES) -> Any:
    return forms.config(form, name="captain-r8", dataset_id="d1", base_model="starter", shapes=shapes)


def test_every_setting_of_a_run_is_in_the_table_once() -> None:
    paths = [setting.path for setting in forms.SETTINGS]
    assert set(paths) | NOT_IN_THE_TABLE == leaves(to_dict(run_config()))
    assert len(paths) == len(set(paths))


def test_an_untouched_form_is_the_default_run() -> None:
    assert read(filled()) == run_config()


def test_every_setting_has_a_label_and_a_hint_and_an_id_of_its_own() -> None:
    assert all(setting.label and setting.hint for setting in forms.SETTINGS)
    assert len({setting.elem_id for setting in forms.SETTINGS}) == len(forms.SETTINGS)


def test_a_run_shown_in_the_form_comes_back_equal() -> None:
    run = run_config(
        lora={"rank": 16, "targets": ("q_proj", "v_proj")},
        optim={"steps": 60, "learning_rate": 0.001, "schedule": "cosine"},
        quant={"bits": 4},
    )
    assert read(forms.values(run, SHAPES)) == run


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
