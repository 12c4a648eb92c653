"""What the memory of a run depends on, found in the files of its base model: a bridge from `jobs.blueprint` to
`core.models.memory`, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.models.catalogue import find
from core.models.memory import ModelShape, Trained
from core.models.shapes import weight_files
from core.models.targets import block_of
from jobs.blueprint import LM_HEAD, Blueprint, read_blueprint
from jobs.estimates import ANCHORED_STARTS, adapted_layers, estimate
from jobs.views import Estimate

_GATED = ("gate_proj", "gate_up_proj")
# A model that changes its logits afterwards forms all of them (`core.models.load.head_weight`).
_LOGITS_CHANGED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """A config with what its memory and its work depend on."""

    config: RunConfig
    shape: ModelShape
    trained: Trained
    estimate: Estimate

    @property
    def limit(self) -> int:
        """How many tokens a row may have, by the config and by the model."""
        asked = self.config.data.max_tokens
        return min(asked, self.shape.positions or asked)


def sized(config: RunConfig, models_root: Path) -> Sized | None:
    """`config` with its base model's numbers; None while that is not on this machine.

    Raises:
        ConfigError, ModelError: as `jobs.estimates.estimate`.
    """
    counted = estimate(config, models_root)
    folder = find(config.base_model, models_root).folder
    if counted is None or folder is None:
        return None
    blueprint = read_blueprint(folder)
    shape, trained = model_shape(config, blueprint, folder), trained_part(config, blueprint, counted)
    return Sized(config=config, shape=shape, trained=trained, estimate=counted)


def model_shape(config: RunConfig, blueprint: Blueprint, folder: Path) -> ModelShape:
    """The numbers of the model in `folder` that a run's memory depends on."""
    text = _text(blueprint.config)
    width = _number(text, "hidden_size", "n_embd", "d_model")
    heads = _number(text, "num_attention_heads", "n_head", "num_heads") or 1
    head_size = _number(text, "head_dim") or width // heads
    blocks = {block for shape in blueprint.linears if (block := block_of(shape.name)) is not None}
    embedding = blueprint.input_embedding
    is_gated = any(shape.name.rpartition(".")[2] in _GATED for shape in blueprint.linears)
    return ModelShape(
        width=width,
        inner=_number(text, "intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * width,
        heads=heads,
        query=heads * head_size,
        key=(_number(text, "num_key_value_heads") or heads) * head_size,
        blocks=len(blocks),
        vocabulary=embedding.in_features if embedding else 0,
        parameters=blueprint.parameters,
        matrices={shape.name: (shape.out_features, shape.in_features) for shape in blueprint.linears},
        stored_bytes=sum(path.stat().st_size for path in weight_files(folder)),
        positions=_number(text, "max_position_embeddings", "n_positions"),
        is_lean="rms_norm_eps" in text and is_gated,
        is_packed=config.task == "chat",
    )


def trained_part(config: RunConfig, blueprint: Blueprint, estimate: Estimate) -> Trained:
    """What `config` trains, as far as memory depends on it; `estimate` is of the same config.

    Raises:
        ConfigError: as `jobs.estimates.estimate`.
    """
    if config.method != "lora":
        is_plain = config.method == "bitfit" and not _changes_logits(blueprint)
        return Trained(parameters=estimate.trainable_parameters, is_head_plain=is_plain)
    layers = adapted_layers(config, blueprint)
    lora = config.lora
    is_anchored = lora.init in ANCHORED_STARTS
    is_head_changed = _adapts_head(config, blueprint, {shape.kind for shape in layers}) or _changes_logits(blueprint)
    updates = sum(rank * shape.experts * (shape.in_features + shape.out_features) for shape, rank in layers.items())
    return Trained(
        parameters=estimate.trainable_parameters,
        idle=updates if is_anchored else max(0, updates - estimate.trainable_parameters),
        thin=sum(layers.values()) * (2 if is_anchored else 1),
        inside=sum(shape.in_features for shape in layers),
        outside=sum(shape.out_features for shape in layers),
        first_block=_first_block(config, [shape.name for shape in layers]),
        is_head_plain=not is_head_changed,
    )


def _first_block(config: RunConfig, names: list[str]) -> int:
    lora = config.lora
    if lora.modules_to_save or lora.new_tokens or lora.bias == "all":
        return 0
    return min((block_of(name) or 0 for name in names), default=0)


def _adapts_head(config: RunConfig, blueprint: Blueprint, kinds: set[str]) -> bool:
    """Whether logits come out of a head that is trained or has an update, be it by way of its embedding."""
    lora = config.lora
    is_end = "head" in kinds or LM_HEAD in lora.modules_to_save or bool(lora.new_tokens)
    embedding = blueprint.input_embedding
    is_named = embedding is not None and any(embedding.name.endswith(name) for name in lora.modules_to_save)
    return is_end or (blueprint.is_tied and ("embedding" in kinds or is_named))


def _changes_logits(blueprint: Blueprint) -> bool:
    text = _text(blueprint.config)
    return any(text.get(name) for name in _LOGITS_CHANGED)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _number(text: Mapping[str, Any], *names: str) -> int:
    """The first of `names` that the config gives a number; 0 where it gives none."""
    found = (text.get(name) for name in names)
    return next((int(value) for value in found if isinstance(value, int | float) and value), 0)
