"""What can be made of adapters, and what is remembered of those that one was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.adapters.ways import MOST_ADAPTERS, WAYS, Combination
from core.errors import AdapterError, ConfigError
from jobs.origins import Parent
from jobs.views import Adapter


def check_combination(parents: Sequence[Adapter], wanted: Combination) -> None:
    """Refuse what cannot be combined, as far as no file has to be read for it.

    Raises:
        AdapterError: too many or too few, or one is not low-rank.
        ConfigError: there is no such way, or one of its settings is out of its range.
    """
    if not 2 <= len(parents) <= MOST_ADAPTERS:
        hint = f"Tick from 2 to {MOST_ADAPTERS}"
        raise AdapterError(f"{len(parents)} adapters cannot be combined", hint=hint)
    require_lora(parents)
    if wanted.how not in WAYS:
        hint = f"Choose from {', '.join(WAYS)}"
        raise ConfigError(f"There is no way {wanted.how} to combine", hint=hint, field="how")
    if not all(map(math.isfinite, wanted.weights)):
        words = ", ".join(map(str, wanted.weights))
        raise ConfigError(f"The weights are {words}", hint="Give each adapter a number", field="weights")
    if not any(wanted.weights):
        raise ConfigError("All weights are 0", hint="Give at least one adapter another weight", field="weights")
    way = WAYS[wanted.how]
    if way.has_rank and (wanted.rank is None or wanted.rank < 1):
        raise ConfigError(f"Rank is {wanted.rank or 0}", hint="It must be at least 1", field="rank")
    if way.has_density and not 0 < wanted.density <= 1:
        hint = "It must be above 0 and at most 1"
        raise ConfigError(f"Density is {wanted.density}", hint=hint, field="density")


def check_size(rank: int | None, energy: float | None) -> None:
    """Refuse a size that no adapter can be shrunk to. Raises: ConfigError."""
    if (rank is None) == (energy is None):
        raise ConfigError("An adapter is shrunk to a rank or to a share of its energy", hint="Give one of the two")
    if rank is not None and rank < 1:
        raise ConfigError(f"Rank is {rank}", hint="It must be at least 1", field="rank")
    if energy is not None and not 0 < energy <= 1:
        raise ConfigError(f"Energy is {energy:g}", hint="It must be above 0 and at most 1", field="energy")


def require_lora(adapters: Sequence[Adapter]) -> None:
    """Refuse whole models and trained biases. Raises: AdapterError."""
    for adapter in adapters:
        if adapter.method != "lora":
            what = "a whole model" if adapter.method == "full" else "trained biases"
            raise AdapterError(f"{adapter.name} is {what} and no low-rank change", hint="Choose LoRA adapters")


def parents_of(parents: Sequence[Adapter], weights: Sequence[float]) -> tuple[Parent, ...]:
    """What is remembered of those that an adapter is made of. Raises: ConfigError, where weights are missing."""
    if len(parents) != len(weights):
        raise ConfigError(f"There are {len(weights)} weights for {len(parents)} adapters", hint="Give each one")
    pairs = zip(parents, weights, strict=True)
    return tuple(Parent(id=parent.id, name=parent.name, weight=weight) for parent, weight in pairs)
