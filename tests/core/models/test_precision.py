from __future__ import annotations

import pytest
import torch

from core.models.precision import best_device, choose_precision

CPU = torch.device("cpu")


def test_32_bits_are_fp32_whatever_is_faster() -> None:
    assert choose_precision(CPU, 32).dtype == torch.float32


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_less_is_bf16_or_fp32_and_the_reason_names_what_was_chosen(bits: int) -> None:
    precision = choose_precision(CPU, bits)
    name = {torch.bfloat16: "bf16", torch.float32: "fp32"}[precision.dtype]
    assert precision.reason.startswith(f"{name}:")


def test_the_device_that_is_chosen_exists() -> None:
    device = best_device()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.ones(2, device=device).sum().item() == 2
