"""Where an export lies until it is known to be good: beside its place, so that it is there as a whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from core.errors import ConfigError
from core.export.verdict import Verdict
from jobs.adapters import check_output, copy_adapter, zip_files
from jobs.export_forms import ExportForm

DRAFT, UPLOAD = ".export-", ".upload-"  # how the names of folders begin that are gone when their process has ended well


def clear_drafts(folder: Path) -> None:
    """Remove what processes that were killed have left in `folder`; none may be at work there."""
    for prefix in (DRAFT, UPLOAD):
        for left in folder.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)


class Draft:
    """`path` is what to write: a folder, or a file where the form is one. At the block's end, unless it failed, that is
    moved to `output`, or zipped where `output` ends in .zip; an earlier adapter in PEFT's format is written over.
    """

    def __init__(self, output: Path, form: ExportForm) -> None:
        self._output, self._form = output.absolute(), form
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._place = tempfile.TemporaryDirectory(dir=self._output.parent, prefix=DRAFT)
        self.path = Path(self._place.name) / ("export.gguf" if form.is_file else "export")
        self._verdict: Verdict | None = None

    def keep(self, verdict: Verdict) -> None:
        """Have `verdict` beside the output, once that is there."""
        self._verdict = verdict

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._place:
            if kind is not None:
                return
            check = check_path(self._output)
            check.unlink(missing_ok=True)  # of an earlier export
            self._move()
            if self._verdict is not None:
                self._verdict.write(check)

    def _move(self) -> None:
        if self._form.is_file:
            self.path.replace(self._output)
        elif self._output.suffix == ".zip":
            zip_files(sorted(self.path.iterdir()), self._output)
        elif self._form.key == "peft" and self._output.is_dir():
            copy_adapter(self.path, self._output)
        else:
            self.path.replace(self._output)


def check_path(output: Path) -> Path:
    """Where the figure of an export to `output` is kept."""
    return output.with_name(f"{output.name}.check.json")


class NewFolder:
    """A folder to write into that becomes `output`, or a zip of it where that ends in .zip, once the block has ended
    well.

    Raises:
        ConfigError: it is there already, or cannot be written.
    """

    def __init__(self, output: Path) -> None:
        if output.suffix == ".zip":
            check_file(output)
        else:
            check_output(output, must_be_new=True)
        self._draft = Draft(output, ADAPTER_FOLDER)

    def __enter__(self) -> Path:
        return self._draft.__enter__().path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draft.__exit__(kind, error, trace)


ADAPTER_FOLDER = ExportForm(key="adapter", title="", purpose="", reader="peft")


def check_file(output: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        ConfigError: it is a folder, or lies in none that is there.
    """
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ConfigError(
            f"{output} cannot be written", hint="Give a file's name in a folder that is there", field="output"
        )
