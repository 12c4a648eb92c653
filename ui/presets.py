"""Whole sets of settings for a purpose, each with the reason for it. Every preset sets the same settings, so that one
undoes another.

The figures are from the LoRA paper (Hu et al. 2021, arXiv 2106.09685): Table 5 compares which matrices are adapted,
with as many parameters in all, and Table 6 ranks. They were measured on GPT-3 with WikiSQL and MultiNLI, where little
is learned that the base does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.config import ALL_LINEAR, AUTO_TARGETS
from core.errors import ConfigError
from core.models.targets import match
from jobs.service import ModelCard

QUERY_AND_VALUE = "query and value"
RANK, ALPHA, TARGETS = "lora.rank", "lora.alpha", "lora.targets"

# What layers that make queries and values are called; and the ends of the names of such parts of fused matrices.
_PAIRS = (("q_proj", "v_proj"), ("query", "value"), ("q_lin", "v_lin"), ("query_proj", "value_proj"), ("q", "v"))
_PARTS = (":q", ":v")
_COMMON: Mapping[str, Any] = {
    "method": "lora",
    "lora.layers": None,
    "lora.use_rslora": False,
    "lora.dropout": 0.0,
    "quant.bits": 16,
    "optim.epochs": 3.0,
    "optim.micro_tokens": 2048,
    "optim.checkpointing": False,
    "data.max_tokens": 1024,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A purpose: `settings` are values by their dotted names in `RunConfig`, `targets` the modules in words or as
    `LoraConfig` has them. `why` is one sentence, `evidence` what was measured by others.
    """

    key: str
    title: str
    why: str
    evidence: str
    targets: str
    settings: Mapping[str, Any] = field(default_factory=dict)


PRESETS: tuple[Preset, ...] = (
    Preset(
        key="style",
        title="Style",
        why="A manner of speaking is a small change made everywhere: a low rank on every layer of the blocks.",
        evidence="With 18 M parameters in all, rank 2 on all four attention matrices reached 91.7 % on MultiNLI, "
        "and rank 8 on one of them 91.0 % (LoRA paper, Table 5).",
        targets=AUTO_TARGETS,
        settings={RANK: 8, ALPHA: 16.0},
    ),
    Preset(
        key="knowledge",
        title="Knowledge",
        why="Facts need room and repetition: a high rank on all linear layers, more epochs, and a scale that lets high "
        "ranks learn as fast as low ones.",
        evidence="Not from the paper: there, ranks from 1 to 64 were within 0.5 points of each other "
        "(Table 6, all four matrices), on tasks that asked for few new facts. Compare with Style on held-out rows.",
        targets=ALL_LINEAR,
        settings={RANK: 64, ALPHA: 16.0, "lora.use_rslora": True, "lora.dropout": 0.05, "optim.epochs": 5.0},
    ),
    Preset(
        key="small-machine",
        title="Small machine",
        why="The least memory: the base in 4 bits, a low rank on queries and values alone, short rows, and gradient "
        "checkpointing.",
        evidence="Rank 4 on queries and values reached 73.7 % on WikiSQL, as much as all four attention matrices did "
        "(LoRA paper, Table 5).",
        targets=QUERY_AND_VALUE,
        settings={
            RANK: 4,
            ALPHA: 8.0,
            "quant.bits": 4,
            "optim.micro_tokens": 1024,
            "optim.checkpointing": True,
            "data.max_tokens": 512,
        },
    ),
)


def by_key(key: str) -> Preset:
    """The preset of that key. Raises: ConfigError."""
    for preset in PRESETS:
        if preset.key == key:
            return preset
    raise ConfigError(f"There is no preset {key!r}", hint=f"Choose from {', '.join(each.key for each in PRESETS)}")


def apply(preset: Preset, card: ModelCard | None) -> dict[str, Any]:
    """The preset's settings for that base model, by dotted name; where the model is not known yet, for any.

    A rank beyond what the smallest of the layers can hold is lowered, and alpha with it.
    """
    values = {**_COMMON, **preset.settings, TARGETS: _targets(preset, card)}
    largest = _largest_rank(values[TARGETS], card)
    if largest is not None and values[RANK] > largest:
        scale = (largest / values[RANK]) ** (0.5 if values["lora.use_rslora"] else 1)
        values |= {RANK: largest, ALPHA: max(1.0, round(values[ALPHA] * scale, 1))}
    return values


def _targets(preset: Preset, card: ModelCard | None) -> tuple[str, ...]:
    if preset.targets != QUERY_AND_VALUE:
        return (preset.targets,)
    return _query_and_value(card) if card is not None else (AUTO_TARGETS,)


def _query_and_value(card: ModelCard) -> tuple[str, ...]:
    """What makes queries and values in the model; all linear layers of its blocks where no name tells."""
    known = {shape.name.rpartition(".")[2] for shape in card.shapes}
    for pair in _PAIRS:
        if known.issuperset(pair):
            return pair
    parts = tuple(name for name in card.others if name.endswith(_PARTS))
    return parts or (AUTO_TARGETS,)


def _largest_rank(targets: Sequence[str], card: ModelCard | None) -> int | None:
    """The smaller side of the smallest layer that the targets name; None where the model's layers are not known."""
    if card is None or not card.shapes:
        return None
    names = tuple(dict.fromkeys(target.partition(":")[0] for target in targets))
    return min(min(shape.in_features, shape.out_features) for shape in match(names, card.shapes))
