"""Writes adapters in the forms that other programs read (`jobs.export_forms`), and reads back what was written.

What is written lies beside its place until a stranger has read it back (`core.export`); what answers otherwise than the
adapter on its base is thrown away. The figure is kept beside the export as `NAME.check.json`, and is in its card.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil

from core.config import QuantConfig
from core.errors import ConfigError
from core.export.about import About, licence_of
from core.export.verdict import Verdict
from core.models.catalogue import default_models_root, public_name
from core.models.shapes import parameter_count
from jobs.adapters import check_output, copy_adapter, require_adapter
from jobs.bases import shared_base
from jobs.export_draft import Draft, check_file
from jobs.export_forms import ExportForm, export_form

if TYPE_CHECKING:
    from core.adapters.merge import MergeReport

WRITING, CHECKING, PACKING = "writing", "checking", "packing"
_SIZE = re.compile(r"[1-9]\d{0,5}(KB|MB|GB)")
_BYTES_A_PARAMETER = 5  # fp32, and what the prompts need


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is to be written where.

    `base_model` is what to merge into, if not what the adapter names; `fp32` and `bits` are for merging: the result's
    precision, and how the base was quantized in training where that is the model wanted. `shard_size` is the most that
    a file of a merged model's weights may take. `about` is what the card tells, where more is known than the folder
    says. Without `is_checked` nothing is read back.
    """

    adapter: Path
    form: str
    output: Path
    base_model: str | None = None
    fp32: bool = False
    bits: int | None = None
    shard_size: str = "5GB"
    about: About | None = None
    is_checked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: `words` on how exact the weights are, and what reading it back has shown, if it was."""

    words: str
    verdict: Verdict | None


def export_adapter(order: Export, report: Callable[[str], None] = lambda phase: None) -> Exported:
    """Carry `order` out. An output that ends in .zip becomes a zip of the folder.

    Args:
        report: told of the phases: writing, checking, packing.

    Raises:
        UserError: the form is not known, the adapter, the base or the output cannot be used, or what was written does
            not answer as the adapter does.
    """
    form = export_form(order.form)
    if not form.has_base and (order.fp32 or order.bits is not None):
        raise ConfigError(f"--fp32 and --bits are about merging, not about {order.form}", hint="Leave them out")
    if order.bits not in (None, 4, 8):
        raise ConfigError(f"Bits is {order.bits}", hint="It must be 4 or 8, as in the training", field="bits")
    if _SIZE.fullmatch(order.shard_size) is None:
        raise ConfigError(f"A file of at most {order.shard_size!r} is no size", hint="Give one as 5GB or 500MB")
    require_adapter(order.adapter)
    _check_output(order, form)
    base = None if form.key == "peft" and not order.is_checked else _base_folder(order)
    with Draft(order.output, form) as draft:
        report(WRITING)
        words, stored = _WRITERS[form.key.removesuffix("-q8_0")](order, base, draft.path)
        verdict = None
        if order.is_checked:
            assert base is not None
            report(CHECKING)
            verdict = _read_back(order, form, base, draft.path, stored)
            draft.keep(verdict)
            if not form.is_file:
                _write_card(order, base, draft.path, verdict)
        report(PACKING)
    return Exported(words=words, verdict=verdict)


def about_of(order: Export, base: Path) -> About:
    """What is known of the adapter: what was given, or what its folder says."""
    if order.about is not None:
        return order.about
    named = require_adapter(order.adapter).base_model
    return About(name=order.adapter.resolve().name, base_model=public_name(named), licence=licence_of(named, base))


def _write_card(order: Export, base: Path, folder: Path, verdict: Verdict) -> None:
    from core.export.card import write_export_card

    write_export_card(folder, order.form, about_of(order, base), order.adapter, verdict)


def _read_back(order: Export, form: ExportForm, base: Path, written: Path, stored: str) -> Verdict:
    needed, free = _BYTES_A_PARAMETER * parameter_count(base), psutil.virtual_memory().available
    if needed > free:
        lack = f"that takes {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB are free"
        return Verdict(reader="", why_not=lack)
    from core.export.reference import ask
    from core.export.verify import Written, verify

    reference = ask(order.adapter, base, _quant(order), (stored,))
    return verify(Written(path=written, reader=form.reader, base=base, stored=stored), reference)


def _write_peft(order: Export, base: Path | None, draft: Path) -> tuple[str, str]:
    copy_adapter(order.adapter, draft)
    return "", "float32"


def _write_portable(order: Export, base: Path | None, draft: Path) -> tuple[str, str]:
    from core.adapters.portable import export_portable

    export_portable(order.adapter, draft)
    return "", "float32"


def _write_merged(order: Export, base: Path | None, draft: Path) -> tuple[str, str]:
    from core.adapters.merge import export_merged  # torch comes in here

    assert base is not None
    report = export_merged(
        order.adapter,
        base,
        draft,
        precision=32 if order.fp32 else 16,
        quant=_quant(order),
        shard_size=order.shard_size,
    )
    return _merge_words(report), report.stored


def _write_gguf(order: Export, base: Path | None, draft: Path) -> tuple[str, str]:
    from core.adapters.gguf import export_gguf

    assert base is not None
    export_gguf(order.adapter, base, draft)
    return "", "float32"


def _write_merged_gguf(order: Export, base: Path | None, draft: Path) -> tuple[str, str]:
    from core.export.gguf_model import export_gguf_model

    assert base is not None
    storage: Any = "f32" if order.fp32 else export_form(order.form).storage
    name = about_of(order, base).name
    report = export_gguf_model(order.adapter, base, draft, storage=storage, name=name, quant=_quant(order))
    return _merge_words(report), {"f32": "float32", "f16": "float16", "q8_0": "q8_0"}[storage]


_WRITERS: dict[str, Callable[[Export, Path | None, Path], tuple[str, str]]] = {
    "peft": _write_peft,
    "portable": _write_portable,
    "merged": _write_merged,
    "gguf": _write_gguf,
    "merged-gguf": _write_merged_gguf,
}


def _quant(order: Export) -> QuantConfig | None:
    return QuantConfig(bits=cast(Any, order.bits)) if order.bits else None


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


def _check_output(order: Export, form: ExportForm) -> None:
    if form.is_file or order.output.suffix == ".zip":
        check_file(order.output)
    else:
        check_output(order.output, must_be_new=form.key != "peft")
