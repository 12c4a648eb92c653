"""What a run would train and write, counted from the shapes of its base model: for every method alike, without torch.

Everything that the engine would refuse before it loads the model is refused here in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.checks import check, check_layers
from core.config import LoraConfig, RunConfig
from core.errors import ConfigError
from core.models.catalogue import find
from core.models.shapes import LinearShape
from core.models.targets import check_rank, match, not_skipped, parts, pattern_values
from jobs.blueprint import Blueprint, lies_in, read_blueprint
from jobs.views import Estimate

BYTES_A_NUMBER = 4  # whatever is trained is kept and written in fp32
ANCHORED_STARTS = ("pissa", "olora")  # written as twice the rank: what A and B became less what they were
CLASS_HEADS = ("classifier", "score", "pooler")  # what transformers calls them; new where the base has none


@dataclass(frozen=True, slots=True)
class _Count:
    """Numbers that are trained and numbers that are written, and how many modules hold them."""

    trained: int
    written: int
    modules: int


def estimate(config: RunConfig, models_root: Path) -> Estimate | None:
    """What `config` would train; None while its base model is not on this machine. A classifier's new head, whose size
    depends on the dataset, is not in it.

    Raises:
        ConfigError: settings contradict each other, one names nothing, or a rank is too large for a layer.
        ModelError: there is no such model, or its files are broken.
    """
    check(config)
    folder = find(config.base_model, models_root).folder
    if folder is None:
        return None
    blueprint = read_blueprint(folder)
    if config.quant.bits in (4, 8):
        not_skipped([shape.name for shape in blueprint.linears], config.quant.skip)
    count = _COUNTS[config.method](config, blueprint)
    return Estimate(
        trainable_parameters=count.trained,
        base_parameters=blueprint.parameters,
        adapter_bytes=count.written * BYTES_A_NUMBER,
        adapted_modules=count.modules,
    )


def _count_full(_config: RunConfig, blueprint: Blueprint) -> _Count:
    modules = {name.rpartition(".")[0] for name in blueprint.tensors}
    return _Count(blueprint.parameters, blueprint.parameters, len(modules))


def _count_biases(_config: RunConfig, blueprint: Blueprint) -> _Count:
    biases = blueprint.biases()
    if not biases:
        raise _no_biases(blueprint, "method")
    return _Count(sum(biases.values()), sum(biases.values()), len(biases))


def _count_adapter(config: RunConfig, blueprint: Blueprint) -> _Count:
    lora = config.lora
    is_new = CLASS_HEADS if config.task == "classification" else ()
    whole = blueprint.outermost([name for name in lora.modules_to_save if name not in is_new])
    chosen = _chosen(config, blueprint, whole)
    ranks = pattern_values(lora.rank_pattern, lora.rank, chosen, "lora.rank_pattern")
    pattern_values(lora.alpha_pattern, lora.alpha, chosen, "lora.alpha_pattern")
    shared = _shared(config, blueprint)
    a = b = written = 0
    for shape in chosen:
        rank = ranks[shape.name]
        check_rank(rank, [shape])
        part_rows = _part_rows(lora, shape, blueprint)
        sides = _sides(shape, part_rows)
        a, b = a + rank * sides[0], b + rank * sides[1]
        # PEFT's format has no parts: their A lie one above the other, and B has zeros for the other rows.
        copies = max(1, len(part_rows)) * (2 if shape == shared else 1)
        written += copies * rank * shape.experts * (shape.in_features + shape.out_features)
    beside = _biases(lora, chosen, whole, blueprint) + blueprint.size(whole) + _tokens(lora, blueprint)
    beside += sum(shape.out_features for shape in chosen) if lora.use_dora else 0
    written *= 2 if lora.init in ANCHORED_STARTS else 1
    written += _written_twice(config, whole, blueprint)
    return _Count(b + beside + (0 if lora.freeze_a else a), written + beside, len(chosen) + len(whole))


_COUNTS: dict[str, Callable[[RunConfig, Blueprint], _Count]] = {
    "lora": _count_adapter,
    "full": _count_full,
    "bitfit": _count_biases,
}


def _chosen(config: RunConfig, blueprint: Blueprint, whole: Sequence[str]) -> tuple[LinearShape, ...]:
    """The layers that get an update; a tied head and its embedding are one, the embedding."""
    has_head = config.task == "chat"
    layers = [shape for shape in blueprint.layers(has_head=has_head) if not lies_in(shape.name, whole)]
    chosen = match(config.lora.targets, layers, config.lora.layers)
    embedding, shared = blueprint.input_embedding, _shared(config, blueprint)
    is_tied = shared is not None
    check_layers(config.lora, chosen, is_tied=is_tied, input_embedding=embedding.name if embedding else None)
    others = tuple(shape for shape in chosen if shape.kind != "head" and shape != shared)
    return (shared, *others) if shared is not None and len(others) < len(chosen) else chosen


def adapted_layers(config: RunConfig, blueprint: Blueprint) -> dict[LinearShape, int]:
    """The layers that get a low-rank update, with the rank of each.

    Raises:
        ConfigError: as `estimate`.
    """
    is_new = CLASS_HEADS if config.task == "classification" else ()
    whole = blueprint.outermost([name for name in config.lora.modules_to_save if name not in is_new])
    chosen = _chosen(config, blueprint, whole)
    ranks = pattern_values(config.lora.rank_pattern, config.lora.rank, chosen, "lora.rank_pattern")
    return {shape: ranks[shape.name] for shape in chosen}


def _shared(config: RunConfig, blueprint: Blueprint) -> LinearShape | None:
    """The embedding that is the head as well, if one is. It is trained once, and PEFT's format has it for either."""
    return blueprint.input_embedding if config.task == "chat" and blueprint.is_tied else None


def _written_twice(config: RunConfig, whole: Sequence[str], blueprint: Blueprint) -> int:
    """What PEFT's format has for embedding and head each: both ends of a tied pair that is trained whole, and new
    tokens' rows in a head of its own.
    """
    shared = _shared(config, blueprint)
    if shared is None:
        return _tokens(config.lora, blueprint) if config.task == "chat" else 0
    return blueprint.size([shared.name]) if lies_in(shared.name, whole) else 0


def _sides(shape: LinearShape, part_rows: Sequence[int]) -> tuple[int, int]:
    """How many numbers A and B have a rank. Each part of a fused layer has an A of its own."""
    if part_rows:
        return len(part_rows) * shape.in_features, sum(part_rows)
    return shape.experts * shape.in_features, shape.experts * shape.out_features


def _part_rows(lora: LoraConfig, shape: LinearShape, blueprint: Blueprint) -> list[int]:
    """The output features of the parts of `shape` that are adapted; none where it is adapted as a whole.

    Raises:
        ConfigError: on `lora.targets`, where it has no such part.
    """
    wanted = parts(lora.targets, shape)
    known = blueprint.part_rows(shape) if wanted else {}
    leaf = shape.name.rpartition(".")[2]
    for part in wanted:
        if part not in known:
            raise ConfigError(
                f"{leaf} has no part {part!r}",
                "" if known else "it is not known as several matrices in one",
                f"Choose from {', '.join(f'{leaf}:{name}' for name in known)}" if known else f"Adapt {leaf} as a whole",
                field="lora.targets",
            )
    return [known[part] for part in wanted]


def _biases(lora: LoraConfig, chosen: Sequence[LinearShape], whole: Sequence[str], blueprint: Blueprint) -> int:
    biases = blueprint.biases()
    if lora.bias == "all":
        if not biases:
            raise _no_biases(blueprint, "lora.bias")
        return sum(size for module, size in biases.items() if not lies_in(module, whole))
    return sum(biases.get(shape.name, 0) for shape in chosen) if lora.bias == "lora_only" else 0


def _tokens(lora: LoraConfig, blueprint: Blueprint) -> int:
    embedding = blueprint.input_embedding
    return len(lora.new_tokens) * embedding.out_features if embedding else 0


def _no_biases(blueprint: Blueprint, field: str) -> ConfigError:
    kind = blueprint.config.get("model_type", "this")
    return ConfigError(
        f"Models of the kind {kind} have no biases to train",
        hint="Choose LoRA, or a base model with biases, such as GPT-2, OPT or BERT",
        field=field,
    )
