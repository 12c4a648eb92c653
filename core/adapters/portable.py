"""An adapter as every program reads it: plain LoRA in PEFT's format, with nothing in it that some pass over.

vLLM reads one scale, α/r, for the whole adapter, keeps room for ranks of a few sizes, and knows no DoRA and no trained
modules; patterns it ignores, in silence. llama.cpp's converter takes A and B alone, scales with α over the rows of A,
and ignores rsLoRA and patterns, also in silence. So here every layer has

    A' [R, in] = A and rows of zeros        B' [out, R] = s · B and columns of zeros        α = R, hence s' = 1

with one R for all, the next of vLLM's sizes: B' A' = s · B A, to the rounding of s · B in fp32. A magnitude, a bias, a
row of an embedding or a whole module cannot be said in this way; such an adapter is to be merged. Embeddings could be,
but vLLM takes them for a few models only and llama.cpp not where the head is tied to them; convolutions have no reader.

GPT-2's Conv1D needs care: llama.cpp's converter turns its weight, and would turn A and B with it, which peft does not
store turned. `core.adapters.gguf` writes what llama.cpp reads without the converter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import pad

from core.adapters.conv import LoraConv
from core.adapters.embedding import LoraEmbedding
from core.adapters.inject import lora_layers, require
from core.adapters.layer import LoraLayer
from core.adapters.linear import LoraLinear
from core.adapters.lowrank import TokenRows, Transposed
from core.adapters.peft_base import view
from core.adapters.peft_format import AdapterFiles, read_adapter
from core.adapters.peft_save import lora_settings, plain_settings, write_files
from core.adapters.peft_settings import shortest_names
from core.errors import AdapterError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's max_lora_rank can be, 1 aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One layer's ΔW = scale · b a, with `a` `[r, in]` and `b` `[out, r]` fp32, detached, on the CPU.

    Of an embedding, `a` is `[r, vocabulary]` and `b` `[width, r]`.
    """

    a: Tensor
    b: Tensor
    scale: float
    is_embedding: bool = False


def export_portable(adapter: Path, output: Path) -> None:
    """Write the adapter in the folder `adapter` as a portable one into the folder `output`.

    Raises:
        AdapterError: it cannot be read, or is more than low-rank updates of linear layers.
    """
    files = read_adapter(adapter)
    products = _linear(products_in(files))
    targets = files.settings.plain_targets()
    names = sorted(targets) if targets is not None else sorted(products)
    _write(products, output, names, files.base_model, is_turned=files.settings.fan_in_fan_out)


def save_portable(model: nn.Module, key: str, output: Path, base_model: str) -> None:
    """Write the adapter `key` of `model` as a portable one into the folder `output`.

    Raises:
        AdapterError: `key` names no adapter of `model`, or one that is more than low-rank updates of linear layers.
    """
    products = _linear(products_of(model, key))
    names = shortest_names(list(products), list(view(model).modules))
    layers = (layer for name, layer in lora_layers(model).items() if name in products)
    is_turned = any(isinstance(layer, LoraLinear) and layer.is_transposed for layer in layers)
    _write(products, output, names if isinstance(names, list) else sorted(products), base_model, is_turned=is_turned)


def products_in(files: AdapterFiles) -> dict[str, Product]:
    """The low-rank products that an adapter on disk consists of, by module.

    Raises:
        AdapterError: there is more to it.
    """
    settings, found = files.settings, files.found
    if settings.start:
        raise AdapterError(
            f"The adapter began with {settings.start}, which took a part of the base away",
            f"made for {files.base_model or 'an unnamed model'}",
            "Export it from peft with save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    for present, what in (
        (settings.use_dora, "DoRA's magnitudes"),
        (found.experts, "updates of experts"),
        (found.tokens, "rows of an embedding"),
        (found.whole, f"{next(iter(found.whole), '')}, trained whole"),
        (found.biases, "biases"),
    ):
        if present:
            raise _more(what)
    for module, layer in found.layers.items():
        if len(layer.kernel) > 1:
            raise _more(f"{module}, a convolution")
    return {
        module: Product(a=layer.a, b=layer.b, scale=settings.scale_of(module), is_embedding=layer.is_embedding)
        for module, layer in found.layers.items()
    }


def products_of(model: nn.Module, key: str) -> dict[str, Product]:
    """The low-rank products that the adapter `key` of `model` consists of, by module.

    Raises:
        AdapterError: it is not there, or there is more to it.
    """
    require(model, key)
    products = {}
    for name, layer in lora_layers(model).items():
        if not layer.has(key):
            continue
        update = layer.update(key) if isinstance(layer, LoraLayer) else None
        if update is None or isinstance(layer, LoraConv):
            raise _more(f"{name}, " + ("a convolution" if update is not None else "trained whole"))
        if isinstance(update, TokenRows) or (isinstance(update, Transposed) and isinstance(update.update, TokenRows)):
            raise _more("rows of an embedding")
        if update.magnitude is not None or update.bias is not None:
            raise _more("DoRA's magnitudes" if update.magnitude is not None else "biases")
        a, b = (factor.detach().cpu() for factor in update.factors())
        products[name] = Product(a=a, b=b, scale=update.scale, is_embedding=isinstance(layer, LoraEmbedding))
    return products


def _linear(products: dict[str, Product]) -> dict[str, Product]:
    for module, product in products.items():
        if product.is_embedding:
            raise _more(f"{module}, an embedding")
    return products


def _write(products: dict[str, Product], output: Path, names: list[str], base_model: str, *, is_turned: bool) -> None:
    widest = max(product.a.shape[0] for product in products.values())
    rank = next((rank for rank in RANKS if rank >= widest), None)
    if rank is None:
        raise AdapterError(
            f"The adapter has rank {widest}, and vLLM takes {RANKS[-1]} at most", hint="Shrink it to a lower rank"
        )
    tensors = {}
    for module, product in products.items():
        more = rank - product.a.shape[0]
        tensors[f"{module}.lora_A.weight"] = pad(product.a, (0, 0, 0, more))
        tensors[f"{module}.lora_B.weight"] = pad(product.scale * product.b, (0, more))
    settings = {
        **plain_settings(base_model, "CAUSAL_LM"),
        **lora_settings(dict.fromkeys(products, rank), dict.fromkeys(products, float(rank))),
        "target_modules": names,
        "fan_in_fan_out": is_turned,
    }
    write_files(output, settings, tensors)


def _more(what: str) -> AdapterError:
    return AdapterError(
        f"The adapter has {what}, which other programs than peft do not read",
        hint="Merge it into its base, or export it in PEFT's format",
    )
