"""The forms in which an adapter leaves: what they are called, what they are for, and who reads them back."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportForm:
    """One form. `is_file` says that it is a single GGUF file and no folder; `is_for_all` that classifiers and trained
    biases can have it too. `reader` is one of `core.export.stranger`'s, and `storage` what matrices of GGUF are in.
    """

    key: str
    title: str
    purpose: str
    reader: str
    is_file: bool = False
    is_for_all: bool = False
    storage: str = ""

    @property
    def suffix(self) -> str:
        """How a download's name ends."""
        return "gguf" if self.is_file else "zip"

    @property
    def has_base(self) -> bool:
        """Whether the base is in it."""
        return self.key.startswith("merged")


FORMS = {
    form.key: form
    for form in (
        ExportForm(
            key="peft", title="PEFT", purpose="as it was trained, for peft and this workbench", reader="peft",
            is_for_all=True,
        ),
        ExportForm(
            key="portable", title="Portable", purpose="plain LoRA for vLLM and others: one rank, the scale in B",
            reader="peft",
        ),
        ExportForm(
            key="merged", title="Merged model", purpose="base and adapter as one, for transformers",
            reader="transformers", is_for_all=True,
        ),
        ExportForm(
            key="gguf", title="GGUF adapter", purpose="for llama.cpp, beside a base in GGUF", reader="gguf-adapter",
            is_file=True,
        ),
        ExportForm(
            key="merged-gguf", title="Merged GGUF", purpose="base and adapter as one file for llama.cpp, in f16",
            reader="gguf-model", is_file=True, storage="f16",
        ),
        ExportForm(
            key="merged-gguf-q8_0", title="Merged GGUF, 8 bits", purpose="the same at half the size",
            reader="gguf-model", is_file=True, storage="q8_0",
        ),
    )
}  # fmt: skip


def export_form(key: str) -> ExportForm:
    """The form of that name.

    Raises:
        ConfigError: there is none.
    """
    found = FORMS.get(key)
    if found is None:
        *others, last = FORMS
        raise ConfigError(f"There is no export to {key!r}", hint=f"Choose {', '.join(others)} or {last}", field="to")
    return found
