"""The card of an export says what is true of it, and nothing of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from core.adapters.card import write_card
from core.config import RunConfig, parse
from core.export.about import About, from_dict, licence_of
from core.export.card import export_card
from core.export.verdict import Verdict
from tests.core.adapters.peft_pairs import llama, ours, saved_by_us

VERDICT = Verdict(reader="peft 1.0", stored="bfloat16", difference=0.0123, bound=0.17, agreed=63, tokens=64)
FORMS = ("peft", "portable", "merged", "gguf", "merged-gguf", "merged-gguf-q8_0")


def config(base: str = "some/base") -> RunConfig:
    return parse({"name": "Captain", "data": {"dataset_id": "d"}, "base_model": base, "lora": {"rank": 4}})


def about(base: str = "some/base", with_config: bool = True) -> About:
    return About(
        name="Captain", base_model=base, licence="mit", config=config(base) if with_config else None, eval_loss=1.25,
        base_eval_loss=2.5, data_sha256="ab" * 32, data_rows=1234,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = llama()
    return saved_by_us(model, ours(model, {"rank": 4, "targets": ("q_proj",)}), tmp_path / "adapter")


def head(text: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(text.split("---")[1])
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_data_settings_metrics_licence_and_figure(form: str, folder: Path) -> None:
    text = export_card(form, about(), folder, VERDICT)
    assert head(text)["license"] == "mit" and head(text)["base_model"] == "some/base"
    assert head(text)["library_name"] == {"peft": "peft", "portable": "peft", "merged": "transformers"}.get(
        form, "gguf"
    )
    for said in ("# Captain", "`some/base`", "1,234 rows", "ab" * 32, "1.250 (base model: 2.500)", VERDICT.sentence):
        assert said in text
    assert "## Use it" in text


def test_what_the_training_wrote_stays_and_an_earlier_check_goes(folder: Path) -> None:
    write_card(folder, config(), "some/base", eval_loss=1.25, base_eval_loss=None)
    once = export_card("peft", about(), folder, VERDICT)
    assert "It is plain LoRA" in once and once.count(VERDICT.sentence) == 1 and once.count("---\n") >= 2
    (folder / "README.md").write_text(once)
    again = export_card("peft", about(with_config=False), folder, VERDICT)
    assert again.count("## Read back") == 1 and again.count("library_name") == 1 and "It is plain LoRA" in again


def test_a_base_in_a_folder_is_named_by_its_last_part_alone(folder: Path) -> None:
    base = "/home/ann/models/tiny"
    write_card(folder, config(base), base, eval_loss=None, base_eval_loss=None)
    for form in FORMS:
        text = export_card(form, about(base), folder, VERDICT)
        assert "/home/ann" not in text and "tiny" in text and "base_model" not in head(text)


def test_the_licence_is_the_bases_own(tmp_path: Path) -> None:
    assert licence_of("starter", tmp_path) == "apache-2.0" and licence_of("some/base", tmp_path) == ""
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: llama3.2\n---\nlicense: none\n")
    assert licence_of("some/base", tmp_path) == "llama3.2"
    (tmp_path / "README.md").write_text("license: mit\n")
    assert licence_of("some/base", tmp_path) == ""


def test_what_is_known_survives_the_way_to_a_child() -> None:
    assert from_dict(about().as_dict()) == about()
    assert from_dict(about(with_config=False).as_dict()) == about(with_config=False)
