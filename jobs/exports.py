"""Writes adapters in the forms that other programs read, several as one, and one smaller.

peft       PEFT's format, as it was trained
portable   plain LoRA in PEFT's format, exact for every program that reads it: one rank, the scale in B
merged     base and adapter as one model in transformers' format
gguf       llama.cpp's format for LoRA adapters
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.adapters.ways import Combination
from core.config import QuantConfig
from core.errors import AdapterError, ConfigError
from core.models.catalogue import default_models_root
from jobs.adapters import check_output, copy_adapter, require_adapter, zip_files, zip_folder
from jobs.bases import shared_base
from jobs.home import PROJECT
from jobs.names import slug
from jobs.views import Adapter

if TYPE_CHECKING:
    from core.adapters.merge import MergeReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is to be written where.

    `base_model` is what to merge into, if not what the adapter names; `fp32` and `bits` are for merging: the result's
    precision, and how the base was quantized in training where that is the model wanted.
    """

    adapter: Path
    form: str
    output: Path
    base_model: str | None = None
    fp32: bool = False
    bits: int | None = None


def export_adapter(order: Export) -> str:
    """Carry `order` out; a sentence on how exact the result is, where there is something to say. An output that ends in
    .zip becomes a zip of the folder.

    Raises:
        UserError: the form is not known, or the adapter, the base or the output cannot be used.
    """
    write = _FORMS.get(order.form)
    if write is None:
        raise ConfigError(f"There is no export to {order.form!r}", hint=f"Choose {_choices()}", field="to")
    if order.form != "merged" and (order.fp32 or order.bits is not None):
        raise ConfigError(f"--fp32 and --bits are about merging, not about {order.form}", hint="Leave them out")
    require_adapter(order.adapter)
    return write(order)


def export_in_child(adapter: Adapter, form: str, exports: Path, environment: Mapping[str, str]) -> Path:
    """The adapter as one file in `exports`, made by a process of its own, since this one is to stay without torch.

    Raises:
        ConfigError: there is no such form.
        AdapterError: it cannot be written in that form.
    """
    if form not in _FORMS:
        raise ConfigError(f"There is no export to {form!r}", hint=f"Choose {_choices()}", field="to")
    suffix = "gguf" if form == "gguf" else "zip"
    target = exports / f"{slug(adapter.name)}-{adapter.fingerprint}-{form}.{suffix}"
    if target.exists():
        return target
    command = [sys.executable, str(PROJECT / "app.py"), "export", "--to", form, "--model", adapter.base_model]
    command += ["--adapter", str(adapter.path), "--output", str(target)]
    child = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if child.returncode:
        said = child.stderr.strip().splitlines() or [f"the process ended with {child.returncode}"]
        raise AdapterError(f"{adapter.name} was not exported: {said[-1].rstrip('.')}")
    return target


def combine_adapters(folders: Sequence[Path], combination: Combination, output: Path) -> str:
    """Write the combination of the adapters in `folders` to `output`; a sentence on what its rank keeps.

    Raises:
        UserError: an adapter or the output cannot be used, or the combination asks for what cannot be.
    """
    from core.adapters.combine_folders import combine_folders

    for folder in folders:
        require_adapter(folder)
    with _Folder(output) as draft:
        energy = combine_folders(folders, combination, draft)
    if combination.how == "concat":
        return "The sum is exact; ranks have added up."
    return f"Rank {combination.rank} keeps {energy:.1%} of the combined change's energy."


def shrink_adapter(folder: Path, output: Path, *, rank: int | None, energy: float | None) -> str:
    """Write the adapter in `folder` at a lower rank to `output`; a sentence on what is kept.

    Raises:
        UserError: the adapter or the output cannot be used, or not just one of `rank` and `energy` is given.
    """
    from core.adapters.combine_folders import shrink_folder

    require_adapter(folder)
    with _Folder(output) as draft:
        reduced = shrink_folder(folder, draft, rank=rank, energy=energy)
    ranks = sorted(delta.a.shape[0] for delta in reduced.deltas.values())
    words = f"Rank {ranks[-1]}" if ranks[0] == ranks[-1] else f"Ranks from {ranks[0]} to {ranks[-1]}"
    keep = "keeps" if ranks[0] == ranks[-1] else "keep"
    return f"{words} {keep} {reduced.energy_in_all:.1%} of the change's energy."


def _write_peft(order: Export) -> str:
    if order.output.suffix == ".zip":
        _check_file(order.output)
        zip_folder(order.adapter, order.output)
    else:
        check_output(order.output)
        copy_adapter(order.adapter, order.output)
    return ""


def _write_portable(order: Export) -> str:
    from core.adapters.portable import export_portable

    with _Folder(order.output) as folder:
        export_portable(order.adapter, folder)
    return ""


def _write_merged(order: Export) -> str:
    from core.adapters.merge import export_merged  # torch comes in here

    if order.bits not in (None, 4, 8):
        raise ConfigError(f"Bits is {order.bits}", hint="It must be 4 or 8, as in the training", field="bits")
    quant = QuantConfig(bits=order.bits) if order.bits else None  # type: ignore[arg-type]
    with _Folder(order.output) as folder:
        report = export_merged(order.adapter, _base_folder(order), folder, fp32=order.fp32, quant=quant)
    return _merge_words(report)


def _write_gguf(order: Export) -> str:
    from core.adapters.gguf import export_gguf

    _check_file(order.output)
    export_gguf(order.adapter, _base_folder(order), order.output)
    return ""


_FORMS: dict[str, Callable[[Export], str]] = {
    "peft": _write_peft,
    "portable": _write_portable,
    "merged": _write_merged,
    "gguf": _write_gguf,
}


class _Folder:
    """A folder beside `output` to write into; at the block's end it is moved there, or zipped where `output` ends in
    .zip. So the output is there as a whole or not at all.
    """

    def __init__(self, output: Path) -> None:
        self._output = output.absolute()
        if output.suffix == ".zip":
            _check_file(output)
        else:
            check_output(output, must_be_new=True)
            self._output.parent.mkdir(parents=True, exist_ok=True)
        self._draft = tempfile.TemporaryDirectory(dir=self._output.parent, prefix=".export-")

    def __enter__(self) -> Path:
        return Path(self._draft.name) / "export"

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._draft as name:
            written = Path(name) / "export"
            if kind is None and self._output.suffix == ".zip":
                zip_files(sorted(written.iterdir()), self._output)
            elif kind is None:
                written.replace(self._output)


def _base_folder(order: Export) -> Path:
    """The folder of the model that the adapter is for."""
    from core.models.fetch import ensure_model

    models_root = default_models_root()
    named = require_adapter(order.adapter).base_model
    base = shared_base([(order.adapter.name, named)], order.base_model, models_root)
    return ensure_model(base, models_root, lambda _phase: None)


def _merge_words(report: MergeReport) -> str:
    if not report.largest_error:
        return f"The adapter moves a weight by up to {report.largest_change:.3g}; nothing was lost in rounding."
    return (
        f"The adapter moves a weight by up to {report.largest_change:.3g}; rounding is off by up to "
        f"{report.largest_error:.3g}, in {report.module}."
    )


def _check_file(output: Path) -> None:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ConfigError(
            f"{output} cannot be written", hint="Give a file's name in a folder that is there", field="output"
        )


def _choices() -> str:
    *others, last = _FORMS
    return f"{', '.join(others)} or {last}"
