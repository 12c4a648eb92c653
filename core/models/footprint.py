"""What a base model's weights take in memory: by the formula, and counted tensor by tensor.

A weight of a matrix quantized in blocks takes (QLoRA, section 3)

    4 bits, double quantization      4 + 8/block + 32/(256 · block)    its code, its share of a scale and of c₂
    4 bits                           4 + 32/block
    8 bits                           8 + 32/in                         one fp32 scale a row of `in` weights

which is 4.127 bits at block size 64. `matrix_bytes` is the same with the ends counted: a last block that is not full,
a last group of scales that is not full, and the mean scale of a matrix (both in `core.models.block_bits`).
The tables of values are no part of it: they are constants that exist once for all matrices (`core.models.quantize`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from core.models.block_bits import bits_a_weight, matrix_bytes
from core.models.quantize import QuantizedLinear

__all__ = ["Footprint", "TensorSize", "bits_a_weight", "footprint", "matrix_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSize:
    """A parameter or buffer of a model: its dotted name, its dtype (`float32`) and its bytes."""

    name: str
    dtype: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """A model's tensors, each storage counted once.

    `quantized_weights` counts the numbers that the quantized matrices stand for and `quantized_bytes` all that is kept
    for them, scales included. `wide` are the other tensors of more than 16 bits a number, `other_bytes` is what
    everything but the quantized matrices takes.
    """

    quantized_weights: int
    quantized_bytes: int
    other_bytes: int
    wide: tuple[TensorSize, ...]

    @property
    def bits_a_weight(self) -> float:
        """What a quantized weight takes on average; 0 where none is."""
        return 8 * self.quantized_bytes / self.quantized_weights if self.quantized_weights else 0.0


def footprint(model: nn.Module) -> Footprint:
    """What `model` takes as it is now, quantized or not. Adapters in it count as other tensors."""
    quantized = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    inside = {f"{name}.{buffer}" for name, module in quantized.items() for buffer, _ in module.named_buffers()}
    tensors = list(_storages(model))
    sizes = [(name, tensor, tensor.untyped_storage().nbytes()) for name, tensor in tensors]
    return Footprint(
        quantized_weights=sum(module.out_features * module.in_features for module in quantized.values()),
        quantized_bytes=sum(nbytes for name, _, nbytes in sizes if name in inside),
        other_bytes=sum(nbytes for name, _, nbytes in sizes if name not in inside),
        wide=tuple(
            TensorSize(name=name, dtype=str(tensor.dtype).removeprefix("torch."), nbytes=nbytes)
            for name, tensor, nbytes in sizes
            if name not in inside and tensor.element_size() > 2
        ),
    )


def _storages(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer of `model`, one for each storage: a tied head is its embedding."""
    seen: set[int] = set()
    for tensors in (model.named_parameters(), model.named_buffers()):
        for name, tensor in tensors:
            start = tensor.untyped_storage().data_ptr()
            if start not in seen:
                seen.add(start)
                yield name, tensor
