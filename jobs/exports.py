"""Writes an adapter in the forms that other programs read."""

from __future__ import annotations

from pathlib import Path

from core.errors import ConfigError
from core.models.catalogue import default_models_root
from jobs.adapters import check_output, copy_adapter, describe_adapter, zip_folder
from jobs.bases import shared_base


def export_adapter(adapter: Path, form: str, output: Path, base_model: str | None) -> None:
    """Write the adapter in the folder `adapter` to `output`.

    Args:
        form: `peft` (a folder, or a zip if `output` ends in .zip) or `merged` (base and adapter as one model).
        base_model: what to merge into, if not what the adapter names.

    Raises:
        UserError: the form is not known or not there yet, or the adapter, the base or `output` cannot be used.
    """
    facts = describe_adapter(adapter)
    if form == "peft":
        _export_peft(adapter, output)
    elif form == "merged":
        _check_new(output)
        models_root = default_models_root()
        base = shared_base([(adapter.name, facts.base_model)], base_model, models_root)
        from core.adapters.merge import export_merged  # torch comes in here
        from core.models.fetch import ensure_model

        export_merged(adapter, ensure_model(base, models_root, lambda _phase: None), output)
    elif form == "gguf":
        hint = "Export it as merged, and convert that with llama.cpp's convert_hf_to_gguf.py"
        raise ConfigError("Export to GGUF is not there yet", hint=hint, field="to")
    else:
        raise ConfigError(f"There is no export to {form!r}", hint="Choose peft or merged", field="to")


def _export_peft(adapter: Path, output: Path) -> None:
    if output.suffix != ".zip":
        check_output(output)
        copy_adapter(adapter, output)
        return
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ConfigError(
            f"{output} cannot be written", hint="Give a file's name in a folder that is there", field="output"
        )
    zip_folder(adapter, output)


def _check_new(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"{output} is there already", hint="Give --output a new or an empty folder", field="output")
