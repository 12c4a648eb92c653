"""Settings that contradict each other: what the engine refuses, told before anything is loaded.

Each check is a pure function of settings, and of sizes where these matter, and free of torch, so that the page and the
command line refuse with the same sentences as the engine, and sooner. What one setting may be is for `core.config` to
say; which layers a name means, for `core.models.targets`.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.config import LoraConfig, RunConfig
from core.errors import ConfigError
from core.models.shapes import LinearShape

METHOD_WORDS = {"full": "full fine-tuning", "bitfit": "BitFit"}
# Starts that look at a whole matrix, or at what goes into it, and so cannot begin an update of a part.
WHOLE_MATRIX_STARTS = ("pissa", "olora", "eva", "loftq")
PLAIN_STARTS = ("kaiming", "gaussian")


def check(config: RunConfig) -> None:
    """Refuse settings that exclude each other whatever the model.

    Raises:
        ConfigError: on the setting that should be changed.
    """
    for rule in _RULES:
        rule(config)


def check_layers(
    lora: LoraConfig, chosen: Sequence[LinearShape], *, is_tied: bool, input_embedding: str | None
) -> None:
    """Refuse settings that the chosen layers cannot carry.

    Args:
        chosen: the layers that targets and layers leave. is_tied: whether head and input embedding share their weight.
        input_embedding: the name of the embedding that tokens go through, if the model has one.

    Raises:
        ConfigError: on the setting that should be changed.
    """
    for shape in chosen:
        if shape.kind in ("embedding", "head") and is_tied and lora.use_dora:
            raise ConfigError(
                "DoRA cannot adapt an embedding that is tied to the output head",
                "its magnitudes would stand for columns on one side and for rows on the other",
                "Leave the embedding and the head out of the targets",
                field="lora.use_dora",
            )
        if shape.kind == "head" and lora.new_tokens and not is_tied:
            raise ConfigError(
                f"New tokens cannot be stored beside an update of {shape.name}",
                hint="Leave the output head out of the targets, or name it in modules_to_save",
                field="lora.new_tokens",
            )
        if shape.kind == "experts":
            _check_experts(lora, shape)
        if shape.kind == "embedding":
            _check_embedding(lora, shape, takes_tokens=shape.name == input_embedding)


def _full_needs_numbers(config: RunConfig) -> None:
    if config.method == "full" and config.quant.bits in (4, 8):
        raise ConfigError(
            f"Weights stored in {config.quant.bits} bits cannot be trained",
            "full fine-tuning trains every weight",
            "Choose 16 or 32 bits, or the method LoRA",
            field="quant.bits",
        )


def _adapter_settings_need_an_adapter(config: RunConfig) -> None:
    """What another method would pass over in silence although the user counts on it. Rank and the like may stay, so
    that methods can be compared by one word.
    """
    if config.method == "lora":
        return
    words = METHOD_WORDS[config.method]
    if config.optim.lora_plus_ratio != 1:
        raise ConfigError(
            f"The LoRA+ ratio is {config.optim.lora_plus_ratio:g}, but no B is trained",
            f"{words} has no A and B",
            "Set it to 1, or choose the method LoRA",
            field="optim.lora_plus_ratio",
        )
    if config.lora.new_tokens:
        raise _without_adapter("New tokens", words, "lora.new_tokens")
    if config.lora.modules_to_save and config.method == "bitfit":
        raise _without_adapter("Modules trained whole", words, "lora.modules_to_save")


def _without_adapter(what: str, words: str, field: str) -> ConfigError:
    return ConfigError(
        f"{what} belong to an adapter, and {words} has none",
        hint="Leave them out, or choose the method LoRA",
        field=field,
    )


def _lists_are_filled(config: RunConfig) -> None:
    if config.method != "lora":
        return
    if config.lora.layers == ():
        hint = "Name at least one, or leave the setting out for all"
        raise ConfigError("No layers are chosen", hint=hint, field="lora.layers")
    tokens = config.lora.new_tokens
    for token in tokens:
        if not token.strip() or tokens.count(token) > 1:
            raise ConfigError(
                f"The new token {token!r} is {'there twice' if token.strip() else 'empty'}",
                hint="Give each new token once",
                field="lora.new_tokens",
            )


def _variants_agree(config: RunConfig) -> None:
    if config.method == "lora" and config.lora.freeze_a and config.optim.lora_plus_ratio != 1:
        raise ConfigError(
            f"The LoRA+ ratio is {config.optim.lora_plus_ratio:g}, but A is frozen",
            "the ratio says how much faster B learns than A",
            "Set it to 1 and raise the learning rate, or let A learn",
            field="optim.lora_plus_ratio",
        )


def _start_fits(config: RunConfig) -> None:
    if config.method != "lora":
        return
    lora = config.lora
    if lora.init == "orthogonal":
        _ranks_are_even(lora)
    if lora.init == "loftq" and config.quant.bits not in (4, 8):
        raise ConfigError(
            "The start loftq makes up for quantization, and this base is not quantized",
            hint="Store the base in 4 or 8 bits, or choose another start",
            field="lora.init",
        )
    part = next((target for target in lora.targets if ":" in target), None)
    if part is not None and lora.init in WHOLE_MATRIX_STARTS:
        raise ConfigError(
            f"The start {lora.init} needs whole matrices, and {part} is a part of one",
            hint="Choose another start, or adapt the matrix as a whole",
            field="lora.init",
        )


def _ranks_are_even(lora: LoraConfig) -> None:
    for rank in (lora.rank, *lora.rank_pattern.values()):
        if rank % 2:
            raise ConfigError(
                f"The orthogonal start deals a rank out in two halves, and {rank} is odd",
                hint=f"Choose rank {rank + 1}, or another start",
                field="lora.init",
            )


def _check_experts(lora: LoraConfig, experts: LinearShape) -> None:
    """What makes no sense, or has no place in PEFT's format, for the experts of a mixture."""
    unfit = (
        ("lora.use_dora", "DoRA", lora.use_dora),
        ("lora.dropout", "dropout", lora.dropout > 0),
        ("lora.init", f"the start {lora.init}", lora.init not in PLAIN_STARTS),
    )
    for field, words, is_set in unfit:
        if is_set:
            raise ConfigError(
                f"{experts.name} holds experts, which cannot be adapted with {words}",
                hint="Leave the experts out of the targets, or change this setting",
                field=field,
            )


def _check_embedding(lora: LoraConfig, embedding: LinearShape, *, takes_tokens: bool) -> None:
    name = embedding.name.rpartition(".")[2]
    if lora.freeze_a:
        raise ConfigError(
            f"The adapter of {name} would learn nothing: in an embedding A begins at zero, and here it is frozen",
            hint=f"Leave {name} out of the targets, or let A learn",
            field="lora.freeze_a",
        )
    if lora.new_tokens and takes_tokens:
        raise ConfigError(
            f"{name} takes new tokens or a low-rank update, not both",
            hint=f"Leave {name} out of the targets",
            field="lora.new_tokens",
        )


_RULES = (_full_needs_numbers, _adapter_settings_need_an_adapter, _lists_are_filled, _variants_agree, _start_fits)
