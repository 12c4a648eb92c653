"""Datasets from the hub: its real client, and a small server in the hub's place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from core.data.readers.files import open_files
from core.data.readers.hub import fetch_dataset, hub_info
from core.data.rows import Row
from core.errors import DataError
from tests.core.data.readers.hub_server import Hub, HubRepository, serve, sha_of
from tests.core.data.samples import PAIRS, as_csv, as_parquet, json_lines

ONE, TWO = as_parquet(PAIRS[:1]), as_parquet(PAIRS[1:])
LINES = json_lines(PAIRS).encode()
Serve = Callable[..., Hub]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Serve]:
    """Puts a dataset `ann/data` onto a hub of our own, and the client to it."""
    with ExitStack() as servers:

        def put(files: dict[str, Any] | None = None, *, name: str = "ann/data", **settings: Any) -> Hub:
            revisions = files if files and all(isinstance(value, dict) for value in files.values()) else {"main": files}
            running = servers.enter_context(serve({name: HubRepository(files=revisions or {}, **settings)}))  # type: ignore[arg-type]
            monkeypatch.setattr(constants, "ENDPOINT", running.address)
            template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
            return running

        yield put


def values_of(paths: tuple[Path, ...]) -> list[Any]:
    return [item.values for item in open_files(paths, "data").rows if isinstance(item, Row)]


def fetched(to: Path, config: str | None = None, split: str | None = None) -> list[Any]:
    return values_of(fetch_dataset("ann/data", config, split, to, lambda done, total: None))


def test_what_a_dataset_consists_of_is_told_without_downloading(hub: Serve) -> None:
    server = hub(
        {"data/train-00000-of-00002.parquet": ONE, "data/train-00001-of-00002.parquet": TWO,
         "data/test-00000-of-00001.parquet": ONE, "README.md": b"x"},
        card={"license": "mit"},
    )  # fmt: skip
    info = hub_info("ann/data")
    assert (info.licence, info.is_gated, info.revision) == ("mit", False, sha_of("main"))
    assert [(part.config, part.split, len(part.files), part.bytes) for part in info.parts] == [
        ("default", "test", 1, len(ONE)), ("default", "train", 2, len(ONE) + len(TWO)),
    ]  # fmt: skip
    assert not [asked for asked in server.asked if "resolve" in asked]


def test_the_files_of_a_split_come_in_order_with_their_progress(hub: Serve, tmp_path: Path) -> None:
    hub({"data/train-00001-of-00002.parquet": TWO, "data/train-00000-of-00002.parquet": ONE, "data/x.jsonl": LINES})
    told: list[tuple[int, int]] = []
    paths = fetch_dataset("ann/data", None, None, tmp_path / "to", lambda done, total: told.append((done, total)))
    assert values_of(paths) == PAIRS
    assert [path.read_bytes() for path in paths] == [ONE, TWO]
    total = len(ONE) + len(TWO)
    assert told[-1] == (total, total) and told == sorted(told) and {each for _, each in told} == {total}


def test_the_revision_that_was_shown_is_the_one_that_comes(hub: Serve, tmp_path: Path) -> None:
    server = hub({"main": {"a.jsonl": LINES}, "older": {"a.jsonl": json_lines(PAIRS[:1]).encode()}})
    sha = hub_info("ann/data", "older").revision
    paths = fetch_dataset("ann/data", None, None, tmp_path, lambda done, total: None, revision=sha)
    assert sha == sha_of("older") and values_of(paths) == PAIRS[:1]
    assert all(sha in asked for asked in server.asked if "resolve" in asked)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train.csv", "test.csv"], {"default": {"train", "test"}}),
        (["my_dev_set.jsonl", "training.jsonl"], {"default": {"validation", "train"}}),
        (["data/train_sft-00000-of-00003.parquet", "data/test_gen-00000-of-00001.parquet"],
         {"default": {"train_sft", "test_gen"}}),
        (["en/train/0000.parquet", "de/train/0000.parquet", "de/test/0000.parquet"],
         {"en": {"train"}, "de": {"train", "test"}}),
        (["alpaca_data.json", "dataset_infos.json"], {"default": {"train"}}),
        (["rows.jsonl.gz", "notes.txt", "LICENSE.md"], {"default": {"train"}}),
    ],
)  # fmt: skip
def test_parts_are_told_by_names_where_the_card_is_silent(
    hub: Serve, files: list[str], expected: dict[str, set[str]]
) -> None:
    hub(dict.fromkeys(files, b"x"))
    info = hub_info("ann/data")
    found = {config: {part.split for part in info.parts if part.config == config} for config in info.configs}
    assert found == expected
    assert all("notes" not in file.path and "infos" not in file.path for part in info.parts for file in part.files)


CARD = {
    "configs": [
        {"config_name": "small", "data_files": "small/*.jsonl"},
        {"config_name": "large", "data_files": [
            {"split": "train", "path": ["large/a*.csv", "large/b.csv"]}, {"split": "held", "path": "large/c.csv"}]},
        {"config_name": "missing", "data_files": "nowhere/*"},
    ]
}  # fmt: skip


def test_the_card_says_which_files_are_what(hub: Serve, tmp_path: Path) -> None:
    one, two = as_csv(PAIRS[:1]).encode(), as_csv(PAIRS[1:]).encode()
    hub({"small/x.jsonl": LINES, "large/a1.csv": one, "large/b.csv": two, "large/c.csv": two}, card=CARD)
    info = hub_info("ann/data")
    assert info.configs == ("small", "large")
    assert fetched(tmp_path / "1", "large") == PAIRS
    assert fetched(tmp_path / "2", "large", "held") == PAIRS[1:]
    assert fetched(tmp_path / "3", "small") == PAIRS


@pytest.mark.parametrize(
    ("config", "split", "says"),
    [
        (None, None, r"has several configurations \(small, large\); choose one"),
        ("huge", None, r"has no configuration huge \(small, large\)"),
        ("large", "test", r"has no split test \(train, held\)"),
    ],
)
def test_what_could_be_several_parts_is_asked_about(
    hub: Serve, tmp_path: Path, config: str | None, split: str | None, says: str
) -> None:
    server = hub({"small/x.jsonl": LINES, "large/a1.csv": b"x", "large/c.csv": b"x"}, card=CARD)
    with pytest.raises(DataError, match=says):
        fetched(tmp_path, config, split)
    assert not [asked for asked in server.asked if "resolve" in asked]


def test_several_splits_without_one_for_training_are_asked_about(hub: Serve) -> None:
    hub({"test.csv": b"x", "dev.csv": b"x"})
    with pytest.raises(DataError, match=r"has several splits \(test, validation\)"):
        hub_info("ann/data").part()


def test_a_dataset_that_only_a_script_can_read_comes_as_the_hubs_own_conversion(hub: Serve, tmp_path: Path) -> None:
    script = {"data.py": b"raise SystemExit", "raw.tar.gz": b"x"}
    hub({"main": script, "refs/convert/parquet": {"default/train/0000.parquet": ONE}})
    assert hub_info("ann/data").revision == sha_of("refs/convert/parquet")
    assert fetched(tmp_path) == PAIRS[:1]
    assert not list(tmp_path.rglob("*.py"))


def test_a_dataset_without_a_file_that_can_be_read_is_refused(hub: Serve) -> None:
    hub({"data.py": b"x", "images.tar": b"x"})
    with pytest.raises(DataError, match=r"has no data file that can be read \(it has \.py, \.tar\)"):
        hub_info("ann/data")


def test_a_gated_dataset_is_said_to_be_before_and_when_it_is_fetched(hub: Serve, tmp_path: Path) -> None:
    hub({"a.jsonl": LINES}, gated="auto")
    assert hub_info("ann/data").is_gated
    with pytest.raises(DataError, match="gated; accept its terms on the hub and set HF_TOKEN"):
        fetched(tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ann/other", "has no dataset ann/other, or it is private"),
        ("hidden/data", "has no dataset hidden/data, or it is private"),
        ("broken/data", r"did not give broken/data \(it answered 501\)"),
        ("a//b c", "is no name of a dataset on the hub"),
        ("../../etc", "is no name of a dataset on the hub"),
    ],
)
def test_what_the_hub_does_not_give_is_explained(hub: Serve, name: str, says: str) -> None:
    hub({"a.jsonl": LINES}, name="broken/data")
    with pytest.raises(DataError, match=says):
        hub_info(name)


def test_without_a_hub_the_person_is_told(hub: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    hub({"a.jsonl": LINES})
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="The hub cannot be reached for ann/data.*choose a file"):
        hub_info("ann/data")


def test_offline_mode_is_named(hub: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import close_session

    hub({"a.jsonl": LINES})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    try:
        with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
            hub_info("ann/data")
    finally:
        close_session()


def test_a_dataset_that_is_too_large_is_refused_before_a_byte_comes(
    hub: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = hub({"a.jsonl": LINES})
    monkeypatch.setattr("core.data.readers.hub.MAX_BYTES", len(LINES) - 1)
    with pytest.raises(DataError, match="too large to read"):
        fetched(tmp_path)
    assert not [asked for asked in server.asked if "resolve" in asked]


def test_names_that_lead_out_of_the_folder_are_never_written(hub: Serve, tmp_path: Path) -> None:
    hub({"../../escaped.jsonl": LINES, "data/../../up.jsonl": LINES, "a.jsonl": LINES})
    assert fetched(tmp_path / "to" / "deep") == PAIRS
    assert not list(tmp_path.rglob("escaped*")) and not list(tmp_path.rglob("up*"))


def test_the_card_is_data_whatever_it_holds(hub: Serve) -> None:
    for configs in (5, "x", [5], [{"data_files": 5}], [{"config_name": ["x"], "data_files": [5, {"path": {}}]}], {}):
        hub({"a.jsonl": LINES}, card={"configs": configs, "license": ["mit", "x"]})
        assert json.dumps(hub_info("ann/data").licence) == '"mit, x"'
