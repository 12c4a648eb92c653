from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from core.adapters.card import write_card
from core.config import RunConfig, parse
from core.models.load import load_model
from core.models.vocabulary import add_tokens
from tests.core.adapters.peft_pairs import classifier, gpt2, llama, ours, quiet, saved_by_us


def config_of(lora: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    return parse(
        {"name": "Captain", "data": {"dataset_id": "d"}, "base_model": "some/base", "lora": lora or {}} | changes
    )


def card(model: nn.Module, folder: Path, config: RunConfig, **inject: Any) -> str:
    """The README of an adapter made by `config`, stirred."""
    settings = {name: getattr(config.lora, name) for name in config.lora.__dataclass_fields__ if name != "new_tokens"}
    saved_by_us(model, ours(model, settings, **inject), folder)
    write_card(folder, config, config.base_model, eval_loss=1.5, base_eval_loss=2.25)
    return (folder / "README.md").read_text()


def code_in(text: str, folder: Path, base: Path) -> str:
    """The card's Python, for the folders at hand."""
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1].replace("path/to/this/folder", str(folder)).replace('base = "some/base"', f"base = {str(base)!r}")


def ran(code: str, tmp_path: Path) -> str:
    """What `code` prints."""
    script, printed = tmp_path / "card.py", io.StringIO()
    script.write_text(code)
    with quiet(), contextlib.redirect_stdout(printed):
        runpy.run_path(str(script))
    return printed.getvalue()


def test_the_card_says_how_it_was_made_and_how_well_it_does(tmp_path: Path) -> None:
    text = card(llama(), tmp_path, config_of({"rank": 4, "alpha": 6, "dropout": 0.1, "targets": ["q_proj"]}))
    for said in (
        "# Captain",
        "base_model: some/base",
        "| rank, alpha, dropout | 4, 6, 0.1 |",
        "1.500 (base model: 2.250)",
    ):
        assert said in text
    assert "It is plain LoRA" in text and "stored as rank" not in text


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "rsLoRA": ({"use_rslora": True}, "uses rsLoRA's scale, which some programs pass over"),
    "patterns": (
        {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
        "uses ranks that differ and alphas that differ, which some",
    ),
    "DoRA": ({"use_dora": True}, "has DoRA's magnitudes, which peft reads and most other programs do not"),
    "whole modules": ({"modules_to_save": ["model.norm"]}, "has modules that were trained whole, which peft reads"),
    "an embedding": ({"targets": ["embed_tokens"]}, "has an adapted embedding, which peft reads"),
    "PiSSA": ({"init": "pissa"}, "| stored as rank, alpha | 8, 20: the same update"),
    "LoRA-FA": ({"freeze_a": True}, "| start | kaiming, A frozen |"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_card_says_what_is_true_of_a_variant(case: str, tmp_path: Path) -> None:
    settings, said = CASES[case]
    text = card(llama(), tmp_path, config_of({"rank": 4, "alpha": 10, "targets": ["q_proj"]} | settings))
    assert said in " ".join(text.split())


def test_a_loftq_start_belongs_to_its_quantized_base(tmp_path: Path) -> None:
    model = llama()
    saved_by_us(model, ours(model, {"rank": 4, "targets": ("q_proj",)}), tmp_path)
    config = config_of({"rank": 4, "targets": ["q_proj"], "init": "loftq"}, quant={"bits": 4, "block_size": 128})
    write_card(tmp_path, config, "some/base", eval_loss=None, base_eval_loss=None)
    text = " ".join((tmp_path / "README.md").read_text().split())
    assert "It belongs to its base in 4 bits (nf4 in blocks of 128)" in text and "not measured" in text


def test_of_transposed_matrices_llama_cpps_converter_is_warned_about(tmp_path: Path) -> None:
    assert "export it as `gguf`" in card(gpt2(), tmp_path, config_of({"rank": 4, "targets": ["c_attn"]}))


def test_biases_alone_are_not_said_to_load_in_peft(tmp_path: Path) -> None:
    text = card(gpt2(), tmp_path, config_of(method="bitfit"), bias_only=True)
    assert "A BitFit adapter" in text and "PeftModel" not in text and "export\nit as `merged`" in text


def test_the_cards_code_runs_with_new_tokens_in_it(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_folder, dtype=torch.float32)
    config = config_of({"rank": 4, "targets": ["q_proj"], "new_tokens": ["<ship>"]})
    text = card(loaded.model, tmp_path, config, tokens=add_tokens(loaded, ["<ship>"]))
    loaded.tokenizer.save_pretrained(tmp_path)
    assert "| new tokens | `<ship>` |" in text and "rows of the embedding" in text
    code = code_in(text, tmp_path, tiny_folder).replace("max_new_tokens=100", "max_new_tokens=2")
    assert "Hello!" in ran(code, tmp_path)


def test_the_cards_code_names_a_class(tiny_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    model: Any = classifier()
    model.resize_token_embeddings(49152, mean_resizing=False)
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(base)
    config = config_of({"rank": 4, "targets": ["q_proj"], "modules_to_save": ["score"]}, task="classification")
    text = card(model, tmp_path / "ours", config)
    (tmp_path / "ours" / "labels.json").write_text(json.dumps(["calm", "storm", "fog"]))
    assert ran(code_in(text, tmp_path / "ours", base), tmp_path).strip() in ("calm", "storm", "fog")
