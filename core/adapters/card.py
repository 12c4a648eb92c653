"""The README that travels with an adapter: what it is, how it was made, how to load it elsewhere, and what reads it.

What it is follows from the files beside it and not from what was asked for, so that the card is true of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from core.adapters.peft_settings import BITFIT, WEIGHTS_FILE, PeftSettings, read_settings
from core.config import STARTER, RunConfig
from core.data.tokens.named_templates import TEMPLATES

CARD = """---
base_model: {base_model}
library_name: {library}
tags: [{tag}]
---

# {name}

{article} adapter for `{base_model}`, trained with LoRA Workbench and stored in {form}.

| | |
|---|---|
{facts}

## Load it

{loading}
{remarks}"""

LOADING = """```python
import torch
from peft import PeftModel
from transformers import {kind}, AutoTokenizer

base = "{base_model}"
tokenizer = AutoTokenizer.from_pretrained({tokenizer})
model = {kind}.from_pretrained(base, dtype=torch.float32{labels})
{growing}model = PeftModel.from_pretrained(model, "path/to/this/folder")

{use}
```"""
TALK = """messages = [{"role": "user", "content": "Hello!"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True))"""
CLASSIFY = """inputs = tokenizer("Some text.", return_tensors="pt")
print(labels[model(**inputs).logits.argmax().item()])"""
READING_LABELS = """import json

labels = json.load(open("path/to/this/folder/labels.json"))
"""
GROWING = """if len(tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
"""
UNKNOWN_TO_PEFT = """peft knows no adapter of biases alone. LoRA Workbench loads this folder; for other programs, export
it as `merged`: base and biases as one model."""

STARTER_REMARK = """The starter model is that model with weights that were once rounded to 4 bits (Q4_1); outputs on the
original weights differ slightly from what the workbench showed."""
TEMPLATE_REMARK = """It was trained with {what}, which is in the tokenizer beside it."""
PLAIN_WORDS = "the workbench's plain chat template (### User, ### Assistant)"
LOFTQ_REMARK = """It belongs to its base in {bits} bits{kind}: its start (LoftQ) makes up for what quantization took.
On the base in 16 bits it is not what was trained."""
PLAIN_REMARK = """It is plain LoRA, which programs other than peft read as it is."""
PORTABLE_REMARK = """It uses {what}, which some programs pass over without a word, and then answer wrongly: vLLM ignores
ranks and alphas that differ, llama.cpp's converter rsLoRA as well. For these export it as `portable`, which is exact
for all of them, or as `gguf`."""
MERGE_REMARK = """It has {what}, which peft reads and most other programs do not. For these export it as `merged`: base
and adapter as one model."""
CONV1D_REMARK = """The base keeps its matrices transposed, which llama.cpp's converter of adapters gets wrong. For
llama.cpp export it as `gguf`."""


def write_card(
    folder: Path, config: RunConfig, base_model: str, *, eval_loss: float | None, base_eval_loss: float | None
) -> None:
    """Write `README.md` beside the adapter in `folder`; losses are nats a trained token on held-out rows, if any were.

    Raises:
        AdapterError: there is no adapter in `folder`.
    """
    settings = read_settings(folder)
    is_bitfit = settings.kind == BITFIT
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        has_embedding = any(name.endswith("lora_embedding_A") for name in file.keys())  # noqa: SIM118
    has_tokenizer = bool(config.lora.new_tokens) or (folder / "tokenizer_config.json").is_file()
    text = CARD.format(
        base_model=base_model,
        name=config.name,
        library="lora-workbench" if is_bitfit else "peft",
        tag="bitfit" if is_bitfit else "lora",
        article="A BitFit" if is_bitfit else "A LoRA",
        form="a form of its own" if is_bitfit else "PEFT's format",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts(config, settings, eval_loss, base_eval_loss)),
        loading=UNKNOWN_TO_PEFT if is_bitfit else _loading(config, base_model, has_tokenizer),
        remarks="".join(f"\n{remark}\n" for remark in _remarks(config, settings, has_embedding, has_tokenizer)),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def facts(
    config: RunConfig, settings: PeftSettings, eval_loss: float | None, base_eval_loss: float | None
) -> Iterator[tuple[str, str]]:
    """How an adapter was made and how well it does, as names and values."""
    lora = config.lora
    if settings.kind == BITFIT:
        yield "trained", "every bias"
    else:
        yield "rank, alpha, dropout", f"{lora.rank}, {lora.alpha:g}, {lora.dropout:g}"
        if (settings.rank, settings.alpha) != (lora.rank, lora.alpha):
            yield "stored as rank, alpha", f"{settings.rank}, {settings.alpha:g}: the same update, as peft can have it"
        variants = [name for name, is_on in (("rsLoRA", settings.use_rslora), ("DoRA", settings.use_dora)) if is_on]
        yield "variant", " and ".join(variants) or "plain"
        yield "start", lora.init + (", A frozen" if lora.freeze_a else "")
    yield from _besides(config, settings)
    yield "base while training", f"{config.quant.bits}-bit"
    optim = config.optim
    rate = "automatic" if optim.learning_rate is None else f"{optim.learning_rate:g}"
    yield "learning rate, rows a step, seed", f"{rate}, {optim.batch_size}, {config.seed}"
    losses = "not measured"
    if eval_loss is not None:
        losses = f"{eval_loss:.3f}" + (f" (base model: {base_eval_loss:.3f})" if base_eval_loss is not None else "")
    yield "evaluation loss", losses


def _besides(config: RunConfig, settings: PeftSettings) -> Iterator[tuple[str, str]]:
    if settings.whole:
        yield "modules trained whole", ", ".join(settings.whole)
    if settings.bias != "none" and settings.kind != BITFIT:
        yield "trained biases", "all" if settings.bias == "all" else "those of adapted layers"
    if config.lora.new_tokens:
        yield "new tokens", ", ".join(f"`{token}`" for token in config.lora.new_tokens)


def _loading(config: RunConfig, base_model: str, has_tokenizer: bool) -> str:
    is_classifier, has_tokens = config.task == "classification", bool(config.lora.new_tokens)
    code = LOADING.format(
        kind="AutoModelForSequenceClassification" if is_classifier else "AutoModelForCausalLM",
        base_model=base_model,
        tokenizer='"path/to/this/folder"' if has_tokenizer else "base",
        labels=", num_labels=len(labels)" if is_classifier else "",
        growing=GROWING if has_tokens else "",
        use=CLASSIFY if is_classifier else TALK,
    )
    return code.replace("import torch\n", f"{READING_LABELS}\nimport torch\n", 1) if is_classifier else code


def _remarks(config: RunConfig, settings: PeftSettings, has_embedding: bool, has_tokenizer: bool) -> Iterator[str]:
    if config.base_model == STARTER:
        yield STARTER_REMARK
    if has_tokenizer and not config.lora.new_tokens:
        named = config.data.template
        yield TEMPLATE_REMARK.format(what=f"the chat template {TEMPLATES[named].title}" if named else PLAIN_WORDS)
    if config.lora.init == "loftq" and settings.kind != BITFIT:
        kind = f" ({config.quant.quant_type} in blocks of {config.quant.block_size})" if config.quant.bits == 4 else ""
        yield LOFTQ_REMARK.format(bits=config.quant.bits, kind=kind)
    if settings.kind == BITFIT:
        return
    more = [
        *(["DoRA's magnitudes"] if settings.use_dora else []),
        *(["modules that were trained whole"] if settings.whole else []),
        *(["trained biases"] if settings.bias != "none" else []),
        *(["rows of the embedding"] if settings.tokens else []),
        *(["an adapted embedding"] if has_embedding else []),
    ]
    differing = [
        *(["ranks that differ"] if settings.rank_pattern.values else []),
        *(["alphas that differ"] if settings.alpha_pattern.values else []),
        *(["rsLoRA's scale"] if settings.use_rslora else []),
    ]
    if more:
        yield MERGE_REMARK.format(what=_listed(more))
    elif differing:
        yield PORTABLE_REMARK.format(what=_listed(differing))
    else:
        yield PLAIN_REMARK
    if settings.fan_in_fan_out and not more:
        yield CONV1D_REMARK


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
