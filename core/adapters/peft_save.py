"""Writing an adapter as PEFT's format has it, so that peft gives the same logits.

PEFT knows one kind of update, s · B A with r and α by module; all of ours that are low-rank come down to it, with R the
number of rows that A really has and α' such that s stays:

    s = α/r = α'/R     α' = α R/r          s = α/√r = α'/√R     α' = α √(R/r)

An anchored update (PiSSA, OLoRA) is so written as [A; A₀] and [B, −B₀], of twice the rank and on the base as it is,
one of chosen parts of a fused matrix with zeros in B for the others. Where layers differ, `r` and `lora_alpha` are what
most have, and patterns name the rest.

What peft has no word for: which parts of a fused matrix were meant, that a start was anchored, LoRA-FA, LoRA+, and
biases without any LoRA (`BITFIT` in `peft_settings`). It can do without: they are of no use once training is over.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from core.adapters import peft_experts
from core.adapters.conv import LoraConv
from core.adapters.copies import AdaptedWhole, TrainedCopy
from core.adapters.embedding import LoraEmbedding
from core.adapters.experts import LoraExperts
from core.adapters.inject import lora_layers, require
from core.adapters.layer import LoraLayer
from core.adapters.linear import LoraLinear
from core.adapters.lowrank import BiasOnly, LowRank, TokenRows, Transposed
from core.adapters.peft_base import BaseView, view
from core.adapters.peft_fit import HeadRows
from core.adapters.peft_settings import BITFIT, CONFIG_FILE, LORA, WEIGHTS_FILE, shortest_names
from core.adapters.peft_tensors import PREFIX, TOKENS
from core.config import LoraConfig
from core.errors import AdapterError

# By which peft tells, when it is asked to tie, whether an end is adapted at all.
_TIED_NAMES = ("embed_tokens", "lm_head")


def save_adapter(model: nn.Module, key: str, folder: Path, config: LoraConfig, base_model: str) -> None:
    """Write the adapter `key` of `model` into `folder`, which is made where it is missing.

    Raises:
        AdapterError: `key` names no adapter of `model`, or it adapts what this format cannot hold.
    """
    require(model, key)
    writing = _Writing(base=view(model))
    for name, layer in lora_layers(model).items():
        if layer.has(key):
            writing.take(name, layer, key)
    writing.take_ends()
    settings = writing.settings(dropout=config.dropout, base_model=base_model, task=_task(model, writing.whole))
    write_files(folder, settings, writing.tensors)


def write_files(folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter's two files; `tensors` by their names in the base model, fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = {f"{PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # No two tensors of a file may share memory, as those of tied ends do.
    shared = Counter(tensor.untyped_storage().data_ptr() for tensor in ready.values())
    save_file(
        {
            name: tensor.clone() if shared[tensor.untyped_storage().data_ptr()] > 1 else tensor
            for name, tensor in ready.items()
        },
        folder / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def lora_settings(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """r and α for the modules that are adapted, with patterns for those that are unlike most."""
    rank, alpha = _most_common(ranks), _most_common(alphas)
    return {
        "r": rank,
        "lora_alpha": _plain(alpha),
        "rank_pattern": _pattern(ranks, rank),
        "alpha_pattern": {name: _plain(value) for name, value in _pattern(alphas, alpha).items()},
    }


def plain_settings(base_model: str, task: str | None) -> dict[str, Any]:
    """What every adapter's config has, for one that is nothing but low-rank."""
    return {
        "peft_type": LORA,
        "task_type": task,
        "base_model_name_or_path": base_model,
        "revision": None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "inference_mode": True,
    }


@dataclass(slots=True, kw_only=True)
class _Writing:
    """What was found of one adapter so far, by module: tensors by their names, low-rank updates, and the rest."""

    base: BaseView
    tensors: dict[str, Tensor] = field(default_factory=dict)
    updates: dict[str, LowRank | Transposed] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    biased: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    turned: bool = False

    def take(self, name: str, layer: nn.Module, key: str) -> None:
        """Add what the adapter `key` has at `name`."""
        if isinstance(layer, AdaptedWhole):
            copied = layer.copy_of(key)
            assert copied is not None
            self._take_copy(name, copied)
            return
        if isinstance(layer, LoraExperts):
            self._take_experts(name, layer, key)
            return
        assert isinstance(layer, LoraLayer)
        update = layer.update(key)
        assert update is not None
        if isinstance(update, TokenRows | HeadRows):
            rows = layer.base.weight[update.tokens].detach().float()  # type: ignore[index]
            change = update.b.detach().t() if isinstance(update, TokenRows) else update.a.detach()
            self._take_tokens(name, update.tokens.tolist(), rows + change)
        elif isinstance(update, Transposed):
            self._take_follower(name, update)
        else:
            self._take_update(name, layer, update)

    def take_ends(self) -> None:
        """Add the output head's rows for trained tokens, where it is not tied: new tokens are new to it as well."""
        head, embedding = self.base.head, self.base.embedding
        is_said = head in self.tokens or head in self.whole
        if embedding not in self.tokens or head is None or self.base.is_tied or is_said:
            return
        weight = self.base.tensor(f"{head}.weight")
        if weight is None or head in self.updates:
            raise AdapterError(
                "New tokens cannot be saved beside an update of the output head",
                hint="Leave the output head out of the targets, or name it in modules_to_save",
            )
        ids = self.tokens[str(embedding)]
        self._take_tokens(head, ids, weight.detach()[ids].float())

    def settings(self, *, dropout: float, base_model: str, task: str | None) -> dict[str, Any]:
        """What `adapter_config.json` is to say."""
        modules = list(self.base.modules)
        said: dict[str, Any] = {"modules_to_save": _whole_names(self.whole, modules) or None}
        if self.tokens:
            said["trainable_token_indices"] = self.tokens
        if self.parameters:
            said["target_parameters"] = self.parameters
        if self._is_tied():
            said["ensure_weight_tying"] = True
        if not self.updates:
            common = {"task_type": task, "base_model_name_or_path": base_model, "inference_mode": True}
            return {"peft_type": BITFIT, **common, **said}
        is_rooted = all(update.use_rslora for update in self.updates.values() if isinstance(update, LowRank))
        alphas = {name: _alpha(update, self.ranks[name], is_rooted) for name, update in self.updates.items()}
        return {
            **plain_settings(base_model, task),
            **lora_settings(self.ranks, alphas),
            "target_modules": shortest_names([name for name in self.updates if name not in self.parameters], modules),
            "lora_dropout": dropout,
            "bias": self._bias(),
            "fan_in_fan_out": self.turned,
            "use_rslora": is_rooted,
            "use_dora": any(update.magnitude is not None for update in self.updates.values()),
            **said,
        }

    def _take_update(self, name: str, layer: nn.Module, update: LowRank) -> None:
        if update.bias is not None:
            leaf = "bias" if isinstance(update, BiasOnly) else "base_layer.bias"
            self.tensors[f"{name}.{leaf}"] = update.bias
            self.biased.append(name)
        if isinstance(update, BiasOnly):
            return
        a, b = update.factors()
        magnitude = update.magnitude
        if isinstance(layer, LoraEmbedding):
            names = ("lora_embedding_A", "lora_embedding_B")
        else:
            names = ("lora_A.weight", "lora_B.weight")
        if isinstance(layer, LoraConv):
            weight: Any = layer.base.weight
            ones = [1] * (weight.ndim - 2)
            a, b = a.view(-1, *weight.shape[1:]), b.view(*b.shape, *ones)
            magnitude = None if magnitude is None else magnitude.view(1, -1, *ones)  # type: ignore[assignment]
        self._take_low_rank(name, update, dict(zip(names, (a, b), strict=True)))
        if magnitude is not None:
            self.tensors[f"{name}.lora_magnitude_vector"] = magnitude
        self.turned = self.turned or (isinstance(layer, LoraLinear) and layer.is_transposed)

    def _take_experts(self, name: str, layer: LoraExperts, key: str) -> None:
        adapted = list(peft_experts.written(name, layer, key))
        for position, (weight, update, a, b) in enumerate(adapted):
            prefix = peft_experts.wrapper(name, position, len(adapted))
            self.updates[weight], self.ranks[weight] = update, update.rank
            self.parameters.append(weight)
            self.tensors |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}

    def _take_follower(self, name: str, update: Transposed) -> None:
        """The tied head's view of what the embedding learned; of trained tokens peft needs to be told once only."""
        if isinstance(update.update, TokenRows):
            return
        a, b = update.factors()
        self._take_low_rank(name, update, {"lora_A.weight": a, "lora_B.weight": b})

    def _take_low_rank(self, name: str, update: LowRank | Transposed, factors: dict[str, Tensor]) -> None:
        self.updates[name] = update
        self.ranks[name] = next(iter(factors.values())).shape[0]
        self.tensors.update({f"{name}.{leaf}": tensor for leaf, tensor in factors.items()})

    def _take_tokens(self, name: str, ids: list[int], rows: Tensor) -> None:
        self.tokens[name] = ids
        self.tensors[f"{name}{TOKENS}"] = rows

    def _take_copy(self, name: str, copied: TrainedCopy) -> None:
        every = tuple(inner for inner, _ in copied.module.named_parameters())
        if set(copied.names) == set(every):
            self.whole.append(name)
            self.tensors.update({f"{name}.{inner}": tensor for inner, tensor in copied.module.state_dict().items()})
        else:
            self.biased.append(name)
            self.tensors.update({f"{name}.{inner}": tensor for inner, tensor in copied.trained().items()})

    def _bias(self) -> str:
        if not self.biased:
            return "none"
        return "lora_only" if set(self.biased) <= set(self.updates) else "all"

    def _is_tied(self) -> bool:
        """Whether peft has to be told to tie the ends, and can be."""
        ends = [self.base.embedding, self.base.head]
        if not self.base.is_tied or not any(str(end).rpartition(".")[2] in _TIED_NAMES for end in ends):
            return False
        both_whole = all(end in self.whole for end in ends)
        return both_whole or any(isinstance(update, Transposed) for update in self.updates.values())


def _alpha(update: LowRank | Transposed, rank: int, is_rooted: bool) -> float:
    """α' for `rank` rows of A such that s is what it was."""
    own = update.update if isinstance(update, Transposed) else update
    if own.use_rslora == is_rooted:
        share = rank / own.rank
        return own.alpha * (math.sqrt(share) if is_rooted else share)
    return own.scale * rank


def _most_common(values: Mapping[str, Any]) -> Any:
    """The value that most have; of several the one that comes first."""
    return Counter(values.values()).most_common(1)[0][0]


def _pattern(values: Mapping[str, Any], common: Any) -> dict[str, Any]:
    """Those unlike `common`: by last part where all modules of that name agree, else by full name, as a pattern."""
    by_leaf: dict[str, set[Any]] = {}
    for name, value in values.items():
        by_leaf.setdefault(name.rpartition(".")[2], set()).add(value)
    found = {}
    for name, value in values.items():
        leaf = name.rpartition(".")[2]
        if value != common:
            found[re.escape(leaf) if len(by_leaf[leaf]) == 1 else f"^{re.escape(name)}"] = value
    return found


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _whole_names(whole: Sequence[str], modules: Sequence[str]) -> list[str]:
    """What to write as `modules_to_save`, of which peft takes every module whose name ends with one of them."""
    found = []
    for name in whole:
        leaf = name.rpartition(".")[2]
        found.append(leaf if all(module in whole for module in modules if module.endswith(leaf)) else name)
    return sorted(set(found))


def _task(model: Any, whole: Sequence[str]) -> str | None:
    """peft's word for what the model does. For a classifier it takes the head to be trained whole, so it has to be."""
    if type(model).__name__.endswith("ForSequenceClassification"):
        heads = [name for name in ("classifier", "score") if hasattr(model, name)]
        return "SEQ_CLS" if heads and set(heads) <= set(whole) else None
    return "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else None
