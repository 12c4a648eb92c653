"""How A and B of a fresh update begin.

Training starts at the base model: ΔW is 0 at the first step (to rounding), whatever the start. LoftQ alone differs: it
starts nearer to what the base was before it was quantized. W₀ [out, in], A [r, in], B [out, r], s the scale.

    kaiming      A uniform within ±1/√in, B = 0: what the LoRA authors' later code draws
    gaussian     A normal with deviation 1/r, B = 0: the paper's words, with peft's deviation
    orthogonal   A and B random, both not 0, and yet B A = 0: with the rows of a random rotation Q of r dimensions dealt
                 out in two hands, A = Q₁ᵀ R₁ / 10 and B = R₂ᵀ Q₂ / 10 have Q₂ Q₁ᵀ = 0 between them, R₁ and R₂ normal
    pissa        s · B A = the r leading singular triples of W₀ (arXiv 2404.02948), A = √(Σ/s) Vᵀ and B = U √(Σ/s)
    olora        B A = Q R of W₀'s reduced QR decomposition, its first r columns and rows (arXiv 2406.01775)
    eva          A = the r leading right-singular vectors of the layer's inputs, B = 0 (arXiv 2410.07170)
    loftq        s · B A = the r leading singular triples of W₀ − Q, Q being the quantized base (arXiv 2310.08659)

PiSSA and OLoRA take s · B A out of the base, which then fits no other adapter and must be shipped in the adapter's
stead. Here the base stays as it is, and what A and B were at the start is carried along as an anchor:

    h = W₀ x + s · (B A − B₀ A₀) x

LoftQ's authors then quantize W₀ − s · B A anew, and so on in turns. We take one turn and never touch the base, so that
adapters of any start share it. peft's LoftQ leaves s out, and is right where s = 1.

Singular triples are those of the full decomposition. A randomized one is far quicker, but nothing bounds its error: for
r = 16 of a random 2048 × 2048 it missed singular values by 2 %, after 16 power iterations.

What this does not do: choose a rank (`redistribute` shares out a budget), or start an embedding, where A is 0 instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.config import Start
from core.errors import ConfigError, ModelError


@dataclass(frozen=True, slots=True)
class Factors:
    """`a` `[r, in]` and `b` `[out, r]`, both fp32; `anchor` holds A₀ and B₀ where B₀ A₀ is to be subtracted."""

    a: Tensor
    b: Tensor
    anchor: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The layer that an update is for, and what some starts look at.

    `weight` `[out, in]` is W₀; for LoftQ as it was before it was quantized, with `quantized` `[out, in]` what the base
    holds instead. `directions` `[r, in]` are those of the layer's inputs (`InputDirections`).
    """

    in_features: int
    out_features: int
    rank: int
    scale: float
    weight: Tensor | None = None
    quantized: Tensor | None = None
    directions: Tensor | None = None


def begin(start: Start, place: Place, generator: torch.Generator) -> Factors:
    """A and B as `start` has them, on the device of what they were computed from, the random ones on the generator's.

    Raises:
        ConfigError: on `lora.init`, where `start` cannot be had at `place`: an odd rank (orthogonal), a rank above what
            the matrix has (pissa, olora, loftq), no quantized base (loftq), no inputs seen (eva).
    """
    with torch.no_grad():
        return _STARTS[start](place, generator)


def kaiming(place: Place, generator: torch.Generator) -> Factors:
    """A uniform, B zero."""
    a = torch.empty(place.rank, place.in_features, device=generator.device)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
    return _with_zero_b(a, place)


def gaussian(place: Place, generator: torch.Generator) -> Factors:
    """A normal with deviation 1/r, B zero."""
    a = torch.empty(place.rank, place.in_features, device=generator.device)
    return _with_zero_b(a.normal_(std=1 / place.rank, generator=generator), place)


def orthogonal(place: Place, generator: torch.Generator) -> Factors:
    """A and B random, with B A = 0 to rounding."""
    rank = place.rank
    if rank % 2:
        raise ConfigError(
            f"The orthogonal start deals a rank out in two halves, and {rank} is odd",
            hint=f"Choose rank {rank + 1}, or another start",
            field="lora.init",
        )

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)

    rotation: Tensor = torch.linalg.qr(normal(rank, rank)).Q
    a = rotation[0::2].t() @ normal(rank // 2, place.in_features) / 10
    b = normal(place.out_features, rank // 2) @ rotation[1::2] / 10
    return Factors(a.float(), b.float())


def pissa(place: Place, generator: torch.Generator) -> Factors:
    """The leading singular triples of W₀, anchored."""
    return _anchored(*_leading(_weight(place), place))


def olora(place: Place, generator: torch.Generator) -> Factors:
    """The first columns and rows of W₀ = Q R, anchored.

    Householder's algorithm goes column by column, so the first r columns of W₀ alone give Q's, and R's rows are QᵀW₀.
    """
    weight = _weight(place)
    q: Tensor = torch.linalg.qr(weight[:, : place.rank]).Q  # [out, r]
    return _anchored(q.t() @ weight, q)


def eva(place: Place, generator: torch.Generator) -> Factors:
    """The leading directions of the layer's inputs, B zero."""
    if place.directions is None:
        raise ConfigError(
            "The start eva looks at the rows of a dataset, and none went through this layer",
            hint="Choose another start, or leave the layer out of the targets",
            field="lora.init",
        )
    assert place.directions.shape == (place.rank, place.in_features)
    return _with_zero_b(place.directions.float(), place)


def loftq(place: Place, generator: torch.Generator) -> Factors:
    """The leading singular triples of what quantization took from W₀; no anchor, since they are meant to count."""
    if place.quantized is None:
        raise ConfigError(
            "The start loftq makes up for quantization, and this base is not quantized",
            hint="Store the base in 4 or 8 bits, or choose another start",
            field="lora.init",
        )
    weight = _weight(place)
    return Factors(*_leading(weight - place.quantized.to(weight), place))


_STARTS: dict[Start, Callable[[Place, torch.Generator], Factors]] = {
    "kaiming": kaiming,
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "pissa": pissa,
    "olora": olora,
    "eva": eva,
    "loftq": loftq,
}


def _with_zero_b(a: Tensor, place: Place) -> Factors:
    return Factors(a, torch.zeros(place.out_features, place.rank, device=a.device))


def _anchored(a: Tensor, b: Tensor) -> Factors:
    return Factors(a, b, (a.clone(), b.clone()))


def _weight(place: Place) -> Tensor:
    """W₀ in fp32, of a matrix that has as many singular triples as the rank asks for."""
    if place.weight is None:
        raise ConfigError(
            "This start looks at the base's weights in full, and they are not at hand",
            hint="Load the base from its 16-bit files, or choose another start",
            field="lora.init",
        )
    most = min(place.in_features, place.out_features)
    if place.rank > most:
        raise ConfigError(
            f"This start takes {place.rank} directions from a matrix that has {most}",
            hint=f"Choose a rank of at most {most}, or another start",
            field="lora.init",
        )
    return place.weight.detach().float()


def _leading(matrix: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """A and B such that s · B A is the best approximation of `matrix` of rank r (Eckart and Young)."""
    u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = (sigma[: place.rank] / place.scale).sqrt()
    return root[:, None] * vh[: place.rank], u[:, : place.rank] * root


class InputDirections:
    """In which directions the inputs X `[n, in]` of one layer vary, collected batch by batch.

    Kept is XᵀX in fp64, 8 · in² bytes: squaring halves the digits, and fp32 has not enough for the directions that
    follow a few of great size. All layers that take the same input can share one.

    Args:
        features: in.
        centered: leave out the inputs' mean, as a principal component analysis does and peft with it. Without, as in
            EVA's theorem, X Aᵀ and so the first gradient of B is as large as it can be.
    """

    def __init__(self, features: int, *, centered: bool = False, device: torch.device | None = None) -> None:
        self.rows = 0
        self.centered = centered
        self._products = torch.zeros(features, features, dtype=torch.float64, device=device)
        self._sum = torch.zeros(features, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """Take in a batch `[..., in]` of any dtype; padding has to be gone from it."""
        rows = x.detach().reshape(-1, x.shape[-1]).to(self._products)
        self._products.addmm_(rows.t(), rows)
        self._sum += rows.sum(0)
        self.rows += len(rows)

    def leading(self, count: int) -> tuple[Tensor, Tensor]:
        """The `count` directions that hold most, and how much they hold.

        Returns:
            Orthonormal rows `[count, in]` fp32, and for each the share of all variance that it explains, `[count]`
            fp32, largest first. Where the inputs lie in fewer dimensions, the rest is arbitrary and its share 0.

        Raises:
            ModelError: inputs were not finite.
        """
        assert self.rows and count <= len(self._sum)
        products = self._products - torch.outer(self._sum, self._sum) / self.rows if self.centered else self._products
        if not products.isfinite().all():
            raise ModelError("The base model's activations are not finite", hint="Load it in bf16 or fp32")
        energies, vectors = torch.linalg.eigh(products)  # smallest first
        energies = energies.flip(0).clamp_min(0)  # rounding can leave a 0 negative
        shares = energies / energies.sum().clamp_min(torch.finfo(energies.dtype).tiny)
        return vectors.t().flip(0)[:count].float(), shares[:count].float()


def redistribute(
    shares: Mapping[str, Sequence[float] | Tensor], ranks: Mapping[str, int], rho: float = 2.0
) -> dict[str, int]:
    """Ranks of the same sum, handed to the directions that explain most, whichever layers they are in, as EVA does.

    Args:
        shares: of each layer the `shares` of its inputs, largest first, no more than min(in, out) of them.
        ranks: what each layer would have otherwise.
        rho: how many times its own rank a layer may get.

    Returns:
        A rank for each layer in `ranks`. It can be 0: such a layer is to be left alone. Where `shares` are too short to
        use the whole budget, their sum is less.
    """
    found = [
        (-float(share), order, position, name)
        for order, (name, rank) in enumerate(ranks.items())
        for position, share in enumerate(shares[name][: round(rank * rho)])
    ]
    chosen = Counter(name for *_, name in sorted(found)[: sum(ranks.values())])
    return {name: chosen[name] for name in ranks}
