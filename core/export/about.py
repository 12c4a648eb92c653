"""What is told of an adapter where it goes: whose base it is for, how it was made, how well it does. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import STARTER, RunConfig, parse, to_dict

STARTER_LICENCE = "apache-2.0"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """`base_model` is a hub id, or a folder that is never shown in full; `config` the run's, where it is known; losses
    are nats a trained token on held-out rows; `data_sha256` is of the rows it was trained on, as they are kept.
    """

    name: str
    base_model: str
    licence: str = ""
    config: RunConfig | None = None
    eval_loss: float | None = None
    base_eval_loss: float | None = None
    data_sha256: str = ""
    data_rows: int | None = None

    @property
    def base_id(self) -> str:
        """The base's hub id; empty where it has none."""
        is_id = _HUB_ID.fullmatch(self.base_model) is not None and not Path(self.base_model).exists()
        return self.base_model if is_id else ""

    @property
    def base_name(self) -> str:
        """What the base is called in public: of a folder, the last part of its path."""
        return self.base_id or Path(self.base_model).name or "the base model"

    def as_dict(self) -> dict[str, Any]:
        """As plain values; `from_dict` gives the same back."""
        config = None if self.config is None else to_dict(self.config)
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"config": config}


def from_dict(values: dict[str, Any]) -> About:
    """What `as_dict` gave.

    Raises:
        ConfigError: the config in it is none.
    """
    config = values.get("config")
    return About(**{**values, "config": None if config is None else parse(config)})


def licence_of(base_model: str, folder: Path) -> str:
    """The base's licence as its card in `folder` says; empty where it has none, or does not say."""
    if base_model == STARTER:
        return STARTER_LICENCE
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    _, mark, rest = text.partition("---")
    found = _LICENCE.search(rest.partition("---")[0]) if mark else None
    return found[1] if found else ""
