"""Adapters from elsewhere: what is taken of a zip, a folder or a repository of the hub, and what is refused."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from core.adapters import arrivals
from core.errors import AdapterError, RunError, UserError
from tests.core.models.hub_stand_in import Hub, Model, hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WANTED = (CONFIG, WEIGHTS, "tokenizer.json")
FILES = {CONFIG: b"{}", WEIGHTS: b"w" * 100}


def no_limit(_size: int) -> None:
    """There is always room."""


def zipped(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpacked(path: Path, to: Path) -> dict[str, bytes]:
    to.mkdir()
    arrivals.unpack(path, path.name, WANTED, to, no_limit)
    return {file.name: file.read_bytes() for file in to.iterdir()}


def refusal(path: Path, to: Path) -> str:
    to.mkdir(exist_ok=True)
    with pytest.raises(UserError) as caught:
        arrivals.unpack(path, path.name, WANTED, to, no_limit)
    return str(caught.value)


@pytest.mark.parametrize("folder", ["", "captain/", "deep/captain/"])
def test_a_zip_gives_the_files_that_are_known_wherever_they_lie_in_it(tmp_path: Path, folder: str) -> None:
    more = {f"{folder}train.py": b"import os", f"{folder}optimizer.pt": b"\x80\x04", "__MACOSX/x": b"x"}
    files = {f"{folder}{name}": content for name, content in {**FILES, "tokenizer.json": b"[]"}.items()}
    path = zipped(tmp_path / "a.zip", {**more, **files}, zipfile.ZIP_DEFLATED)
    assert unpacked(path, tmp_path / "to") == {**FILES, "tokenizer.json": b"[]"}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "adapter_config.json is missing"),
        ({"notes.txt": b"hello"}, "holds no adapter"),
        ({CONFIG: b"{}"}, "adapter_model.safetensors is missing"),
        ({CONFIG: b"{}", "adapter_model.bin": b"\x80\x04"}, "which is never opened"),
        ({"config.json": b"{}", "model.safetensors": b"x"}, "holds a whole model"),
        ({f"a/{CONFIG}": b"{}", f"b/{CONFIG}": b"{}"}, "holds 2 adapters"),
        ({f"../{CONFIG}": b"{}", f"../{WEIGHTS}": b"w"}, "leads out of it"),
        ({f"/etc/{CONFIG}": b"{}"}, "leads out of it"),
        ({**FILES, "more.zip": b"PK"}, "holds another archive"),
        ({CONFIG: b" " * 1_000_001, WEIGHTS: b"w"}, "is too large"),
    ],
)
def test_a_zip_that_holds_no_adapter_or_means_harm_is_refused(
    tmp_path: Path, files: dict[str, bytes], says: str
) -> None:
    assert says in refusal(zipped(tmp_path / "a.zip", files), tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo(WEIGHTS)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(CONFIG, b"{}")
        archive.writestr(link, b"/etc/passwd")
    assert "holds a link" in refusal(tmp_path / "a.zip", tmp_path / "to")


def test_a_bomb_is_refused_by_what_it_would_unpack_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_WEIGHTS_BYTES", 10_000)
    path = zipped(tmp_path / "a.zip", {CONFIG: b"{}", WEIGHTS: b"\0" * 10_001}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1000
    assert f"{WEIGHTS} of a.zip is too large" in refusal(path, tmp_path / "to")


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_said(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {CONFIG: b"{}", WEIGHTS: b"\0" * 100_000}, zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    size = (100_000).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    assert "damaged" in refusal(path, tmp_path / "to")
    assert sum(file.stat().st_size for file in (tmp_path / "to").iterdir()) <= 12


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.zip", b"\x89PNG\r\n", "a.zip is no zip (it is a PNG image)"),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0", "holds weights alone"),
        ("a.zip", b"PK\x03\x04 and no more", "damaged"),
        ("a.zip", b"", "a.zip is no zip"),
    ],
)
def test_what_is_no_zip_says_what_it_is(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in refusal(tmp_path / name, tmp_path / "to")


def test_what_there_is_no_room_for_is_refused_before_it_is_written(tmp_path: Path) -> None:
    asked: list[int] = []

    def full(size: int) -> None:
        asked.append(size)
        raise RunError("There is no room")

    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    to = tmp_path / "to"
    to.mkdir()
    with pytest.raises(RunError):
        arrivals.unpack(zipped(tmp_path / "a.zip", FILES), "a.zip", WANTED, to, full)
    with pytest.raises(RunError):
        arrivals.copy_folder(folder, WANTED, to, full)
    assert asked == [102, 102] and list(to.iterdir()) == []


def test_a_folder_gives_the_files_that_are_known_and_stays_as_it_is(tmp_path: Path) -> None:
    folder, to = tmp_path / "folder", tmp_path / "to"
    (folder / "checkpoints").mkdir(parents=True)
    to.mkdir()
    for name, content in {**FILES, "training_args.bin": b"\x80"}.items():
        (folder / name).write_bytes(content)
    arrivals.copy_folder(folder, WANTED, to, no_limit)
    assert {file.name: file.read_bytes() for file in to.iterdir()} == FILES
    (folder / WEIGHTS).unlink()
    with pytest.raises(AdapterError, match="is missing|holds no adapter"):
        arrivals.copy_folder(folder, WANTED, to, no_limit)
    with pytest.raises(AdapterError, match="cannot be opened"):
        arrivals.copy_folder(tmp_path / "nobody", WANTED, to, no_limit)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


def test_an_adapter_of_the_hub_comes_without_what_is_not_known(there: Hub, tmp_path: Path) -> None:
    files = {**FILES, "README.md": b"# x", "train.py": b"import os", "runs/events": b"x", "training_args.bin": b"\x80"}
    there.models["ann/captain"] = Model(files=files)
    to, heard = tmp_path / "to", []
    to.mkdir()
    arrivals.fetch("ann/captain", WANTED, to, no_limit, lambda done, total: heard.append((done, total)))
    assert {file.name: file.read_bytes() for file in to.iterdir()} == FILES
    assert heard[-1] == (102, 102)
    fetched = {path.rpartition("/")[2].partition("?")[0] for path in there.asked if "/resolve/" in path}
    assert fetched == set(FILES)


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        ("ann/nobody", None, "The hub has no adapter ann/nobody"),
        ("ann/gated", Model(files=FILES, access=403), "The adapter ann/gated is gated"),
        ("ann/model", Model(files={"config.json": b"{}"}), "holds a whole model"),
        ("ann/pickle", Model(files={CONFIG: b"{}", "adapter_model.bin": b"\x80"}), "which is never opened"),
        ("ann/broken", Model(status=500), "The hub did not give ann/broken"),
        ("not a name/x", None, "is no name of an adapter on the hub"),
    ],
)
def test_what_the_hub_will_not_give_is_explained(
    there: Hub, tmp_path: Path, name: str, model: Model | None, says: str
) -> None:
    if model is not None:
        there.models[name] = model
    with pytest.raises(AdapterError) as caught:
        arrivals.fetch(name, WANTED, tmp_path, no_limit, lambda done, total: None)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_adapter_of_the_hub_that_is_too_large_is_refused_before_it_comes(
    there: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "MAX_WEIGHTS_BYTES", 99)
    there.models["ann/large"] = Model(files=FILES)
    with pytest.raises(AdapterError, match="too large"):
        arrivals.fetch("ann/large", WANTED, tmp_path, no_limit, lambda done, total: None)
    assert not any("/resolve/" in path for path in there.asked)


def test_the_traps_of_these_tests_are_zips_that_python_reads() -> None:
    """A refusal of what nobody could read would prove nothing."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(f"../{CONFIG}", json.dumps({}))
    assert zipfile.ZipFile(sink).namelist() == [f"../{CONFIG}"]
