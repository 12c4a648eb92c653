"""What a matrix takes that is quantized in blocks: by the formula, and to the byte. Without torch.

The formulas are in `core.models.footprint`, which counts them in a loaded model, and the layout in
`core.models.quantize`.
"""

from __future__ import annotations

from core.config import QuantConfig

SCALES_A_GROUP = 256  # scales that share one c₂


def bits_a_weight(config: QuantConfig, in_features: int) -> float:
    """What a weight takes on average; 16 and 32 bits are themselves. `in_features` matters to 8 bits alone."""
    if config.bits == 4 and config.double_quant:
        return 4 + 8 / config.block_size + 32 / (config.block_size * SCALES_A_GROUP)
    if config.bits == 4:
        return 4 + 32 / config.block_size
    return 8 + 32 / in_features if config.bits == 8 else config.bits


def matrix_bytes(config: QuantConfig, out_features: int, in_features: int) -> int:
    """What a quantized matrix `[out, in]` takes, to the byte."""
    weights = out_features * in_features
    if config.bits != 4:
        return weights * config.bits // 8 + (4 * out_features if config.bits == 8 else 0)
    blocks = -(-weights // config.block_size)
    codes = blocks * config.block_size // 2
    if not config.double_quant:
        return codes + 4 * blocks
    groups = -(-blocks // SCALES_A_GROUP)
    return codes + blocks + 4 * groups + 4
