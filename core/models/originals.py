"""A model's weights as they lie on disk, one at a time: what a quantized layer was before it was quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from core.models.shapes import linear_shapes, weight_files


class OriginalWeights(Mapping[str, Tensor]):
    """The dense layers' weights `[out, in]` in the dtype on disk, by module name, each read when it is asked for.

    Args:
        folder: the model, in transformers' format with safetensors files.

    Raises:
        ModelError: a file is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        self._shapes = {shape.name: shape for shape in linear_shapes(folder)}
        self._files: dict[str, Path] = {}
        for path in weight_files(folder):
            with safe_open(path, framework="pt") as file:
                self._files |= {key.removesuffix(".weight"): path for key in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        stored = self._name_on_disk(name)
        with safe_open(self._files[stored], framework="pt") as file:
            weight: Tensor = file.get_tensor(f"{stored}.weight")
        return weight.t() if self._shapes[stored].is_transposed else weight

    def _name_on_disk(self, name: str) -> str:
        """`name`, or what of it is on disk: some models were saved without their outermost module's name.

        Raises:
            KeyError: no weight is called so.
        """
        inner = name
        while inner and inner not in self._shapes:
            inner = inner.partition(".")[2]
        if not inner:
            raise KeyError(name)
        return inner

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
