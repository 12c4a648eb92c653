"""An adapter as llama.cpp reads it: LoRA in a GGUF file, for a base that llama.cpp's converter made.

For the base's tensor NAME there are `NAME.lora_a` and `NAME.lora_b`; llama.cpp adds

    (α / r) · B (A x)        r: the rows of that A

with one α for the whole file. Where a layer's own scale differs from what that makes of its rank, the rest goes into B.
The base's tensors are not laid as in transformers everywhere, and B's rows, or A and B both, have to follow:

    llama        the rows of each head of q and k go from halves to pairs, since llama.cpp rotates neighbours
    fused q k v  where heads are interleaved (GPT-NeoX, BLOOM, Falcon), all of q comes first, then k, then v
    Conv1D       GPT-2's weight lies as [in, out], and the converter turns it. Our A [r, in] and B [out, r] belong to
                 the turned one already, and stay. (llama.cpp's own converter of adapters turns them too.)
    embedding    is looked up by token, so A lies as [vocabulary, r]

A dimension is counted from the last in GGUF; the package sees to that. Where the head is tied to the embedding,
llama.cpp has one tensor for both and looks up either's update by that one name, so neither can be adapted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from core.adapters.peft_base import view
from core.adapters.peft_format import read_adapter
from core.adapters.portable import Product, products_in, products_of
from core.errors import AdapterError, ModelError
from core.models.fused import QKV, fused_parts

Precision = Literal["f32", "f16"]


@dataclass(frozen=True, slots=True)
class _Architecture:
    """llama.cpp's name for an architecture, and in which order it has a layer's output features: None for as it is."""

    arch: gguf.MODEL_ARCH
    rows: Callable[[Any, str, int], Tensor | None]


def export_gguf(adapter: Path, model_folder: Path, output: Path, precision: Precision = "f32") -> None:
    """Write the adapter in the folder `adapter` into the file `output`; of the base in `model_folder` only the config
    is read.

    Raises:
        AdapterError: it cannot be read, is more than low-rank updates, or is for another base or one that llama.cpp
            does not have.
        ModelError: the base's config cannot be read.
    """
    files = read_adapter(adapter)
    _write(products_in(files), _skeleton(model_folder), output, precision, files.base_model)


def save_gguf(model: Any, key: str, output: Path, base_model: str, precision: Precision = "f32") -> None:
    """Write the adapter `key` of `model` into the file `output`.

    Raises:
        AdapterError: `key` names no adapter of `model`, one that is more than low-rank updates, or llama.cpp does not
            have such a model.
    """
    _write(products_of(model, key), model, output, precision, base_model)


def _skeleton(folder: Path) -> Any:
    """The base without its weights."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"The model in {folder} cannot be read: {str(error).splitlines()[0]}",
            hint="Choose a causal language model in transformers' format",
        ) from None


def _write(products: dict[str, Product], model: Any, output: Path, precision: Precision, base_model: str) -> None:
    config = model.config.get_text_config()
    architecture = _ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise AdapterError(
            f"GGUF adapters for models of the kind {config.model_type} are not supported",
            hint=f"Choose a base of one of the kinds {', '.join(sorted(_ARCHITECTURES))}, or export in PEFT's format",
        )
    _check_fit(products, model, base_model)
    names = _names(products, config, architecture)
    alpha = Counter(product.scale * product.a.shape[0] for product in products.values()).most_common(1)[0][0]
    tensors = {}
    for module, product in sorted(products.items()):
        a, b = _laid(module, product, alpha, config, architecture)
        tensors[f"{names[module]}.lora_a"] = _stored(a, precision, module)
        tensors[f"{names[module]}.lora_b"] = _stored(b, precision, module)
    _write_file(output, gguf.MODEL_ARCH_NAMES[architecture.arch], alpha, tensors)


def _write_file(output: Path, architecture: str, alpha: float, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    draft = output.with_name(f"{output.name}.part")
    writer = gguf.GGUFWriter(draft, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(draft, output)


def _check_fit(products: dict[str, Product], model: Any, base_model: str) -> None:
    base = view(model)
    for module, product in products.items():
        shape = base.shapes.get(module)
        sizes = product.a.shape[1], product.b.shape[0]
        if shape is None or (shape.in_features, shape.out_features) != sizes:
            raise AdapterError(
                f"The adapter is for another base model: here {module} does not go from {sizes[0]} to {sizes[1]}",
                f"made for {base_model or 'an unnamed model'}",
                "Choose the base it was trained on",
            )
        if base.is_tied and module in (base.embedding, base.head):
            raise AdapterError(
                f"llama.cpp cannot adapt {module}, which embedding and output head of this base share",
                hint="Merge the adapter into its base",
            )


def _names(products: dict[str, Product], config: Any, architecture: _Architecture) -> dict[str, str]:
    """The base's tensors in llama.cpp's naming, by module."""
    table = gguf.get_tensor_name_map(architecture.arch, config.num_hidden_layers)
    names = {}
    for module in products:
        name = table.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None:
            raise AdapterError(f"llama.cpp has no tensor for {module}", hint="Merge the adapter into its base")
        names[module] = name
    return names


def _laid(
    module: str, product: Product, alpha: float, config: Any, architecture: _Architecture
) -> tuple[Tensor, Tensor]:
    """A and B as the file has them."""
    rank, out_features = product.a.shape[0], product.b.shape[0]
    rest = product.scale * rank / alpha
    b = product.b if rest == 1 else rest * product.b
    if product.is_embedding:
        return product.a.t(), b
    rows = architecture.rows(config, module, out_features)
    return product.a, b if rows is None else b[rows]


def _stored(tensor: Tensor, precision: Precision, module: str) -> np.ndarray[Any, Any]:
    stored = tensor.to(torch.float16 if precision == "f16" else torch.float32)
    if not stored.isfinite().all():
        raise AdapterError(f"{module} has values that 16 bits cannot hold", hint="Export it in 32 bits")
    array: np.ndarray[Any, Any] = stored.contiguous().numpy()
    return array


def _as_they_are(config: Any, module: str, out_features: int) -> None:
    return None


def paired_rows(config: Any, module: str, out_features: int) -> Tensor | None:
    """In which order llama.cpp has the rows of q and k, each head's two halves dealt out in turn; None for others."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    leaf = module.rpartition(".")[2]
    if leaf not in heads:
        return None
    return torch.arange(out_features).view(heads[leaf], 2, -1).transpose(1, 2).flatten()


def _gathered(config: Any, module: str, out_features: int) -> Tensor | None:
    """All of q, then k, then v."""
    parts = fused_parts(config, module, out_features)
    return torch.cat([parts[part] for part in QKV]) if parts else None


_ARCHITECTURES = {
    "llama": _Architecture(gguf.MODEL_ARCH.LLAMA, paired_rows),
    "mistral": _Architecture(gguf.MODEL_ARCH.LLAMA, paired_rows),
    "mixtral": _Architecture(gguf.MODEL_ARCH.LLAMA, paired_rows),
    "smollm3": _Architecture(gguf.MODEL_ARCH.SMOLLM3, paired_rows),
    "qwen2": _Architecture(gguf.MODEL_ARCH.QWEN2, _as_they_are),
    "qwen3": _Architecture(gguf.MODEL_ARCH.QWEN3, _as_they_are),
    "gemma": _Architecture(gguf.MODEL_ARCH.GEMMA, _as_they_are),
    "gemma2": _Architecture(gguf.MODEL_ARCH.GEMMA2, _as_they_are),
    "gemma3_text": _Architecture(gguf.MODEL_ARCH.GEMMA3, _as_they_are),
    "phi3": _Architecture(gguf.MODEL_ARCH.PHI3, _as_they_are),
    "gpt2": _Architecture(gguf.MODEL_ARCH.GPT2, _as_they_are),
    "mpt": _Architecture(gguf.MODEL_ARCH.MPT, _as_they_are),
    "gpt_neox": _Architecture(gguf.MODEL_ARCH.GPTNEOX, _gathered),
    "bloom": _Architecture(gguf.MODEL_ARCH.BLOOM, _gathered),
    "falcon": _Architecture(gguf.MODEL_ARCH.FALCON, _gathered),
}
