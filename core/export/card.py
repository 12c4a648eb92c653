"""The README of an export: what it is, how it was made, what reading it back has shown, and how to use it.

An adapter in PEFT's format keeps the card that its training wrote; the data and the check are added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.adapters import card
from core.adapters.peft_settings import BITFIT, PeftSettings, read_settings
from core.config import STARTER
from core.export.about import About
from core.export.verdict import Verdict

CARD_FILE = "README.md"
CHECK_HEAD = "## Read back after it was written"


@dataclass(frozen=True, slots=True)
class _Form:
    library: str
    words: str
    use: str


TRANSFORMERS = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
messages = [{"role": "user", "content": "Hello!"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True))
```"""
LLAMA_ADAPTER = """```sh
llama-cli -m base.gguf --lora this-file.gguf
```

`base.gguf` is the base model as llama.cpp's converter makes it."""
LLAMA_MODEL = """```sh
llama-cli -m this-file.gguf
```"""
PEFT = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "path/to/this/folder")
```"""
WORKBENCH = """With LoRA Workbench, from the folder of the adapter:

```sh
python app.py chat --adapter path/to/this/folder --prompt "Hello!"
```"""
_FORMS = {
    "peft": _Form("peft", "A LoRA adapter for {base}, in PEFT's format.", PEFT + "\n\n" + WORKBENCH),
    "portable": _Form(
        "peft",
        "A LoRA adapter for {base}, in PEFT's format and plain enough for every program that reads it: one rank, the "
        "scale in B.",
        PEFT + "\n\n" + WORKBENCH,
    ),
    "merged": _Form("transformers", "{base} with a LoRA adapter merged into it.", TRANSFORMERS),
    "gguf": _Form("gguf", "A LoRA adapter for {base}, as llama.cpp reads it.", LLAMA_ADAPTER),
    "merged-gguf": _Form("gguf", "{base} with a LoRA adapter merged into it, as one file for llama.cpp.", LLAMA_MODEL),
}


def export_card(form: str, about: About, adapter: Path, verdict: Verdict) -> str:
    """The card of an export of the adapter in the folder `adapter`.

    Raises:
        AdapterError: there is no adapter in it.
    """
    settings = read_settings(adapter)
    own = adapter / CARD_FILE
    if form == "peft" and own.is_file():
        return _head(about, settings, "peft", form) + _kept(own.read_text(encoding="utf-8"), about) + _check(verdict)
    shown = _FORMS[form.removesuffix("-q8_0")]
    base = f"`{about.base_name}`"
    parts = [
        f"# {about.name}",
        f"{shown.words.format(base=base)} Made with LoRA Workbench.",
        _table(about, settings),
        _check(verdict).rstrip(),
        f"## Use it\n\n{shown.use.replace('{base}', about.base_name)}",
    ]
    if about.config is not None and about.config.base_model == STARTER:
        parts.append(card.STARTER_REMARK)
    return _head(about, settings, shown.library, form) + "\n\n".join(parts) + "\n"


def write_export_card(folder: Path, form: str, about: About, adapter: Path, verdict: Verdict) -> None:
    """Write the card into `folder`."""
    (folder / CARD_FILE).write_text(export_card(form, about, adapter, verdict), encoding="utf-8")


def _kept(text: str, about: About) -> str:
    """What the training wrote, without its head and an earlier check, and with the data."""
    body = text.partition("\n---\n")[2] if text.startswith("---\n") else text
    body = body.partition(f"\n{CHECK_HEAD}")[0].strip()
    if not about.base_id and about.base_model:
        body = body.replace(about.base_model, about.base_name)
    data = f"## Data\n\nIt was trained on {_data_words(about)}.\n\n" if about.data_sha256 else ""
    return f"{body}\n\n{data}"


def _head(about: About, settings: PeftSettings, library: str, form: str) -> str:
    kind = "base_model_relation: " + ("merge" if form == "merged" else "quantized" if "merged" in form else "adapter")
    lines = [
        *([f"base_model: {json.dumps(about.base_id)}", kind] if about.base_id else []),
        f"library_name: {library if settings.kind != BITFIT else 'lora-workbench'}",
        "pipeline_tag: " + ("text-generation" if not _is_classifier(about) else "text-classification"),
        *([f"license: {about.licence}"] if about.licence else []),
        "tags: [lora, lora-workbench]",
    ]
    return "---\n" + "\n".join(lines) + "\n---\n\n"


def _is_classifier(about: About) -> bool:
    return about.config is not None and about.config.task == "classification"


def _table(about: About, settings: PeftSettings) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(about, settings))
    return f"| | |\n|---|---|\n{rows}"


def _facts(about: About, settings: PeftSettings) -> Iterator[tuple[str, str]]:
    if about.data_sha256:
        yield "trained on", _data_words(about)
    if about.config is not None:
        yield from card.facts(about.config, settings, about.eval_loss, about.base_eval_loss)
        optim = about.config.optim
        length = f"{optim.steps} steps" if optim.steps else f"{optim.epochs:g} epochs"
        yield "length, schedule", f"{length}, {optim.schedule}"
        yield "tokens a row, at most", str(about.config.data.max_tokens)
    else:
        yield "rank, alpha", f"{settings.rank}, {settings.alpha:g}"


def _data_words(about: About) -> str:
    rows = f"{about.data_rows:,} rows" if about.data_rows is not None else "rows"
    return f"{rows} with SHA-256 `{about.data_sha256}`"


def _check(verdict: Verdict) -> str:
    return f"{CHECK_HEAD}\n\n{verdict.sentence}\n"
