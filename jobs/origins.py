"""How an adapter came into the library: by a run, from elsewhere, or out of other adapters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeAlias

import orjson

from core.config import Method, Task

Kind: TypeAlias = Literal["trained", "uploaded", "combined", "shrunk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """An adapter that another was made of, as it was called then, with its weight in a combination."""

    id: str
    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an adapter is from. `place` is the file, the folder or the hub's id of one that was uploaded. Of one that
    was made of its `parents`, `how` is the way to combine them, `rank` or `target_energy` what was asked for, `density`
    and `seed` as TIES and DARE had them, and `energy` the share of the change's energy that was kept.
    """

    kind: Kind = "trained"
    place: str = ""
    parents: tuple[Parent, ...] = ()
    how: str = ""
    rank: int | None = None
    target_energy: float | None = None
    density: float | None = None
    seed: int | None = None
    energy: float | None = None
    method: Method = "lora"
    task: Task = "chat"

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """From plain values, as JSON has them."""
        parents = tuple(Parent(**parent) for parent in values.get("parents", ()))
        return cls(**{**values, "parents": parents})

    def as_json(self) -> str:
        """`parse` gives an equal one back."""
        return orjson.dumps(asdict(self)).decode()


TRAINED = Origin()
