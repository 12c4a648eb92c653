"""The pictures of the page about speed and memory, each drawn from one benchmark's results (`docs.plots`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from docs.plots import Axis, Bar, bars, lines, shares

Results = Mapping[str, Any]


def training_speed(found: Results) -> str:
    """Tokens a second of every side."""
    return bars(
        "Tokens a second in training",
        [
            Bar(label=name, value=speed, text=f"{speed:.0f}", is_ours=name.startswith("ours"))
            for name, side in found["sides"].items()
            for speed in [side["tokens_per_second"]]
        ],
    )


def training_memory(found: Results) -> str:
    """Peak memory of every side."""
    return bars(
        "Peak memory of the training process",
        [
            Bar(label=name, value=size, text=f"{size:.2f} GB", is_ours=name.startswith("ours"))
            for name, side in found["sides"].items()
            for size in [side["peak_rss_bytes"] / 1e9]
        ],
    )


def floor_fraction(found: Results) -> str:
    """Measured time beside the floor."""
    parts = {name: part for name, part in found.items() if name != "machine"}
    return bars(
        "A step, and its matrix products at their best, in seconds",
        [
            bar
            for name, part in parts.items()
            for measured, best in [(part["measured_seconds"], sum(part["floor_seconds"].values()))]
            for bar in (
                Bar(label=f"{name}: the step", value=measured, text=f"{measured:.2f}", is_ours=True),
                Bar(label=f"{name}: its products", value=best, text=f"{best:.2f}  ({part['fraction']:.2f})"),
            )
        ],
    )


def step_costs(found: Results) -> str:
    """What a step's time goes to."""
    parts = {name: part["costs"]["shares"] for name, part in found.items() if name != "machine"}
    return shares("What a step's time goes to, by PyTorch's profiler", parts)


def growth_of(name: str, axis: str, title: str) -> Callable[[Results], str]:
    """Time a token along one thing that grows, beside the FLOPs."""

    def draw(found: Results) -> str:
        runs = {float(at.replace(",", "")): row for at, row in found[name].items()}
        first = next(iter(runs.values()))["seconds_per_token"] * 1e3
        return lines(
            title,
            Axis(title=axis, is_log=True),
            "ms a token",
            {
                "measured": [(at, row["seconds_per_token"] * 1e3) for at, row in runs.items()],
                "by FLOPs, from the first": [(at, first * row["by_flops"]) for at, row in runs.items()],
            },
        )

    return draw


def memory_of(name: str, axis: str, title: str) -> Callable[[Results], str]:
    """Peak memory along one thing that grows."""

    def draw(found: Results) -> str:
        points = {
            "peak memory": [
                (float(at.replace(",", "")), row["peak_rss_bytes"] / 1e9) for at, row in found[name].items()
            ]
        }
        return lines(title, Axis(title=axis, is_log=True), "GB", points)

    return draw


def chat_seconds(found: Results) -> str:
    """The time for the same number of tokens, by who writes them."""
    labels = {
        "one_pane": "one pane",
        "four_panes": "four panes, an adapter each",
        "transformers": "transformers and peft, one after another",
        "transformers_16_bit_adapters": "the same, A and B in the base's dtype",
    }
    seconds = found["medians"]
    return bars(
        f"Seconds to write {found['new_tokens']} tokens in each pane",
        [
            Bar(label=label, value=value, text=f"{value:.2f}", is_ours=name in ("one_pane", "four_panes"))
            for name, label in labels.items()
            if name in seconds
            for value in [seconds[name]]
        ],
    )


def tokenizing_speed(found: Results) -> str:
    """Megabytes a second on all cores that were tried, of each text."""
    return bars(
        "Text tokenized and packed, MB a second",
        [
            bar
            for name in ("docstrings", "prose", "new_words")
            for cores, part in found[name].items()
            for label in [f"{name.replace('_', ' ')}, {cores.replace('_', ' ').replace('1 cores', '1 core')}"]
            for bar in (
                _speed(f"ours, {label}", part["packed_megabytes_per_second"], is_ours=True),
                _speed(f"datasets.map, {label}", part["datasets_map_megabytes_per_second"], is_ours=False),
            )
        ],
    )


def _speed(label: str, value: float, *, is_ours: bool) -> Bar:
    return Bar(label=label, value=value, text=f"{value:.2f}", is_ours=is_ours)


PICTURES: dict[str, tuple[str, Callable[[Results], str]]] = {
    "training-speed": ("training", training_speed),
    "training-memory": ("training", training_memory),
    "floor": ("floor", floor_fraction),
    "step-costs": ("floor", step_costs),
    "growth-rows": ("growth", growth_of("rows", "rows", "Time a token by rows in the dataset")),
    "growth-rank": ("growth", growth_of("rank", "rank", "Time a token by rank")),
    "growth-row-length": ("growth", growth_of("row length", "tokens a row", "Time a token by tokens a row")),
    "chat": ("chat", chat_seconds),
    "tokenizing-speed": ("tokenizing", tokenizing_speed),
    "tokenizing-memory": ("tokenizing", memory_of("rows", "rows", "Peak memory by rows tokenized")),
    "growth-micro-batch": ("growth", memory_of("micro-batch", "tokens at once", "Peak memory by tokens at once")),
}
