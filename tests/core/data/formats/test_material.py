"""Detection on files that others wrote, fetched from the package index; what each means was written down by looking.

The demo sets are for tests alone: nothing of them is kept in this project.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from core.data.formats.detection import Unclear
from core.data.readers.files import open_table
from core.data.reading import RecordStream, stream_records
from core.data.records import Conversation, Record
from core.data.rows import Problem

pytestmark = pytest.mark.slow

DEMOS = ("llamafactory==0.9.5", "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f")
TALKS = ("chatterbot-corpus==1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154")
SUMMARIES = ("aclsum==0.1.2", "c75ffc48d3eabc5f37c68ea087943780a85950087957759e89746f21111f2213")

ALPACA = ("alpaca", {"instruction": "instruction", "input": "input", "output": "output"})
PAIRS = ("preference", {"prompt": "conversations", "chosen": "chosen", "rejected": "rejected"})
CALLS = ("sharegpt", {"conversations": "conversations", "tools": "tools"})
MESSAGES = ("messages", {"messages": "messages"})
# The format, the columns, how many records there are, and a word of the remarks.
EXPECTED = {
    "alpaca_en_demo.json": (*ALPACA, 999, ""),
    "alpaca_zh_demo.json": (*ALPACA, 1000, ""),
    "identity.json": (*ALPACA, 91, ""),
    "c4_demo.jsonl": ("text", {"text": "text"}, 300, ""),
    "wiki_demo.txt": ("text", {"text": "text"}, 1, ""),
    "dpo_en_demo.json": (*PAIRS, 300, ""),
    "dpo_zh_demo.json": (*PAIRS, 300, ""),
    "glaive_toolcall_en_demo.json": (*CALLS, 300, ""),
    "glaive_toolcall_zh_demo.json": (*CALLS, 300, ""),
    "kto_en_demo.json": ("desired", {"completion": "messages", "label": "label"}, 150, "150 answers"),
    "mllm_demo.json": (*MESSAGES, 6, "images"),
    "mllm_audio_demo.json": (*MESSAGES, 3, "audios"),
    "mllm_video_demo.json": (*MESSAGES, 3, "videos"),
    "mllm_video_audio_demo.json": (*MESSAGES, 3, "audios and videos"),
    "reason_tool_use_demo_50.jsonl": ("messages", {"messages": "messages", "tools": "tools"}, 50, "<think>"),
    "v1_sft_demo.jsonl": (*MESSAGES, 500, ""),
    "v1_dpo_demo.jsonl": ("preference", {"chosen": "chosen_messages", "rejected": "rejected_messages"}, 10, ""),
}


def fetched(package: tuple[str, str], folder: Path, *options: str) -> Path:
    """The one file that the package index has for `package`; the test is skipped, and says so, where it gives none."""
    name, checksum = package
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "--dest", str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: {name} cannot be fetched: {done.stderr.strip()[-300:]}")
    (path,) = folder.iterdir()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == checksum, f"{name} is another file than it was"
    return path


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    with tarfile.open(fetched(DEMOS, folder, "--no-binary", ":all:")) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/data"))


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talks")
    with zipfile.ZipFile(fetched(TALKS, folder)) as archive:
        archive.extractall(folder)
    return folder / "chatterbot_corpus" / "data" / "english"


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("summaries")
    with zipfile.ZipFile(fetched(SUMMARIES, folder)) as archive:
        archive.extractall(folder)
    return folder / "aclsum" / "dataset"


def stream(path: Path) -> RecordStream:
    return stream_records(open_table(path, path.name), path.name)


def test_no_demo_set_is_forgotten(demos: Path) -> None:
    files = {path.name for path in demos.iterdir() if path.suffix in (".json", ".jsonl", ".txt")}
    assert files == {*EXPECTED, "dataset_info.json"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_demo_set_means_what_it_was_written_down_to_mean(demos: Path, name: str) -> None:
    format_key, columns, count, remark = EXPECTED[name]
    found = stream(demos / name)
    items = list(found)
    assert (found.detection.mapping.format, found.detection.mapping.columns) == (format_key, columns)
    assert found.detection.is_sure
    assert [item for item in items if isinstance(item, Problem)] == []
    assert len([item for item in items if isinstance(item, Record)]) == count
    assert remark in " ".join(found.remarks) and bool(remark) == bool(found.remarks)


def test_a_list_of_datasets_is_no_dataset(demos: Path) -> None:
    with pytest.raises(Unclear, match="no columns that can be trained on"):
        stream(demos / "dataset_info.json")


def test_calls_of_tools_keep_their_arguments(demos: Path) -> None:
    path = demos / "glaive_toolcall_en_demo.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row, record in zip(rows, stream(path), strict=True):
        assert isinstance(record, Conversation)
        said = [turn["value"] for turn in row["conversations"] if turn["from"] == "function_call"]
        kept = [call["function"] for turn in record.messages for call in json.loads(turn.tool_calls or "[]")]
        assert kept == list(map(json.loads, said))
        assert [tool["function"] for tool in json.loads(record.tools or "[]")] == json.loads(row["tools"])


def test_talks_of_plain_turns_are_read_as_json(talks: Path, tmp_path: Path) -> None:
    sources = sorted(talks.glob("*.yml"))
    assert len(sources) > 15
    for source in sources:
        document = yaml.safe_load(source.read_text(encoding="utf-8"))
        path = tmp_path / f"{source.stem}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        found = stream(path)
        records = [item for item in found if isinstance(item, Conversation)]
        assert found.detection.mapping.format == "turns" and found.detection.is_sure
        for record in records:
            talk = document["conversations"][record.source_row - 1]
            assert [message.content for message in record.messages] == talk[: len(record.messages)]
            assert len(talk) - len(record.messages) in (0, 1)
        assert len(records) == sum(isinstance(talk, list) for talk in document["conversations"])


def test_summaries_inside_of_objects_are_asked_about(summaries: Path) -> None:
    for name in ("train", "val", "test"):
        with pytest.raises(Unclear) as caught:
            stream(summaries / f"{name}.jsonl")
        assert {"title", "summary.challenge", "summary.outcome", "sentences.abstract"} <= set(caught.value.columns)
