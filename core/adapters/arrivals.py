"""An adapter from elsewhere, put into a folder of ours: out of a zip, a folder or a repository on the hub.

Only files that we know are taken, each under its own name and up to a size of its own, whatever else lies there: no
path of a zip is used, no script comes along, and a pickle is passed over. What the files mean is checked afterwards
(`core.adapters.peft_format.read_adapter`).
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

from core.adapters.peft_settings import CONFIG_FILE, PICKLES, WEIGHTS_FILE
from core.data.readers.archives import member_source, members, opened_zip_at
from core.data.readers.disguises import ZIP_MAGICS, binary_kind, text_kind
from core.errors import AdapterError
from core.hub import counter, told

MAX_WEIGHTS_BYTES = 2 * 10**9  # as much as may be uploaded
_MAX_CONFIG_BYTES = 1_000_000
_MAX_OTHER_BYTES = 64 * 2**20  # the largest tokenizers have half of it
_HEAD = 64
_NOTHING_ELSE = 1 << 62  # of a zip's other files nothing is unpacked, so they may be as large as they like

Progress = Callable[[int, int], None]
Room = Callable[[int], None]


def unpack(path: Path, name: str, wanted: Sequence[str], to: Path, room: Room) -> None:
    """The adapter in the zip at `path`, which may lie in a folder of it, into the folder `to`.

    Args:
        name: what errors call the zip. wanted: the names of the files that are taken. room: told how many bytes are
            about to be written; may refuse.

    Raises:
        UserError: it is no zip, is damaged, would lead elsewhere, or does not hold one adapter of a sane size.
    """
    _check_is_zip(path, name)
    try:
        with opened_zip_at(path, name, _NOTHING_ELSE) as archive:
            found = _adapter_in(members(archive, name), name, wanted)
            _check_sizes({file: info.file_size for file, info in found.items()}, name)
            room(sum(info.file_size for info in found.values()))
            for file, info in found.items():
                _extract(archive, info, name, to / file)
    except (BadZipFile, struct.error, ValueError, NotImplementedError, OverflowError) as error:
        raise AdapterError(f"{name} is damaged", str(error), "Pack it again, or copy it again") from None


def copy_folder(folder: Path, wanted: Sequence[str], to: Path, room: Room) -> None:
    """The adapter in `folder` into the folder `to`.

    Raises:
        UserError: it cannot be read, or does not hold an adapter of a sane size.
    """
    try:
        files = {path.name: path for path in folder.iterdir()}
    except OSError as error:
        raise AdapterError(f"{folder} cannot be opened", (error.strerror or "").lower(), "Check the path") from None
    copy_files(files, str(folder), wanted, to, room)


def copy_files(files: Mapping[str, Path], where: str, wanted: Sequence[str], to: Path, room: Room) -> None:
    """The adapter that consists of these `files`, by their names, into the folder `to`; errors call them `where`.

    Raises:
        UserError: they cannot be read, or are no adapter of a sane size.
    """
    try:
        sizes = {name: files[name].stat().st_size for name in wanted if name in files and files[name].is_file()}
    except OSError as error:
        raise AdapterError(f"{where} cannot be opened", (error.strerror or "").lower(), "Check the path") from None
    _check_has_adapter(sizes, files, where)
    _check_sizes(sizes, where)
    room(sum(sizes.values()))
    for name in sizes:
        shutil.copyfile(files[name], to / name)


def fetch(hub_id: str, wanted: Sequence[str], to: Path, room: Room, progress: Progress) -> None:
    """The adapter of that id on the hub into the folder `to`; `progress` hears how many bytes have come, of how many.

    Raises:
        UserError: there is none, it is gated, the hub cannot be reached, or it holds no adapter of a sane size.
    """
    from huggingface_hub import HfApi  # lazily: it is slow to import and few callers need it

    scratch = to / ".download"
    with told(hub_id, "adapter", AdapterError):
        info: Any = HfApi().model_info(hub_id, files_metadata=True)
        sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
        found = [name for name in wanted if name in sizes]
        _check_has_adapter(found, sizes, hub_id)
        _check_sizes({name: sizes[name] for name in found}, hub_id)
        total = sum(sizes[name] for name in found)
        room(total)
        count = counter(total, progress)
        for name in found:
            place = HfApi().hf_hub_download(hub_id, name, revision=info.sha, local_dir=scratch, tqdm_class=count)
            Path(place).replace(to / name)
    shutil.rmtree(scratch)
    _check_sizes({name: (to / name).stat().st_size for name in found}, hub_id)  # the hub may have said otherwise


def _adapter_in(infos: Iterable[ZipInfo], name: str, wanted: Sequence[str]) -> Mapping[str, ZipInfo]:
    """The files of the one adapter among these."""
    by_folder: dict[PurePosixPath, dict[str, ZipInfo]] = {}
    for info in infos:
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.name in by_folder.setdefault(path.parent, {}):
            raise AdapterError(f"{name} holds {path} twice", hint="Pack it again")
        by_folder[path.parent][path.name] = info
    adapters = [folder for folder, files in by_folder.items() if CONFIG_FILE in files]
    if len(adapters) > 1:
        where = ", ".join(str(folder) for folder in adapters[:4])
        raise AdapterError(f"{name} holds {len(adapters)} adapters", where, "Pack one of them, and add one at a time")
    if not adapters:
        _check_has_adapter([], [file for files in by_folder.values() for file in files], name)
    files = by_folder[adapters[0]]
    _check_has_adapter([file for file in wanted if file in files], files, name)
    return {file: files[file] for file in wanted if file in files}


def _check_has_adapter(found: Iterable[str], names: Iterable[str], where: str) -> None:
    present, names = set(found), list(names)
    lacking = next((file for file in (CONFIG_FILE, WEIGHTS_FILE) if file not in present), None)
    if lacking is None:
        return
    pickled = next((file for file in names if file in PICKLES), None)
    if lacking == WEIGHTS_FILE and pickled is not None:
        raise AdapterError(
            f"{where} has its weights as a pickle, {pickled}, which is never opened",
            hint="Save the adapter as safetensors",
        )
    if "config.json" in names and CONFIG_FILE not in present:
        raise AdapterError(f"{where} holds a whole model and no adapter", hint="Choose it as the base model of a run")
    raise AdapterError(f"{where} holds no adapter", f"{lacking} is missing", "Choose what peft has saved")


def _check_sizes(sizes: Mapping[str, int], where: str) -> None:
    limits = {WEIGHTS_FILE: MAX_WEIGHTS_BYTES, CONFIG_FILE: _MAX_CONFIG_BYTES}
    for file, size in sizes.items():
        limit = limits.get(file, _MAX_OTHER_BYTES)
        if size > limit:
            title = f"{file} of {where} is too large: it has {_words(size)}, and may have {_words(limit)}"
            raise AdapterError(title, hint="Shrink the adapter, or add it without that file")


def _check_is_zip(path: Path, name: str) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise AdapterError(f"{name} cannot be opened", (error.strerror or "").lower(), "Check the path") from None
    if head.startswith(ZIP_MAGICS):
        return
    if path.suffix == ".safetensors":
        raise AdapterError(f"{name} holds weights alone", hint=f"Pack it with its {CONFIG_FILE} into a zip")
    kind = binary_kind(head) or text_kind(head)
    raise AdapterError(f"{name} is no zip", f"it is {kind}" if kind else "", "Pack the adapter's folder as a zip")


def _extract(archive: ZipFile, info: ZipInfo, name: str, to: Path) -> None:
    with to.open("wb") as file:
        for block in member_source(archive, info, name).blocks():
            file.write(block)


def _words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
