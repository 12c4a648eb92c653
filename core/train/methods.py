"""The seam between a run and what is trained in it: an adapter, or every weight.

A method is made for one run from its config. It says in which dtype the base is stored, marks what is trained, and
writes that to a folder in the end. The loop sees `Trainables` alone, so that parameters, memory and bytes on disk are
counted alike, whatever the method. A further method is one class and one entry in `METHODS`.

Full fine-tuning keeps fp32 masters and computes under autocast where bf16 is the faster dtype: an update of AdamW is
often smaller than what bf16 can add to a weight. An adapter's base is frozen and is stored in the compute dtype.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from core.adapters.card import write_card
from core.adapters.inject import activate, inject, lora_layers
from core.adapters.peft_format import read_adapter, save_adapter
from core.adapters.plan import plan
from core.checks import check
from core.config import LoraConfig, RunConfig
from core.data.tokens.labeling import LABELS_FILE
from core.data.tokens.templates import has_our_template
from core.errors import RunError
from core.models.catalogue import public_name
from core.models.load import ClassHead, LoadedModel, load_model
from core.models.originals import OriginalWeights
from core.models.vocabulary import add_tokens
from core.train.directions import input_directions
from core.train.objective import Objective
from core.train.schedule import suggested_rate

ADAPTER_KEY = "trained"
# LoRA's best rate is about ten times that of full fine-tuning (Schulman et al. 2025, "LoRA Without Regret")
FULL_RATE_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainables:
    """What the loop trains.

    `rate_factors` multiply the learning rate of the parameters named in it (LoRA+), `suggested_rate` is the peak where
    the user gives none, `modules` are the names of the modules that hold something trained, `dropping` those whose own
    dropout is drawn in training, and `autocast` is the dtype to compute in where it is not the stored one.
    """

    parameters: dict[str, nn.Parameter]
    modules: tuple[str, ...]
    suggested_rate: float
    rate_factors: dict[str, float]
    dropping: tuple[nn.Module, ...] = ()
    autocast: torch.dtype | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What a run came to, in nats on held-out rows, for the card; None where there were none."""

    trained: float | None
    base: float | None


class Method(Protocol):
    """One run's method; its methods are called in this order."""

    name: ClassVar[str]

    def stored_in(self, computed: torch.dtype) -> torch.dtype:
        """The dtype that the base is loaded in, where `computed` is the faster one to compute in."""

    def extend(self, loaded: LoadedModel) -> None:
        """Give the tokenizer and the model what rows may need before they are encoded: new tokens."""

    def begin(
        self, loaded: LoadedModel, objective: Objective, rows: Sequence[Any], computed: torch.dtype
    ) -> Trainables:
        """Make ready what is trained, and nothing else; `rows` are the training rows, as `objective` takes them.

        Raises:
            ConfigError: the config does not fit the model.
        """

    def save(self, folder: Path, losses: Losses) -> None:
        """Write what was trained into the new `folder`, and prove that it can be read.

        Raises:
            UserError: it cannot.
        """


class MethodKind(Protocol):
    """What makes a method."""

    def __call__(self, config: RunConfig) -> Method:
        """The method of a run with `config`."""


class Lora:
    """Low-rank updates beside a frozen base (`core.adapters`); a classifier's head is trained whole."""

    name: ClassVar[str] = "lora"

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._tokens: tuple[int, ...] = ()

    def stored_in(self, computed: torch.dtype) -> torch.dtype:
        return computed

    def extend(self, loaded: LoadedModel) -> None:
        self._tokens = add_tokens(loaded, self._config.lora.new_tokens)

    def begin(
        self, loaded: LoadedModel, objective: Objective, rows: Sequence[Any], computed: torch.dtype
    ) -> Trainables:
        self._loaded, self._lora = loaded, _with_heads(self._config.lora, loaded.heads)
        modules = self._inject(loaded, objective, rows)
        activate(loaded.model, ADAPTER_KEY)
        return Trainables(
            parameters=_trained(loaded.model),
            modules=modules,
            suggested_rate=suggested_rate(_width(loaded.model)),
            rate_factors=self._rate_factors(loaded.model),
            dropping=tuple(lora_layers(loaded.model).values()) if self._lora.dropout else (),
        )

    def _inject(self, loaded: LoadedModel, objective: Objective, rows: Sequence[Any]) -> tuple[str, ...]:
        """Put the adapter in, with what its start looks at: the rows (EVA), or the weights on disk (LoftQ)."""
        model, lora = loaded.model, self._lora
        directions = None
        if lora.init == "eva":
            placements = plan(model, lora).placements
            ranks = {place.shape.name: place.rank for place in placements if place.shape.kind in ("linear", "head")}
            directions = input_directions(model, ranks, objective, rows)
        originals = OriginalWeights(Path(model.name_or_path)) if lora.init == "loftq" else None
        return inject(
            model,
            lora,
            key=ADAPTER_KEY,
            seed=self._config.seed,
            tokens=self._tokens,
            directions=directions,
            originals=originals,
        )

    def _rate_factors(self, model: nn.Module) -> dict[str, float]:
        """LoRA+ (arXiv 2402.12354): B learns so many times faster than A; where there is no A, nothing does."""
        trained, ratio = _trained(model), self._config.optim.lora_plus_ratio
        pairs = {name: name.removesuffix(".b") + ".a" for name in trained if name.endswith(".b")}
        return {b: ratio for b, a in pairs.items() if a in trained}

    def save(self, folder: Path, losses: Losses) -> None:
        base_model = public_name(self._config.base_model)
        save_adapter(self._loaded.model, ADAPTER_KEY, folder, self._lora, base_model)
        if self._tokens or has_our_template(self._loaded.tokenizer):  # what the base's own tokenizer lacks
            self._loaded.tokenizer.save_pretrained(folder)
        write_card(folder, self._config, base_model, eval_loss=losses.trained, base_eval_loss=losses.base)
        if self._loaded.labels:
            text = json.dumps(self._loaded.labels, ensure_ascii=False) + "\n"
            (folder / LABELS_FILE).write_text(text, encoding="utf-8")
        read_adapter(folder)


class BitFit(Lora):
    """Every bias beside a frozen base, and nothing else but a classifier's head (BitFit, arXiv 2106.10199)."""

    name: ClassVar[str] = "bitfit"

    def _inject(self, loaded: LoadedModel, objective: Objective, rows: Sequence[Any]) -> tuple[str, ...]:
        return inject(loaded.model, self._lora, key=ADAPTER_KEY, seed=self._config.seed, bias_only=True)


class Full:
    """Every weight of the base, from fp32 masters, into a model folder in transformers' format, also fp32."""

    name: ClassVar[str] = "full"

    def __init__(self, config: RunConfig) -> None:
        self._seed = config.seed

    def stored_in(self, computed: torch.dtype) -> torch.dtype:
        return torch.float32

    def extend(self, loaded: LoadedModel) -> None:
        """Nothing: new tokens belong to an adapter."""

    def begin(
        self, loaded: LoadedModel, objective: Objective, rows: Sequence[Any], computed: torch.dtype
    ) -> Trainables:
        self._loaded = loaded
        loaded.model.requires_grad_(True)
        parameters = _trained(loaded.model)
        return Trainables(
            parameters=parameters,
            modules=tuple(dict.fromkeys(name.rpartition(".")[0] for name in parameters)),
            suggested_rate=FULL_RATE_SHARE * suggested_rate(_width(loaded.model)),
            rate_factors={},
            autocast=None if computed == loaded.dtype else computed,
        )

    def save(self, folder: Path, losses: Losses) -> None:
        self._loaded.model.save_pretrained(folder)
        self._loaded.tokenizer.save_pretrained(folder)
        self._prove(folder)

    def _prove(self, folder: Path) -> None:
        """Load the folder as anybody would, and compare it bit for bit.

        Raises:
            UserError: it cannot be loaded, or holds other weights.
        """
        labels = self._loaded.labels
        head = ClassHead(labels=labels, seed=self._seed) if labels else None
        read = load_model(folder, dtype=self._loaded.dtype, head=head)
        ours, theirs = self._loaded.model.state_dict(), read.model.state_dict()
        wrong = [name for name in ours if name not in theirs or not torch.equal(ours[name].cpu(), theirs[name])]
        if wrong or read.new_weights:
            raise RunError(
                "The trained model was not read back as it was written",
                f"{(*wrong, *read.new_weights)[0]} differs",
                "Resume the run to write it again",
            )


METHODS: dict[str, MethodKind] = {method.name: method for method in (Lora, BitFit, Full)}


def method_of(config: RunConfig) -> Method:
    """The method of a run.

    Raises:
        ConfigError: its settings exclude each other.
    """
    check(config)
    return METHODS[config.method](config)


def _with_heads(lora: LoraConfig, heads: Sequence[str]) -> LoraConfig:
    return replace(lora, modules_to_save=tuple(dict.fromkeys((*lora.modules_to_save, *heads))))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _width(model: Any) -> int | None:
    width: int | None = getattr(model.config.get_text_config(), "hidden_size", None)
    return width
