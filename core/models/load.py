"""A base model in memory: tokenizer and weights from a local folder, frozen, in the dtype asked for, quantized or
not. With a `ClassHead` it is loaded as a classifier, whose head may be missing in the folder and is then drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from core.config import QuantConfig
from core.errors import ModelError
from core.kernels import packed_attention
from core.models.linears import find_linears
from core.models.quantize import quantize_linears


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassHead:
    """What a classifier's head is for: the names of its classes, and the seed that draws it where it is new."""

    labels: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A frozen model in evaluation mode, with its tokenizer.

    Of a classifier, `labels` are the classes in the order of the logits, `heads` the modules outside the base model
    (and a pooler that the folder lacked), `new_weights` the weights in them that were drawn as the folder had none.
    """

    model: Any
    tokenizer: Any
    dtype: torch.dtype
    device: torch.device
    parameters: int
    labels: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    new_weights: tuple[str, ...] = ()


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype | None,
    quant: QuantConfig | None = None,
    device: torch.device | None = None,
    attention: str | None = None,
    head: ClassHead | None = None,
) -> LoadedModel:
    """The model in `folder` (transformers' format, safetensors only; code in the folder is never run).

    Args:
        dtype: what weights are stored and computed in; None keeps the dtype on disk.
        quant: bits 4 or 8 quantize every linear layer but the head.
        attention: a name in transformers' attention registry, `packed_attention.NAME` for packed training batches;
            None takes the best that the model supports.
        head: load a classifier; without it a causal language model.

    Raises:
        ModelError: the folder cannot be read as such a model.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    packed_attention.register()
    device = device or torch.device("cpu")
    tokenizer, model, missing = _read(folder, dtype, attention, head)
    heads = _heads(model, missing) if head else ()
    _refuse_gaps(folder, [name for name in missing if not _lies_in(name, heads)])
    model.eval().requires_grad_(False)
    parameters = sum(p.numel() for p in model.parameters())
    if head:
        _ensure_padding(model, tokenizer)
    if quant is not None and quant.bits in (4, 8):
        linears = [shape.name for shape in find_linears(model)]
        quantize_linears(model, [name for name in linears if not _lies_in(name, heads)], quant)
    model.to(device)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        dtype=model.dtype,
        device=device,
        parameters=parameters,
        labels=tuple(model.config.id2label[number] for number in range(len(head.labels))) if head else (),
        heads=heads,
        new_weights=tuple(missing) if head else (),
    )


def _read(
    folder: Path, dtype: torch.dtype | None, attention: str | None, head: ClassHead | None
) -> tuple[Any, Any, list[str]]:
    """Tokenizer, model, and the weights that the folder lacks or has in another shape."""
    options = {"output_loading_info": True, "dtype": dtype or "auto", "attn_implementation": attention}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, findings = _classifier(folder, head, options) if head else _causal(folder, options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        kind = "model that transformers can classify with" if head else "causal language model"
        raise ModelError(
            f"The model in {folder} cannot be loaded: {str(error).splitlines()[0]}",
            hint=f"Choose a {kind}, in transformers' format with safetensors weights",
        ) from error
    mismatched = [key[0] for key in findings["mismatched_keys"]]
    return tokenizer, model, sorted({*map(str, findings["missing_keys"]), *map(str, mismatched)})


def _causal(folder: Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    found: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **options
    )
    return found


def _classifier(folder: Path, head: ClassHead, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A classifier for the classes of `head`; what the folder lacks is drawn from its seed."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    own = tuple(config.id2label[number] for number in sorted(config.id2label))
    labels = own if set(own) == set(head.labels) else head.labels  # a head that knows these classes keeps their order
    with torch.random.fork_rng():
        torch.manual_seed(head.seed)
        found: tuple[Any, dict[str, Any]] = AutoModelForSequenceClassification.from_pretrained(
            folder,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            problem_type="single_label_classification",
            ignore_mismatched_sizes=True,  # a head for other classes is replaced; any other mismatch is refused
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    return found


def _heads(model: Any, missing: Sequence[str]) -> tuple[str, ...]:
    """What makes classes of the base model's output: the modules beside it, and its pooler where that is missing."""
    pooler = f"{model.base_model_prefix}.pooler"
    beside = [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and next(module.parameters(), None) is not None
    ]
    return (*([pooler] if any(_lies_in(name, [pooler]) for name in missing) else []), *beside)


def _lies_in(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _refuse_gaps(folder: Path, missing: Sequence[str]) -> None:
    """transformers fills weights that a folder lacks with random numbers and goes on; that is no base model."""
    if missing:
        raise ModelError(
            f"The model in {folder} lacks {len(missing)} of its weights",
            ", ".join(missing[:3]) + (", …" if len(missing) > 3 else ""),
            "Download or export it again",
        )


def _ensure_padding(model: Any, tokenizer: Any) -> None:
    """Let tokenizer and model agree on a token that fills rows up; a decoder finds a row's end by it."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "The model's tokenizer has neither a padding token nor an end token",
                hint="Add a pad_token to its tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def position_limit(model: Any) -> int | None:
    """How many tokens a row may have by the model's positions; None where they are without end."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not limit or limit < 1:
        return None
    tables = (module for name, module in model.named_modules() if name.endswith(".position_embeddings"))
    table = next(tables, None)
    padding = getattr(table, "padding_idx", None)  # RoBERTa's positions are counted from behind it
    return limit if padding is None else limit - padding - 1


def head_weight(model: nn.Module) -> torch.Tensor | None:
    """The output head's weight `[vocab, dim]` where logits are exactly hidden states times it, else None.

    None for a head that is adapted or trained, has a bias, or whose logits the model scales or caps afterwards.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()  # type: ignore[operator, union-attr]
    transforms = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
    if type(head) is not nn.Linear or head.bias is not None or any(getattr(config, name, None) for name in transforms):
        return None
    return None if head.weight.requires_grad else head.weight.detach()
