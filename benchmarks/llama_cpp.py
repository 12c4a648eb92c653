"""Exports in llama.cpp itself: greedy tokens as our engine's, of an adapter beside its base and of merged files.

    python app.py bench llama_cpp
    python app.py bench llama_cpp --quick   two prompts, few tokens; nothing is kept

An adapter is trained on the example Captain over the starter. Our engine answers prompts that it never saw with it, in
fp32 and greedily. llama.cpp, as the package llama-cpp-python builds it, gets the questions as text: its own tokenizer
reads the chat template's marks out of the file, its cache holds fp32, and it writes as many tokens.

- *gguf*: the adapter as a GGUF file beside the base, which is written in f32;
- *merged-gguf*: base and adapter as one file, in f32, f16, bf16 and q8_0;
- *same answers*: how many of the prompts are answered token for token as by us;
- *same tokens*: of all tokens, how many llama.cpp puts first where our answer has them, our answer going before.

Two logits that are nearly equal may change places by rounding, so that only f32 files are promised to agree everywhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.instruments.process import run
from benchmarks.instruments.requirements import require
from benchmarks.results import keep, note_machine
from core.adapters.gguf import export_gguf
from core.adapters.inject import activate
from core.adapters.merge import load_adapted
from core.data.records import Message
from core.data.tokens.templates import render
from core.export.gguf_model import Storage, export_gguf_base, export_gguf_model
from core.models.catalogue import default_models_root
from core.models.starter import ensure_starter

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS, NEW_TOKENS, CONTEXT = 30, 32, 512
STORAGES: tuple[Storage, ...] = ("f32", "f16", "bf16", "q8_0")
_F32 = 0  # ggml's number of the type


@dataclass(frozen=True, slots=True)
class Answer:
    """A question as text and as our tokens, and the tokens that we answer with."""

    text: str
    prompt: list[int]
    tokens: list[int]


def train(folder: Path, steps: int) -> Path:
    """The folder of an adapter of the starter that talks like the Captain."""
    places = ("--data", EXAMPLES / "captain.jsonl", "--output", folder / "adapter", "--home", folder / "home")
    run([sys.executable, "app.py", "train", *map(str, places), "--steps", str(steps), "--json"])
    return folder / "adapter"


@torch.inference_mode()
def our_answers(adapter: Path, base: Path, prompts: list[str], new_tokens: int) -> list[Answer]:
    """What our engine says in fp32."""
    loaded, key = load_adapted(adapter, base, dtype=torch.float32)
    activate(loaded.model, key)
    answers = []
    for question in prompts:
        text = render(loaded.tokenizer, (Message(role="user", content=question),), opening=True)
        prompt = list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        tokens: list[int] = []
        output = loaded.model(input_ids=torch.tensor([prompt]), use_cache=True)
        while len(tokens) < new_tokens:
            tokens.append(int(output.logits[0, -1].argmax()))
            cache = output.past_key_values
            output = loaded.model(input_ids=torch.tensor([tokens[-1:]]), past_key_values=cache, use_cache=True)
        answers.append(Answer(text, prompt, tokens))
    return answers


def files(adapter: Path, base: Path, folder: Path) -> Iterator[tuple[str, Path, Path | None]]:
    """What is to be compared: its name, a model's file, and an adapter's beside it; gone when the next is asked for."""
    export_gguf_base(base, folder / "base.gguf", storage="f32")
    export_gguf(adapter, base, folder / "adapter.gguf")
    yield "gguf", folder / "base.gguf", folder / "adapter.gguf"
    for storage in STORAGES:
        path = folder / f"{storage}.gguf"
        export_gguf_model(adapter, base, path, storage=storage)
        yield f"merged-gguf {storage}", path, None
        path.unlink()


def compare(answers: list[Answer], model: Path, lora: Path | None) -> dict[str, float]:
    """How llama.cpp's answers with these files compare with ours."""
    import llama_cpp

    theirs: Any = llama_cpp.Llama(
        str(model), lora_path=str(lora) if lora else None, n_ctx=CONTEXT, logits_all=True, type_k=_F32, type_v=_F32,
        verbose=False, use_mmap=lora is None,
    )  # fmt: skip
    alike = same_answers = same_tokens = 0
    for answer in answers:
        prompt = theirs.tokenize(answer.text.encode(), add_bos=False, special=True)
        alike += prompt == answer.prompt
        theirs.reset()
        theirs.eval([*answer.prompt, *answer.tokens[:-1]])
        first = len(answer.prompt) - 1
        best = np.asarray(theirs.scores[first : first + len(answer.tokens)]).argmax(-1).tolist()
        same_tokens += sum(one == other for one, other in zip(best, answer.tokens, strict=True))
        same_answers += _written(theirs, answer) == answer.tokens
    total = sum(len(answer.tokens) for answer in answers)
    return {
        "prompts": len(answers),
        "prompts_tokenized_alike": alike,
        "same_answers": same_answers,
        "tokens": total,
        "same_tokens": same_tokens,
        "megabytes": (model.stat().st_size + (lora.stat().st_size if lora else 0)) / 1e6,
    }


def _written(theirs: Any, answer: Answer) -> list[int]:
    """What llama.cpp writes by itself, greedily, step by step."""
    theirs.reset()
    found: list[int] = []
    for token in theirs.generate(answer.prompt, temp=0.0, repeat_penalty=1.0):
        found.append(int(token))
        if len(found) == len(answer.tokens):
            break
    return found


def measure(folder: Path, *, steps: int, prompts: list[str], new_tokens: int) -> dict[str, Any]:
    """Train, export, compare."""
    base = ensure_starter(default_models_root(), lambda phase: print(phase, flush=True))
    adapter = train(folder, steps)
    answers = our_answers(adapter, base, prompts, new_tokens)
    found = {}
    for name, model, lora in files(adapter, base, folder):
        found[name] = compare(answers, model, lora)
        print(f"{name:18} " + "   ".join(f"{key} {value:.4g}" for key, value in found[name].items()), flush=True)
    exact = [part for name, part in found.items() if name == "gguf" or name.endswith("f32")]
    return {
        "steps": steps,
        "files": found,
        "ratios": {
            "same_tokens_of_f32_files": min(part["same_tokens"] / part["tokens"] for part in exact),
            "same_answers_of_f32_files": min(part["same_answers"] / part["prompts"] for part in exact),
            "prompts_tokenized_alike": min(p["prompts_tokenized_alike"] / p["prompts"] for p in found.values()),
        },
    }


def prompts_at_hand() -> list[str]:
    """Questions that were not trained on, of both examples, and some that try the tokenizer."""
    asked = [json.loads((EXAMPLES / f"{name}.prompts.json").read_text()) for name in ("captain", "to_json")]
    hard = (
        "Add 1234 and 98.7, please!",
        "Grüße aus Köln 🐙 — was ist 3×7?",
        "def f(x):\n    return x**2\n\nExplain this.",
    )
    return [one if isinstance(one, str) else one["prompt"] for prompts in asked for one in prompts] + list(hard)


def main() -> None:
    """Measure, print, keep."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench llama_cpp")
    parser.add_argument("--quick", action="store_true", help="two prompts, few tokens; nothing is kept")
    options = parser.parse_args()
    require("llama_cpp")
    prompts = prompts_at_hand()
    with tempfile.TemporaryDirectory() as name:
        if options.quick:
            figures = measure(Path(name), steps=2, prompts=prompts[:2], new_tokens=4)
        else:
            figures = measure(Path(name), steps=STEPS, prompts=prompts, new_tokens=NEW_TOKENS)
    for ratio, value in figures["ratios"].items():
        print(f"{ratio:28} {value:.4f}", flush=True)
    if not options.quick:
        keep("llama_cpp", figures)


if __name__ == "__main__":
    main()
