"""Side-by-side chat: four panes beside one, beside transformers' generate with peft, and the first token.

    python app.py bench chat
    python app.py bench chat --quick        few tokens, one round; nothing is kept
    python -m benchmarks.chat --json FILE   the figures go to FILE

Four adapters of rank 16 on all linear layers, with a random B that is not zero, are written in PEFT's format; both
sides load the same files over the starter, in the dtype that is the faster one here. All write the same number of
tokens, greedily, behind prompts of 100 tokens, and take turns in one process. No prompt comes twice, so that nothing
is kept of it but where that is measured. Ratios are taken within a round; figures are medians over rounds.

- *four panes over one*: our time for four adapters in one batch, and for the base beside three, over our time for one;
- *over transformers*: the time of `generate` for one adapter after another, over ours for the four together. peft keeps
  adapters in fp32 as it comes, and in the base's dtype where it is told to: the faster of the two counts;
- *first token*: from a tokenized prompt to the first token behind it, model and adapters loaded, one pane and four;
- *second turn*: its first token in four panes, with a turn of 200 tokens before it and 20 that are new, over the same
  computed afresh;
- *requests*: sixteen, each with a prompt of its own, four for each adapter, at once and one after another, the reading
  of the prompts included; each writes a quarter of the tokens;
- *floor*: what reading the base's weights once takes at the speed at which this machine reads memory, over the median
  time between two tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.instruments.machine import OthersShare
from benchmarks.instruments.requirements import require
from benchmarks.results import keep, note_machine
from core.adapters.inject import inject, lora_layers
from core.adapters.peft_format import save_adapter
from core.config import LoraConfig
from core.generate.chat import ChatModel
from core.generate.requests import Sampling
from core.generate.sampling import choose
from core.models.catalogue import default_models_root
from core.models.load import load_model
from core.models.starter import ensure_starter

PANES, RANK, PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 4, 16, 100, 100, 3
TURN_TOKENS, QUESTION_TOKENS = 200, 20
REQUESTS = 16
READ_BYTES = 2**29
PEFT = {"transformers": True, "transformers_16_bit_adapters": False}  # whether adapters are kept in fp32


def write_adapters(model_folder: Path, folder: Path) -> list[Path]:
    """Folders of adapters that change what the base says, one a pane."""
    config = LoraConfig(rank=RANK, alpha=2 * RANK, targets=("all-linear",))
    model = load_model(model_folder, dtype=torch.float32).model
    for seed in range(PANES):
        inject(model, config, key=str(seed), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for layer in lora_layers(model).values():
            b = layer.adapters[str(seed)].b
            b.data.copy_(0.01 * torch.randn(b.shape, generator=generator))
        save_adapter(model, str(seed), folder / str(seed), config, "starter")
    return [folder / str(seed) for seed in range(PANES)]


class Ours:
    """Our side. Times are in seconds; no two prompts are the same."""

    def __init__(self, model_folder: Path, adapters: Sequence[Path]) -> None:
        self.chat = ChatModel(model_folder)
        self.keys = [self.chat.load_adapter(path) for path in adapters]
        self._generator = torch.Generator().manual_seed(0)

    def prompt(self, tokens: int) -> list[int]:
        """Random tokens."""
        vocabulary = self.chat.loaded.model.config.vocab_size
        return torch.randint(vocabulary, (tokens,), generator=self._generator).tolist()

    @torch.inference_mode()
    def write(self, prompts: Sequence[list[int]], adapters: Sequence[str | None], tokens: int) -> list[float]:
        """Let a row for each adapter answer its prompt; when each token was there, counted from the beginning."""
        begin, samplings, seconds = time.perf_counter(), [Sampling(temperature=0.0)] * len(adapters), []
        generators = [torch.Generator() for _ in adapters]
        decoder = self.chat.decoder
        rows = [decoder.read(prompt, adapter) for prompt, adapter in zip(prompts, adapters, strict=True)]
        logits = torch.stack([row.logits for row in rows])
        answers: list[list[int]] = []
        for number in range(tokens):
            logits = decoder.write(rows, answers[-1]) if number else logits
            answers.append(choose(logits, samplings, generators, [()] * len(adapters)))
            seconds.append(time.perf_counter() - begin)
        for row in rows:
            decoder.keep(row)
        decoder.rest()
        return seconds

    def second_turn(self) -> tuple[float, float]:
        """The first token of a second turn in all panes: with the first one kept, and afresh."""
        turn, panes = self.prompt(TURN_TOKENS), len(self.keys)
        self.write([turn] * panes, self.keys, 1)
        longer = turn + self.prompt(QUESTION_TOKENS)
        kept = self.write([longer] * panes, self.keys, 1)[0]
        return kept, self.write([self.prompt(TURN_TOKENS + QUESTION_TOKENS)] * panes, self.keys, 1)[0]

    def requests(self, tokens: int) -> tuple[float, float]:
        """Seconds for `REQUESTS` of all adapters at once, and for one after another."""
        prompts = [[self.prompt(PROMPT_TOKENS) for _ in range(REQUESTS)] for _ in range(2)]
        adapters = [self.keys[number % len(self.keys)] for number in range(REQUESTS)]
        together = self.write(prompts[0], adapters, tokens)[-1]
        each = [self.write([prompt], [key], tokens)[-1] for prompt, key in zip(prompts[1], adapters, strict=True)]
        return together, sum(each)


def transformers_side(model_folder: Path, paths: Sequence[Path], dtype: torch.dtype, *, is_wide: bool) -> Any:
    """A function that writes the same with each adapter in turn, and returns the seconds that this took."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype).eval()
    model: Any = PeftModel.from_pretrained(base, paths[0], adapter_name="0", autocast_adapter_dtype=is_wide)
    for number, path in enumerate(paths[1:], start=1):
        model.load_adapter(path, adapter_name=str(number), autocast_adapter_dtype=is_wide)

    def generate(prompt: list[int], tokens: int) -> float:
        ids, begin = torch.tensor([prompt]), time.perf_counter()
        settings = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens}
        for number in range(len(paths)):
            model.set_adapter(str(number))
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
        return time.perf_counter() - begin

    return generate


def read_speed() -> float:
    """Bytes a second at which all cores together read memory that no cache holds: the best of several sums."""
    numbers = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - begin)
    return READ_BYTES / min(seconds)


def weight_bytes(model: torch.nn.Module) -> int:
    """What a token reads of the base: every weight once; of a tied embedding and head, the head."""
    own = [tensor for name, tensor in (*model.named_parameters(), *model.named_buffers()) if ".adapters." not in name]
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in own)


def a_round(ours: Ours, theirs: dict[str, Callable[[list[int], int], float]], tokens: int) -> dict[str, float]:
    """Everything once."""
    found: dict[str, float] = {}
    rows = {"one_pane": ours.keys[:1], "four_panes": ours.keys, "base_and_three": [None, *ours.keys[1:]]}
    for name, adapters in rows.items():
        seconds = ours.write([ours.prompt(PROMPT_TOKENS)] * len(adapters), adapters, tokens)
        between = [later - sooner for sooner, later in zip(seconds, seconds[1:], strict=False)]
        found |= {
            name: seconds[-1], f"{name}_first_token": seconds[0], f"{name}_a_token": statistics.median(between)
        }  # fmt: skip
    for name, generate in theirs.items():
        found[name] = generate(ours.prompt(PROMPT_TOKENS), tokens)
    found["second_turn"], found["second_turn_afresh"] = ours.second_turn()
    found["requests_at_once"], found["requests_in_turn"] = ours.requests(-(-tokens // 4))
    found["bytes_read_per_second"] = read_speed()
    return found


def compare(folder: Path, rounds: int, tokens: int) -> dict[str, Any]:
    """All figures; the first round warms up and is left out."""
    model_folder = ensure_starter(default_models_root(), partial(print, flush=True))
    paths = write_adapters(model_folder, folder)
    ours = Ours(model_folder, paths)
    dtype = ours.chat.loaded.dtype
    theirs = {name: transformers_side(model_folder, paths, dtype, is_wide=wide) for name, wide in PEFT.items()}
    found, others = [], OthersShare()
    for number in range(rounds + 1):
        found.append(a_round(ours, theirs, tokens))
        print(f"{number or 'warm-up'}: " + "   ".join(f"{name} {value:.4g}" for name, value in found[-1].items()))
    figures = figures_of(found[1:], weight_bytes(ours.chat.loaded.model))
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "new_tokens": tokens,
        "others_share": others.stop(),
        **figures,
    }


def figures_of(rounds: Sequence[dict[str, float]], bytes_a_token: int) -> dict[str, Any]:
    """Medians over rounds, of what was measured and of the ratios within each round."""
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    peft = min(PEFT, key=lambda name: medians[name])

    def ratio(one: str, other: str) -> float:
        return statistics.median(found[one] / found[other] for found in rounds)

    floor = bytes_a_token / medians["bytes_read_per_second"]
    return {
        "medians": medians,
        "weight_bytes_a_token": bytes_a_token,
        "ratios": {
            "four_panes_over_one": ratio("four_panes", "one_pane"),
            "base_and_three_over_one": ratio("base_and_three", "one_pane"),
            "over_transformers": ratio(peft, "four_panes"),
            "first_token_seconds": medians["one_pane_first_token"],
            "first_token_of_four_seconds": medians["four_panes_first_token"],
            "requests_at_once_over_in_turn": ratio("requests_in_turn", "requests_at_once"),
            "second_turn_over_afresh": ratio("second_turn", "second_turn_afresh"),
            "floor_of_one_pane": floor / medians["one_pane_a_token"],
            "floor_of_four_panes": floor / medians["four_panes_a_token"],
        },
    }


def main() -> None:
    """Measure, print, keep."""
    note_machine()
    parser = argparse.ArgumentParser(prog="bench chat")
    parser.add_argument("--quick", action="store_true", help="few tokens, one round; nothing is kept")
    parser.add_argument("--json", type=Path, help="write the figures there instead")
    options = parser.parse_args()
    require("peft")
    with tempfile.TemporaryDirectory() as folder:
        small = {"rounds": 1, "tokens": 4} if options.quick else {"rounds": ROUNDS, "tokens": NEW_TOKENS}
        figures = compare(Path(folder), **small)
    for name, value in figures["ratios"].items():
        print(f"{name:28} {value:.3f}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    elif not options.quick:
        keep("chat", figures)


if __name__ == "__main__":
    main()
