"""One precision's part of `benchmarks.floor`: a step's time, its matrix products, and their best times.

    python -m benchmarks.instruments.floor_step '{"bits": 16, "rows": 8, "seed": 0, "rank": 16, "rounds": 3, …}'

The run has as many rows as a step, so that every step trains on the same ones; only their order changes.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.instruments.costs import costs
from benchmarks.instruments.flops import Sizes, step_flops
from benchmarks.instruments.process import answer, order
from benchmarks.instruments.products import Product, Products, attention_seconds, best_seconds
from benchmarks.instruments.starting_point import our_config
from benchmarks.instruments.stepping import Stepping, conversations
from benchmarks.workload import rows
from core.models.catalogue import default_models_root
from core.models.starter import ensure_starter

WARM_STEPS = 2
SHOWN = 12

# Seconds of each product, and of each row's attention by the row's place: at best, and with operands as they lay.
Best = dict[Product | int, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What a step cannot do without: its matrix products, and attention inside each row.

    `lengths` are the rows' tokens, of which the first `shared` are the same in all rows and computed once; `dtype` is
    what attention computes in.
    """

    products: Counter[Product]
    lengths: tuple[int, ...]
    shared: int
    sizes: Sizes
    dtype: torch.dtype

    def best(self) -> Best:
        """How long each part takes at its best now."""
        found: Best = {product: best_seconds(product) for product in self.products}
        for place, length in enumerate(self.lengths):
            own = 1 - (self.shared / length) ** 2 if place else 1.0  # the first row's beginning is every row's
            once = attention_seconds(length, self.sizes.heads, self.sizes.head_width, self.dtype)
            seconds = own * once * self.sizes.layers
            found[place] = seconds, seconds
        return found

    def sums(self, best: Best) -> dict[str, float]:
        """Seconds of the whole step's products at their best."""
        products = sum(best[product][0] * count for product, count in self.products.items())
        return {"products": products, "attention": sum(best[place][0] for place in range(len(self.lengths)))}

    def as_laid_out(self, best: Best) -> float:
        """Seconds of the products with their operands as they lay, all else at its best; attention left out."""
        return sum(best[product][1] * count for product, count in self.products.items())

    def dearest(self, best: Best) -> list[dict[str, Any]]:
        """The products with the largest share of the floor; those that differ in layout alone are one."""
        alike: dict[str, list[Product]] = {}
        for product in self.products.elements():
            alike.setdefault(str(product), []).append(product)
        found = [
            {"product": name, "times": len(these), "seconds": seconds, "gflops_per_second": flops / seconds / 1e9}
            for name, these in alike.items()
            for seconds, flops in [(sum(best[each][0] for each in these), sum(each.flops for each in these))]
        ]
        return sorted(found, key=lambda row: -float(row["seconds"]))[:SHOWN]


def measure(given: dict[str, Any]) -> dict[str, Any]:
    """The figures of the round whose fraction is the middle one.

    In a round, steps and products are timed one behind the other. What one of these machines does in a second changes
    by a third within minutes, so that the best of all rounds would be compared with steps of a slower machine.
    """
    folder = ensure_starter(default_models_root(), lambda words: None)
    texts = [(row["instruction"], row["output"]) for row in rows(given["rows"], given["seed"])]
    config = our_config(rank=given["rank"], alpha=32, seed=0, batch_size=given["rows"], bits=given["bits"])
    with Stepping(config, conversations(texts)) as run:
        for _ in range(WARM_STEPS):
            run.step()
        with Products() as recorded:
            run.step()
        lengths, shared = row_lengths(folder, texts)
        assert sum(lengths) == run.started.tokens_per_epoch, "the run was fed other rows than these"
        dtype = getattr(torch, run.started.compute_dtype)
        sizes = Sizes.read(folder)
        needed = Needed(products=recorded.counts, lengths=lengths, shared=shared, sizes=sizes, dtype=dtype)
        rounds = [
            figures(needed, [run.step().seconds for _ in range(given["steps"])], needed.best())
            for _ in range(given["rounds"])
        ]
        middle = sorted(rounds, key=lambda figures: figures["fraction"])[len(rounds) // 2]
        return {
            **middle,
            "fraction_by_round": [figures["fraction"] for figures in rounds],
            **check(needed, recorded, run),
            "costs": costs(run.step),
        }


def figures(needed: Needed, seconds: list[float], best: Best) -> dict[str, Any]:
    """What one round measured beside the floor."""
    sums, measured, tokens = needed.sums(best), statistics.median(seconds), sum(needed.lengths)
    return {
        "compute_dtype": str(needed.dtype).removeprefix("torch."),
        "tokens": tokens,
        "row_lengths": list(needed.lengths),
        "shared_beginning": needed.shared,
        "seconds_by_step": seconds,
        "measured_seconds": measured,
        "floor_seconds": sums,
        "products_as_laid_out_seconds": needed.as_laid_out(best),
        "fraction": sum(sums.values()) / measured,
        "tokens_per_second": tokens / measured,
        "floor_tokens_per_second": tokens / sum(sums.values()),
        "dearest_products": needed.dearest(best),
    }


def check(needed: Needed, recorded: Products, run: Stepping) -> dict[str, Any]:
    """The products' operations beside those that the formula asks for, attention left out on both sides."""
    labels, rank = run.started.trained_tokens_per_epoch, run.config.lora.rank
    formula = step_flops(needed.sizes, rank=rank, lengths=needed.lengths, labels=labels, shared=needed.shared)
    asked = sum(flops for part, flops in formula.items() if part != "attention")
    return {
        "labels": labels,
        "flops": {"recorded": recorded.flops, "formula": formula},
        "recorded_over_formula": recorded.flops / asked,
        "operators_not_seen_into": dict(recorded.unknown),
    }


def row_lengths(folder: Path, texts: list[tuple[str, str]]) -> tuple[tuple[int, ...], int]:
    """How many tokens of each row are fed, all but the last; and how many of them are the same in all rows."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    fed = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}, {"role": "assistant", "content": text}],
            tokenize=True,
            return_dict=False,
        )[:-1]
        for question, text in texts
    ]
    return tuple(map(len, fed)), len(os.path.commonprefix(fed)) if len(fed) > 1 else 0


if __name__ == "__main__":
    answer(measure(order()))
