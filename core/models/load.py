"""A base model in memory: tokenizer and weights from a local folder, frozen, in the dtype asked for, quantized or
not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from core.config import QuantConfig
from core.errors import ModelError
from core.kernels import packed_attention
from core.models.linears import find_linears
from core.models.quantize import quantize_linears


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A frozen causal language model in evaluation mode, with its tokenizer."""

    model: Any
    tokenizer: Any
    dtype: torch.dtype
    device: torch.device
    parameters: int


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype | None,
    quant: QuantConfig | None = None,
    device: torch.device | None = None,
    attention: str | None = None,
) -> LoadedModel:
    """The model in `folder` (transformers' format, safetensors only; code in the folder is never run).

    Args:
        dtype: what weights are stored and computed in; None keeps the dtype on disk.
        quant: bits 4 or 8 quantize every linear layer but the head.
        attention: a name in transformers' attention registry, `packed_attention.NAME` for packed training batches;
            None takes the best that the model supports.

    Raises:
        ModelError: the folder cannot be read as a causal language model.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    packed_attention.register()
    device = device or torch.device("cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, findings = AutoModelForCausalLM.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=dtype or "auto",
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"The model in {folder} cannot be loaded: {str(error).splitlines()[0]}",
            hint="Choose a causal language model in transformers' format with safetensors weights",
        ) from error
    _refuse_gaps(folder, findings)
    model.eval().requires_grad_(False)
    parameters = sum(p.numel() for p in model.parameters())
    if quant is not None and quant.bits in (4, 8):
        quantize_linears(model, [shape.name for shape in find_linears(model)], quant)
    model.to(device)
    return LoadedModel(model=model, tokenizer=tokenizer, dtype=model.dtype, device=device, parameters=parameters)


def _refuse_gaps(folder: Path, findings: dict[str, Any]) -> None:
    """transformers fills weights that a folder lacks with random numbers and goes on; that is no base model."""
    missing = sorted(map(str, findings["missing_keys"]))
    if missing:
        raise ModelError(
            f"The model in {folder} lacks {len(missing)} of its weights",
            ", ".join(missing[:3]) + (", …" if len(missing) > 3 else ""),
            "Download or export it again",
        )


def head_weight(model: nn.Module) -> torch.Tensor | None:
    """The output head's weight `[vocab, dim]` where logits are exactly hidden states times it, else None.

    None for a head that is adapted, has a bias, or whose logits the model scales or caps afterwards.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()  # type: ignore[operator, union-attr]
    transforms = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
    if type(head) is not nn.Linear or head.bias is not None or any(getattr(config, name, None) for name in transforms):
        return None
    return head.weight.detach()
