"""The process that makes an export and, where asked, uploads it: `python -m jobs.exporter ORDER`.

ORDER is JSON, of an `ExportOrder`. It tells (`jobs.children`) in which phase it is, and in the end what was made, or
why nothing was. The hub's token comes from the environment or the hub's own login, and is told to nobody.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from core.config import STARTER
from core.export.about import About, from_dict, licence_of
from core.export.verdict import Verdict, read_verdict
from jobs.adapters import take_out_of_zip
from jobs.children import carry_out, tell
from jobs.export_draft import UPLOAD, check_path
from jobs.export_forms import export_form

UPLOADING = "uploading"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOrder:
    """What to make: paths as text, `about` as `About.as_dict`, `records` the rows that were trained on, if they are
    still there. With a `repo_id` it is uploaded as well.
    """

    adapter: str
    base_model: str
    form: str
    output: str
    about: dict[str, Any]
    records: str = ""
    repo_id: str = ""
    private: bool = True

    def as_json(self) -> str:
        """As the one argument of the process."""
        return orjson.dumps(asdict(self)).decode()


def main(arguments: list[str] | None = None) -> int:
    """Carry the order out; 0 unless it failed."""
    (said,) = sys.argv[1:] if arguments is None else arguments
    order = ExportOrder(**orjson.loads(said))
    return carry_out(lambda: _make(order), undone="Nothing was exported", doing="The export")


def _make(order: ExportOrder) -> None:
    output = Path(order.output)
    about = _about(order)
    verdict = read_verdict(check_path(output)) if output.is_file() else None
    if verdict is None:
        from jobs.exports import Export, export_adapter

        done = export_adapter(
            Export(
                adapter=Path(order.adapter), form=order.form, output=output, base_model=order.base_model, about=about
            ),
            lambda phase: tell("phase", phase=phase),
        )
        assert done.verdict is not None
        verdict = done.verdict
    url = _upload(order, about, verdict) if order.repo_id else ""
    tell("done", url=url)


def _about(order: ExportOrder) -> About:
    about = from_dict(order.about)
    folder = _base_folder(order.base_model)
    licence = licence_of(order.base_model, folder) if folder is not None else ""
    if not licence and order.repo_id and about.base_id:
        from core.models.hub_info import ask_hub

        licence = ask_hub(about.base_id).licence
    sha256 = ""
    if order.records:
        with open(order.records, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(about, licence=licence, data_sha256=sha256)


def _base_folder(base_model: str) -> Path | None:
    from core.models.catalogue import default_models_root, find

    return find(base_model or STARTER, default_models_root()).folder


def _upload(order: ExportOrder, about: About, verdict: Verdict) -> str:
    from core.export.card import write_export_card
    from core.export.hub import make_public, push_folder

    tell("phase", phase=UPLOADING)
    form, output = export_form(order.form), Path(order.output)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=UPLOAD) as name:
        folder = Path(name)
        if form.is_file:
            shutil.copyfile(output, folder / output.name)
        else:
            take_out_of_zip(output, folder)
        make_public(folder, about)
        write_export_card(folder, order.form, about, Path(order.adapter), verdict)
        return push_folder(folder, order.repo_id, private=order.private)


if __name__ == "__main__":
    sys.exit(main())
