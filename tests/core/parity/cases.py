"""The table: which architectures, kinds of layers and variants are compared with peft, and how closely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from core.config import LoraConfig
from tests.core.parity.architectures import ARCHITECTURES, CLASSIFIERS, MIXTURES, WIDTH

LIMIT = 1e-5  # of every difference, relative to the norm of the tensor: nowhere had it to be looser

# Elements that nothing feels: a key's bias adds the same to all scores of a query, where no rotation follows, and
# softmax takes no notice. Their gradient is rounding alone and AdamW makes whole steps of it, so they are left out.
UNFELT = {
    "gpt2": {"attn.c_attn.bias": slice(WIDTH, 2 * WIDTH)},
    "opt": {"k_proj.bias": slice(None)},
    "bert": {"key.bias": slice(None)},
    "roberta": {"key.bias": slice(None)},
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What is compared: our settings, and what peft calls them where that does not follow from ours.

    `kind` is what is adapted. `peft` replaces settings of peft's, `tokens` are those whose rows are trained, `bits` is
    what the base is stored in, `is_bias_only` means BitFit. `heaped` are targets that the model feeds with what is not
    a row of the batch, so that their rows cannot be told apart and a mixed batch is refused.
    """

    architecture: str
    kind: str
    variant: str
    config: LoraConfig
    peft: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()
    bits: int = 32
    is_bias_only: bool = False
    heaped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.architecture}-{self.kind}-{self.variant}"

    @property
    def is_transposed(self) -> bool:
        """Whether the linear layers are Conv1D."""
        return self.architecture == "gpt2"

    @property
    def is_anchored(self) -> bool:
        """Whether the start is not zero, and what it was is subtracted."""
        return self.config.init in ("pissa", "olora")


_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NEOX = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
_BERT = ("query", "key", "value", "dense")
LINEARS: dict[str, tuple[str, ...]] = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "mistral": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "gpt_neox": _NEOX,
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "falcon": _NEOX,
    "mixtral": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "roberta": _BERT,
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "dense"),
    "bert": _BERT,
}
PLAIN = LoraConfig(rank=4, alpha=6)
RELATED: dict[str, dict[str, Any]] = {"plain": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}
PLAIN_AND_DORA = {name: RELATED[name] for name in ("plain", "dora")}
TIED = {"ensure_weight_tying": True}
# Where embedding and head are two matrices, and where they are one.
EMBEDDINGS = {"llama": "embed_tokens", "gpt_neox": "embed_in", "roberta": "word_embeddings"}
TIED_EMBEDDINGS = {"gpt2": "wte", "gemma3_text": "embed_tokens", "opt": "embed_tokens", "falcon": "word_embeddings"}
PARTS = {
    "gpt2": ("c_attn:q", "c_attn:v"),
    "phi3": ("qkv_proj:q", "qkv_proj:v", "gate_up_proj:up"),
    "gpt_neox": ("query_key_value:k", "query_key_value:v"),
    "falcon": ("query_key_value:q", "query_key_value:v"),
}
CONVOLUTIONS = {"conv1d": ("line", "point"), "conv2d": ("picture",)}
WHOLE = {"roberta": "classifier", "llama": "lm_head", "opt": "final_layer_norm"}
BLOCK = {"gpt2": "h.1", "llama": "layers.1"}
# By architecture, the module that a pattern names everywhere, and one that it names in a block.
PATTERNED = {"gpt2": ("c_attn", "h.1.mlp.c_fc"), "llama": ("q_proj", "layers.1.mlp.up_proj")}


def _case(architecture: str, kind: str, variant: str, targets: tuple[str, ...], **changes: Any) -> Case:
    """A case from our settings, and from those fields of `Case` that are among `changes`."""
    known = {name: changes.pop(name) for name in tuple(changes) if name in Case.__dataclass_fields__}
    return Case(
        architecture=architecture,
        kind=kind,
        variant=variant,
        config=replace(PLAIN, targets=targets, **changes),
        **known,
    )


def _linear(architecture: str, variant: str, **changes: Any) -> Case:
    more: dict[str, Any] = {"modules_to_save": ("classifier",)} if architecture in CLASSIFIERS else {}
    if architecture == "deberta-v2":
        more["heaped"] = ("query_proj", "key_proj")  # they also see the embeddings of the distances between tokens
    return _case(architecture, "linear", variant, LINEARS[architecture], **more | changes)


def _by_architecture() -> Iterator[Case]:
    for architecture in ARCHITECTURES:
        for variant, changes in RELATED.items():
            yield _linear(architecture, variant, **changes)


def _by_kind() -> Iterator[Case]:
    for variant, changes in PLAIN_AND_DORA.items():
        for architecture, target in EMBEDDINGS.items():
            yield _case(architecture, "embedding", variant, (target,), **changes)
        yield _case("llama", "head", variant, ("lm_head",), **changes)
        for kind, targets in CONVOLUTIONS.items():
            yield _case("convolutions", kind, variant, targets, **changes)
        for architecture, targets in PARTS.items():
            yield _part(architecture, variant, targets, **changes)
        for architecture, module in WHOLE.items():
            yield _case(architecture, "whole", variant, LINEARS[architecture], modules_to_save=(module,), **changes)
        for architecture in ("llama", "gpt2"):
            yield _case(architecture, "tokens", variant, LINEARS[architecture], tokens=(7, 5, 41), **changes)
    for variant in ("plain", "rslora"):
        for architecture, target in TIED_EMBEDDINGS.items():
            yield _case(architecture, "tied", variant, (target,), peft=_tied(target), **RELATED[variant])
        for architecture in MIXTURES:
            yield _experts(architecture, variant, **RELATED[variant])
    yield _case("convolutions", "conv2d", "pissa", CONVOLUTIONS["conv2d"], init="pissa")
    yield _case("convolutions", "conv1d", "bias-lora-only", CONVOLUTIONS["conv1d"], bias="lora_only")
    for architecture in ("gpt2", "gemma3_text"):
        target = TIED_EMBEDDINGS[architecture]
        theirs = TIED if target == "embed_tokens" else {"modules_to_save": [target, "lm_head"]}
        yield _case(architecture, "tied-whole", "plain", LINEARS[architecture], modules_to_save=(target,), peft=theirs)


def _tied(target: str) -> dict[str, Any]:
    """peft ties an adapter of embeddings that have the usual name alone; of others both ends have to be named."""
    return TIED if target == "embed_tokens" else {"target_modules": [target, "lm_head"]}


def _part(architecture: str, variant: str, targets: tuple[str, ...], **changes: Any) -> Case:
    """peft: rank parts · r, and as much more alpha, so that the scale is the same."""
    leaves = tuple(dict.fromkeys(target.partition(":")[0] for target in targets))
    parts = {leaf: sum(target.startswith(f"{leaf}:") for target in targets) for leaf in leaves}
    wide = {
        "target_modules": list(leaves),
        "rank_pattern": {leaf: PLAIN.rank * count for leaf, count in parts.items()},
        "alpha_pattern": {leaf: PLAIN.alpha * count for leaf, count in parts.items()},
    }
    return _case(architecture, "part", variant, targets, peft=wide, **changes)


def _experts(architecture: str, variant: str, **changes: Any) -> Case:
    weights = ("gate_up_proj", "down_proj")
    theirs = {"target_modules": [], "target_parameters": [f"mlp.experts.{weight}" for weight in weights]}
    return _case(architecture, "experts", variant, weights, peft=theirs, **changes)


def _by_variant() -> Iterator[Case]:
    for architecture in ("gpt2", "llama"):
        everywhere, once = PATTERNED[architecture]
        yield _linear(architecture, "dropout", dropout=0.3)
        yield _linear(architecture, "lora-fa", freeze_a=True)
        yield _linear(architecture, "dora-fa", freeze_a=True, use_dora=True)
        yield _linear(architecture, "dora-rslora", use_rslora=True, use_dora=True)
        for start in ("gaussian", "orthogonal", "pissa", "olora", "eva"):
            yield _linear(architecture, start, init=start)
        yield _linear(architecture, "pissa-rslora", init="pissa", use_rslora=True)
        yield _linear(architecture, "loftq", init="loftq", bits=4)
        yield _linear(architecture, "rank-pattern", rank_pattern={everywhere: 2, once: 7})
        yield _linear(architecture, "alpha-pattern", alpha_pattern={everywhere: 3.0, once: 11.0})
        yield _linear(architecture, "layers", layers=(1,))
        for bits in (4, 8):
            yield _linear(architecture, f"{bits}-bit", bits=bits)
            yield _linear(architecture, f"{bits}-bit-dora", bits=bits, use_dora=True)
    for architecture in ("gpt2", "qwen2"):  # Llama has no biases
        for bias in ("lora_only", "all"):
            yield _linear(architecture, f"bias-{bias.replace('_', '-')}", bias=bias)
        yield _linear(architecture, "bias-all-dora", bias="all", use_dora=True)
        yield _linear(architecture, "bias-all-4-bit", bias="all", bits=4)
    for architecture in ("gpt2", "qwen2", "opt", "bert"):
        yield _linear(architecture, "bitfit", is_bias_only=True, modules_to_save=())


CASES = (*_by_architecture(), *_by_kind(), *_by_variant())
