"""Linear layers whose weight lies in the order in which oneDNN's products read it.

A product with few rows takes as long as reading the weight does. From a weight that lies row by row, torch's products
of 1 to 8 rows read 14 to 19 GB/s on a machine that can read 27; from one that is laid out in blocks beforehand, 25
(SmolLM2's layers in bf16, 2 cores). The numbers are the same and so is the memory, since the plain weight is let go.

Whoever wants the plain weight, to merge or to find DoRA's norm, gets a copy made for that. Gradients do not pass.

The head is left as it is: it is wide enough to be read quickly, and often is the embedding, which is looked up row by
row. But what it is given after a prompt, the last token of each row, lies apart, and for that torch would lay out the
head's weight anew for each row (the starter's: 45 ms a row). So it gets a copy that lies together.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from core.models.linears import find_linears, output_head
from core.models.quantize import leave_the_file

log = logging.getLogger(__name__)

TRIED_ROWS = (1, 4, 33)
TOLERANCE = {torch.bfloat16: 2**-7, torch.float32: 1e-5}  # of the norm; the order of the sums may differ


class PackedLinear(nn.Linear):
    """`layer`, frozen, with its weight packed: `packed` `[out, in]` in the layer's dtype, opaque to all but oneDNN."""

    packed: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        operators: Any = torch.ops.mkldnn  # torch's own, for the code that its compiler makes
        self.register_buffer("packed", operators._reorder_linear_weight(layer.weight.detach()), persistent=False)
        self.bias = layer.bias
        self._product: Any = operators._linear_pointwise.default
        self._arguments: tuple[Any, ...] = (self.packed, self.bias, "none", [], "")

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A plain copy `[out, in]`, made anew each time."""
        return self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """X Wᵀ + bias for x `[..., in]` in the weight's dtype."""
        result: Tensor = self._product(x, *self._arguments)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        """A plain layer: whoever copies one wants to train or change the copy."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(self.weight, requires_grad=False)
        plain.register_parameter("bias", copy.deepcopy(self.bias, memo))
        return plain


def pack_linears(model: nn.Module) -> int:
    """Pack the plain linear layers of `model` but its head, where that gives the same products; returns how many.

    Layers on another device than the CPU, in other dtypes than fp32 and bf16, and those that share their weight stay.
    """
    users = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    found: dict[tuple[Any, ...], bool] = {}
    packed = 0
    for shape in find_linears(model):
        parent_name, _, child = shape.name.rpartition(".")
        parent = model.get_submodule(parent_name)
        layer = getattr(parent, child)
        if type(layer) is not nn.Linear or users[id(layer.weight)] > 1 or layer.weight.dtype not in TOLERANCE:
            continue
        kind = (layer.weight.shape, layer.weight.dtype, layer.weight.device, layer.bias is None)
        if kind not in found:
            found[kind] = _agrees(layer)
        if found[kind]:
            setattr(parent, child, PackedLinear(layer))
            packed += 1
    leave_the_file(model)
    head = output_head(model)
    if head is not None:
        head.register_forward_pre_hook(
            lambda _, given: (given[0].clone(memory_format=torch.contiguous_format), *given[1:])
        )
    return packed


@torch.no_grad()
def _agrees(layer: nn.Linear) -> bool:
    """Whether this machine can pack `layer` and then gives its products, of few rows and of many."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if layer.weight.device.type != "cpu" or not has_onednn:
        return False
    dtype, generator = layer.weight.dtype, torch.Generator().manual_seed(0)
    try:
        packed = PackedLinear(layer)
        for rows in TRIED_ROWS:
            x = torch.randn(1, rows, layer.in_features, generator=generator).to(dtype)
            wanted = layer(x)
            if (packed(x) - wanted).norm() > TOLERANCE[dtype] * wanted.norm():
                return False
        return torch.equal(packed.weight, layer.weight)
    except (RuntimeError, AttributeError) as error:
        log.info("Weights are not packed on this machine: %s", error)
        return False
