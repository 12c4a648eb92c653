"""Base and adapter as one model for llama.cpp: a GGUF file with weights, settings, tokenizer and chat template.

What llama.cpp's converter does for these architectures is done here: tensors go by llama.cpp's names, the rows of each
head of q and k go from halves to pairs where its rotary embedding turns neighbours (`core.adapters.gguf`), vectors stay
in fp32. A rotary embedding with frequencies of its own (Llama 3, linear scaling) is written as what it divides the
plain ones by, `rope_freqs.weight`. The sum of base and adapter is formed in fp32 and rounded once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gguf
import numpy as np
import torch
from torch import Tensor

from core.adapters.gguf import paired_rows
from core.adapters.merge import MergeReport, load_adapted, merged_whole
from core.config import QuantConfig
from core.errors import AdapterError, ModelError
from core.export.gguf_words import write_words
from core.models.load import LoadedModel, load_model

Storage: TypeAlias = Literal["f32", "f16", "bf16", "q8_0"]

_TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_BLOCK = 32  # weights that share a scale in q8_0


@dataclass(frozen=True, slots=True)
class _Architecture:
    arch: gguf.MODEL_ARCH
    pairs_rows: bool


_ARCHITECTURES = {
    "llama": _Architecture(gguf.MODEL_ARCH.LLAMA, True),
    "qwen2": _Architecture(gguf.MODEL_ARCH.QWEN2, False),
    "qwen3": _Architecture(gguf.MODEL_ARCH.QWEN3, False),
}


def export_gguf_model(
    adapter_folder: Path,
    model_folder: Path,
    output: Path,
    *,
    storage: Storage = "f16",
    name: str = "",
    quant: QuantConfig | None = None,
) -> MergeReport:
    """Write base and adapter as one model into the file `output`.

    Args:
        storage: what matrices are stored in.
        name: the model's, for whoever shows it.
        quant: how the base was quantized while the adapter was trained, where the result is to be that model.

    Raises:
        AdapterError, ModelError: adapter or base cannot be read, or llama.cpp would read them in another way.
    """
    loaded, key = load_adapted(adapter_folder, model_folder, dtype=torch.float32, quant=quant)
    with merged_whole(loaded, key, None) as report:
        _write(loaded, output, storage, name)
    return report


def export_gguf_base(model_folder: Path, output: Path, *, storage: Storage = "f16", name: str = "") -> None:
    """Write the base itself, for an adapter in GGUF to be used with.

    Raises:
        ModelError: it cannot be read, or llama.cpp would read it in another way.
    """
    _write(load_model(model_folder, dtype=torch.float32), output, storage, name)


def _write(loaded: LoadedModel, output: Path, storage: Storage, name: str) -> None:
    config = loaded.model.config.get_text_config()
    architecture = _architecture(loaded, config)
    draft = output.with_name(f"{output.name}.part")
    writer = gguf.GGUFWriter(draft, gguf.MODEL_ARCH_NAMES[architecture.arch])
    try:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(name or str(config.model_type))
        _write_settings(writer, config, storage)
        write_words(writer, loaded.tokenizer, loaded.model.get_input_embeddings().weight.shape[0])
        tensors = list(_tensors(loaded.model, config, architecture))
        for tensor_name, tensor in tensors:
            kind = _kind(tensor, storage)
            writer.add_tensor_info(tensor_name, list(tensor.shape), np.dtype(np.float32), _size(tensor, kind), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor_name, tensor in tensors:
            writer.write_tensor_data(_stored(tensor_name, tensor, _kind(tensor, storage)))
        writer.close()
        os.replace(draft, output)
    finally:
        writer.close()
        draft.unlink(missing_ok=True)


def _architecture(loaded: LoadedModel, config: Any) -> _Architecture:
    found = _ARCHITECTURES.get(config.model_type)
    if found is None:
        raise AdapterError(
            f"Merged GGUF files of models of the kind {config.model_type} are not written here",
            hint=f"Choose a base of the kind {', '.join(_ARCHITECTURES)}, or convert the merged model with llama.cpp",
        )
    rope = config.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3", "linear") or getattr(config, "use_sliding_window", False):
        raise ModelError(
            f"This model reads long texts in a way ({kind if kind != 'default' else 'sliding window'}) that is not "
            "written here",
            hint="Convert the merged model with llama.cpp",
        )
    return found


def _write_settings(writer: gguf.GGUFWriter, config: Any, storage: Storage) -> None:
    size = _head_size(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(size)
    writer.add_file_type(_TYPES[storage][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _tensors(model: Any, config: Any, architecture: _Architecture) -> Iterator[tuple[str, Tensor]]:
    """Every weight by llama.cpp's name, laid as it has it."""
    names = gguf.get_tensor_name_map(architecture.arch, config.num_hidden_layers)
    for own_name, tensor in model.state_dict().items():
        if own_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, _, leaf = own_name.rpartition(".")
        name = names.get_name(module)
        if name is None:
            raise AdapterError(f"llama.cpp has no tensor for {own_name}", hint="Export the merged model instead")
        rows = paired_rows(config, module, tensor.shape[0]) if architecture.pairs_rows else None
        yield f"{name}.{leaf}", tensor if rows is None else tensor[rows]
    if config.rope_parameters.get("rope_type", "default") != "default":
        yield "rope_freqs.weight", _divisors(model, config)


def _divisors(model: Any, config: Any) -> Tensor:
    """What the plain frequencies of the rotary embedding are divided by, `[head / 2]`."""
    size = _head_size(config)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    own: Tensor = model.model.rotary_emb.inv_freq
    divisors: Tensor = (plain / own.double().cpu()).float()
    return divisors


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _kind(tensor: Tensor, storage: Storage) -> gguf.GGMLQuantizationType:
    """What a tensor is stored in: vectors always in full, and what does not come in blocks not in q8_0."""
    if tensor.ndim < 2:
        return gguf.GGMLQuantizationType.F32
    kind = _TYPES[storage][0]
    is_blocked = kind != gguf.GGMLQuantizationType.Q8_0 or tensor.shape[-1] % _BLOCK == 0
    return kind if is_blocked else gguf.GGMLQuantizationType.F16


def _size(tensor: Tensor, kind: gguf.GGMLQuantizationType) -> int:
    values, size = gguf.GGML_QUANT_SIZES[kind]
    return tensor.numel() // values * size


def _stored(name: str, tensor: Tensor, kind: gguf.GGMLQuantizationType) -> np.ndarray[Any, Any]:
    values = tensor.detach().float().cpu().contiguous().numpy()
    largest = float(np.finfo(np.float16).max)
    if kind == gguf.GGMLQuantizationType.F16 and not np.abs(values).max(initial=0) <= largest:
        raise AdapterError(f"{name} has values that f16 cannot hold", hint="Store it as bf16")
    stored: np.ndarray[Any, Any] = gguf.quantize(values, kind)
    return stored
