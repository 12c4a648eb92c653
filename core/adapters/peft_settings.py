"""`adapter_config.json`: what an adapter's tensors mean.

The file is read against a list of what we know. A setting that is neither known nor unset is refused, since it may
change what the tensors mean; of those that do nothing once training is over, any value will do.

    LORA      as peft 0.21 writes and reads it
    BITFIT    ours: trained biases and perhaps whole modules, without any low-rank update. peft has no word for it; the
              settings and tensors that it has are called as in a LORA
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.adapters.name_patterns import NamePattern, Pattern
from core.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
LORA, BITFIT = "LORA", "BITFIT"
ALL_LINEAR = "all-linear"
MAX_CONFIG_BYTES = 1_000_000
MAX_PATTERNS = 20_000  # as many as modules
MAX_RANK = 65_536

_USED = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "rank_pattern", "alpha_pattern"),
        *("use_rslora", "use_dora", "bias", "init_lora_weights", "fan_in_fan_out", "modules_to_save"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("trainable_token_indices", "ensure_weight_tying", "target_parameters"),
    }
)
# What may have any value without changing what the tensors mean.
_NEUTRAL = frozenset(
    {
        *("peft_version", "task_type", "auto_mapping", "revision", "inference_mode", "lora_dropout"),
        *("eva_config", "loftq_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
        "runtime_config",
    }
)
# Starts that leave the base as it is; and those that change it in a way that can be computed again from the base.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_ANCHORED_STARTS = ("pissa", "olora")
_BIASES = ("none", "lora_only", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftSettings:
    """What an adapter's config says.

    `start` is empty, or the start whose B₀ A₀ was taken out of the base (`pissa`, `olora`). `targets` and `excluded`
    are names or a pattern; without targets, and without `all_linear`, peft goes by the architecture. `tokens` are token
    ids by the name of their embedding; the empty name is the model's input embedding. `is_tied` says that embedding and
    head are to share what they learned. `parameters` name weights of experts.
    """

    kind: str
    base_model: str
    rank: int = 0
    alpha: float = 1.0
    rank_pattern: Pattern[int]
    alpha_pattern: Pattern[float]
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    start: str = ""
    fan_in_fan_out: bool = False
    whole: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    targets: tuple[str, ...] | NamePattern | None = None
    all_linear: bool = False
    excluded: tuple[str, ...] | NamePattern | None = None
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[NamePattern, ...] = ()
    tokens: dict[str, tuple[int, ...]]
    is_tied: bool = False

    def rank_of(self, module: str) -> int:
        """r of the adapted `module`."""
        return self.rank_pattern.of(module, self.rank)

    def alpha_of(self, module: str) -> float:
        """α of the adapted `module`."""
        return self.alpha_pattern.of(module, self.alpha)

    def scale_of(self, module: str) -> float:
        """s of the adapted `module`."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)

    @property
    def meaning(self) -> str:
        """All that makes equal tensors another adapter, as text."""
        said = [self.kind, self.rank, self.alpha, self.rank_pattern.values, self.alpha_pattern.values]
        said += [self.use_rslora, self.use_dora, self.bias, self.start, self.whole, self.is_tied, self.parameters]
        return json.dumps([*said, self.tokens])

    def is_decidable(self) -> bool:
        """Whether the config alone says which modules are adapted."""
        return self.targets is not None or self.all_linear

    def plain_targets(self) -> tuple[str, ...] | None:
        """The targets where they are names that nothing narrows, else None."""
        narrowed = self.excluded is not None or self.layers is not None
        return self.targets if isinstance(self.targets, tuple) and not narrowed else None

    def is_target(self, module: str, *, is_linear: bool) -> bool:
        """Whether peft would adapt `module`; `is_linear`: a linear layer that is not the output head."""
        if self.lies_in_whole(module) is not None or self._is_named(module, self.excluded):
            return False
        if self.all_linear:
            return is_linear
        if isinstance(self.targets, tuple) and module not in self.targets:
            return self._is_named(module, self.targets) and self._is_in_layers(module)
        return self._is_named(module, self.targets)

    def is_parameter(self, name: str) -> bool:
        """Whether the experts' weight of that full name is adapted."""
        return self._is_named(name, self.parameters)

    def owns_parameters(self, module: str) -> bool:
        """Whether `module`, perhaps a wrapper that peft put around one, has weights of experts that are adapted."""
        name = module.replace(".base_layer", "")
        return self._is_named(name, tuple(parameter.rpartition(".")[0] for parameter in self.parameters))

    def lies_in_whole(self, name: str) -> str | None:
        """The outermost module on the way to the dotted `name` that is trained whole; None where none is."""
        parts = name.split(".")
        paths = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        return next((path for path in paths if path.endswith(self.whole)), None) if self.whole else None

    def _is_named(self, module: str, wanted: tuple[str, ...] | NamePattern | None) -> bool:
        if isinstance(wanted, NamePattern):
            return wanted.is_all_of(module)
        return any(module == name or module.endswith(f".{name}") for name in wanted or ())

    def _is_in_layers(self, module: str) -> bool:
        if not self.layers:
            return True
        numbers = (pattern.number_in(module) for pattern in self.layers_pattern)
        return next((number for number in numbers if number is not None), None) in self.layers


def read_settings(folder: Path) -> PeftSettings:
    """The config of the adapter in `folder`, checked.

    Raises:
        AdapterError: it is missing, no JSON, of another method, or has a setting that we do not know or cannot follow.
    """
    path = folder / CONFIG_FILE
    found = _Values(_read_json(path), path)
    kind = found.values.get("peft_type")
    if kind not in (LORA, BITFIT):
        raise AdapterError("The adapter is not a LoRA adapter", str(path), "Choose one whose peft_type is LORA")
    found.refuse_unknown()
    common: dict[str, Any] = {
        "kind": kind,
        "base_model": str(found.values.get("base_model_name_or_path") or ""),
        "rank_pattern": Pattern(found.pattern("rank_pattern", is_whole=True), "rank_pattern"),
        "alpha_pattern": Pattern(found.pattern("alpha_pattern", is_whole=False), "alpha_pattern"),
        "whole": found.names("modules_to_save") or (),
        "tokens": found.tokens(),
        "is_tied": found.flag("ensure_weight_tying"),
    }
    if kind == BITFIT:
        return PeftSettings(bias="all", targets=(), **common)
    targets = found.values.get("target_modules")
    return PeftSettings(
        rank=int(found.number("r", is_whole=True)),
        alpha=found.number("lora_alpha", is_whole=False),
        use_rslora=found.flag("use_rslora"),
        use_dora=found.flag("use_dora"),
        bias=found.bias(),
        start=found.start(),
        fan_in_fan_out=found.flag("fan_in_fan_out"),
        targets=None if targets == ALL_LINEAR else found.names_or_pattern("target_modules"),
        all_linear=targets == ALL_LINEAR,
        excluded=found.names_or_pattern("exclude_modules"),
        layers=found.layers(),
        layers_pattern=found.layers_pattern(),
        parameters=found.names("target_parameters") or (),
        **common,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise AdapterError(
                f"{CONFIG_FILE} has more than {MAX_CONFIG_BYTES:,} bytes", str(path.parent), "Export the adapter again"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(
            f"There is no adapter in {path.parent}", f"{CONFIG_FILE} is missing", "Choose an adapter's folder"
        ) from None
    except (ValueError, OSError, RecursionError):
        raise AdapterError(f"{CONFIG_FILE} is not JSON", str(path.parent), "Export the adapter again") from None
    return values if isinstance(values, dict) else {}


@dataclass(frozen=True, slots=True)
class _Values:
    """The config's values, each checked when it is asked for."""

    values: dict[str, Any]
    path: Path

    def refuse_unknown(self) -> None:
        """Refuse what is set and may mean something that we do not know."""
        for name, value in self.values.items():
            if value and name not in _USED and name not in _NEUTRAL:
                raise AdapterError(
                    f"The adapter uses {name} = {reprlib.repr(value)}, which is not supported",
                    str(self.path),
                    "Choose an adapter without it",
                )

    def number(self, name: str, *, is_whole: bool) -> float:
        """A finite number above 0."""
        return self._number(name, self.values.get(name), is_whole)

    def flag(self, name: str) -> bool:
        """A truth; unset is False."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, value, "It must be true or false")
        return bool(value)

    def bias(self) -> str:
        """Which biases were trained."""
        value = self.values.get("bias") or "none"
        if value not in _BIASES:
            raise self._wrong("bias", value, f"It must be one of {', '.join(_BIASES)}")
        return str(value)

    def start(self) -> str:
        """Empty for a start that left the base as it is, else what can be computed again."""
        value = self.values.get("init_lora_weights")
        name = value.lower() if isinstance(value, str) else value
        if name in _ANCHORED_STARTS:
            return str(name)
        if any(name is start or (isinstance(name, str) and name == start) for start in _PLAIN_STARTS):
            return ""
        raise AdapterError(
            f"The adapter began with init_lora_weights = {reprlib.repr(value)}, which changed its base for good",
            str(self.path),
            "Export it from peft with save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )

    def names(self, name: str) -> tuple[str, ...] | None:
        """A list of names that are not empty, or None."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            raise self._wrong(name, value, "It must be a list of names")
        return tuple(value)

    def names_or_pattern(self, name: str) -> tuple[str, ...] | NamePattern | None:
        """A list of names, a regular expression, or None."""
        value = self.values.get(name)
        return NamePattern(value, name) if isinstance(value, str) and value else self.names(name)

    def pattern(self, name: str, *, is_whole: bool) -> dict[str, Any]:
        """Numbers above 0 by pattern."""
        value = self.values.get(name) or {}
        if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
            raise self._wrong(name, value, f"It must map at most {MAX_PATTERNS:,} modules to numbers")
        checked = {key: self._number(f"{name}[{key!r}]", number, is_whole) for key, number in value.items()}
        return {key: int(number) for key, number in checked.items()} if is_whole else checked

    def layers(self) -> tuple[int, ...] | None:
        """The numbers of the blocks that are adapted, or None."""
        value = self.values.get("layers_to_transform")
        if value is None:
            return None
        return self._integers("layers_to_transform", [value] if type(value) is int else value)

    def layers_pattern(self) -> tuple[NamePattern, ...]:
        """Where a block's number stands: behind the list's name, without one behind the first that a name precedes."""
        name = "layers_pattern"
        value = self.values.get(name)
        lists = [value] if isinstance(value, str) and value else self.names(name) if value else ()
        if not lists:
            return (NamePattern(r"[^.]*", name, around=r".*?\.{}\.(?P<number>\d+)\."),)
        return tuple(NamePattern(text, name, around=r"(?:^|.*?\.){}\.(?P<number>\d+)\.") for text in lists)

    def tokens(self) -> dict[str, tuple[int, ...]]:
        """Trained tokens by their embedding's name."""
        name = "trainable_token_indices"
        value = self.values.get(name)
        by_layer = value if isinstance(value, dict) else {"": value} if value is not None else {}
        found = {layer: self._integers(name, ids) for layer, ids in by_layer.items()}
        for ids in found.values():
            if len(set(ids)) < len(ids):
                raise self._wrong(name, value, "No token may be there twice")
        return found

    def _integers(self, name: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not all(type(entry) is int and entry >= 0 for entry in value):
            raise self._wrong(name, value, "It must be a list of numbers from 0")
        return tuple(value)

    def _number(self, name: str, value: Any, is_whole: bool) -> float:
        is_number = type(value) in (int, float) and 0 < value < math.inf
        if not is_number or (is_whole and (value != int(value) or value > MAX_RANK)):
            raise self._wrong(name, value, "It must be a number above 0")
        return float(value)

    def _wrong(self, name: str, value: Any, hint: str) -> AdapterError:
        return AdapterError(f"{name} is {reprlib.repr(value)}", str(self.path), hint)


def shortest_names(modules: Sequence[str], every: Sequence[str]) -> list[str] | str:
    """What to write as `target_modules` so that peft finds exactly `modules` among `every`.

    A last part (`q_proj`) where all modules of that name are meant, else the full name; one regular expression where a
    full name would find other modules too, which it ends.
    """
    others = sorted(set(every) - set(modules))
    taken = {other.rpartition(".")[2] for other in others}
    names = sorted({leaf if (leaf := module.rpartition(".")[2]) not in taken else module for module in modules})
    ends = tuple(f".{name}" for name in names)
    if any(other.endswith(ends) for other in others):
        return "|".join(re.escape(module) for module in modules)
    return names
