"""FAULTS.md, rows 15 to 30: files and rows that a person may bring, through the service, the real worker and server."""

from __future__ import annotations

import hashlib
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import torch
from pyarrow import parquet
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

import core.data.reading
from core.adapters.inject import activate
from core.adapters.peft_format import load_adapter
from core.config import RunConfig, parse
from core.data.reading import read_dataset
from core.data.records import Conversation, Passage, Record
from core.data.tokens.batching import pad
from core.data.tokens.encoding import IGNORE, encode
from core.data.tokens.splits import hold_out
from core.errors import DataError
from core.events import Event, Failed, Finished, Started, StepDone
from core.models.load import load_model
from jobs.home import PROJECT
from jobs.service import Run, Service
from tests.browser.driver import App
from tests.core.tiny import VOCABULARY, conversation, plain_logits, tiny_llama
from tests.core.train.running import Run as EngineRun
from tests.core.train.running import notes, of_kind
from tests.jobs.waiting import wait_for

GIGABYTE, MEGABYTE = 10**9, 10**6


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def keep(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def config_on(dataset_id: str, model: Path, **data: Any) -> RunConfig:
    values = {"name": "a run", "base_model": str(model), "lora": {"rank": 4}, "optim": {"steps": 3, "batch_size": 2}}
    return parse({**values, "data": {"dataset_id": dataset_id, **data}})


def carried_out(service: Service, file: Path, model: Path, **data: Any) -> tuple[Run, list[Event]]:
    """A run of the real worker on the rows in `file`, when it has ended; its events."""
    run = service.submit(config_on(service.data.add(file).id, model, **data))
    wait_for(lambda: service.run(run.id).has_ended, 200)
    return service.run(run.id), list(service.events(run.id)[0])


@pytest.fixture
def working(service: Service) -> Service:
    """A service that starts what is queued."""
    service.start()
    return service


def records_hash(service: Service, file: Path) -> str:
    dataset = service.data.add(file)
    return hashlib.sha256((service.home / "datasets" / dataset.id / "records.jsonl").read_bytes()).hexdigest()


def texts(record: Record) -> list[str]:
    assert isinstance(record, Conversation)
    return [message.content for message in record.messages]


# ---- 15: one row


def test_one_row_is_trained_on_without_evaluation_and_the_run_says_so(
    working: Service, tiny_model: Path, tmp_path: Path
) -> None:
    file = keep(tmp_path, "one.jsonl", lines([{"prompt": "Who?", "completion": "Me."}]))
    run, events = carried_out(working, file, tiny_model)
    (finished,) = of_kind(events, Finished)
    (started,) = of_kind(events, Started)
    assert run.state == "finished" and run.adapter_id and (started.train_rows, started.eval_rows) == (1, 0)
    assert finished.eval_loss is None and finished.base_eval_loss is None
    assert "Too few rows that differ to hold any back: there is no evaluation loss" in notes(events)


# ---- 16: no rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\xef\xbb\xbf\r\n"),
        ("a.json", b"[]"),
        ("a.csv", b"prompt,completion\r\n"),
        ("a.csv", "prompt,completion\n".encode("utf-16")),
        ("a.tsv", b"prompt\tcompletion"),
        ("a.txt", b"\n \n"),
        ("a.parquet", b""),
    ],
)
def test_a_file_without_rows_is_said_to_have_none_and_leaves_nothing(
    service: Service, tmp_path: Path, name: str, content: bytes
) -> None:
    with pytest.raises(DataError, match=f"{name} is empty: it has 0 rows"):
        service.data.add(keep(tmp_path, name, content))
    assert service.data.all() == () and list((service.home / "datasets").iterdir()) == []


# ---- 17: far too large


class Watched:
    """The most memory that a process has had since it was first looked at."""

    def __init__(self, pid: int) -> None:
        self._process, self._is_over = psutil.Process(pid), threading.Event()
        self.before = self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        with suppress(psutil.NoSuchProcess):  # it may have ended
            while not self._is_over.wait(0.02):
                self.peak = max(self.peak, self._process.memory_info().rss)

    @property
    def growth(self) -> int:
        return self.peak - self.before


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an app that is started now puts what is uploaded, while it comes and after."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    for name in ("GRADIO_TEMP_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(folder))
    return folder


def upload(port: int, name: str, blocks: Iterator[bytes], size: int) -> tuple[bytes, int]:
    """Send a file as a browser does, until the server answers: what it said, and how much was sent by then."""
    head = f'--xx\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    tail = b"\r\n--xx--\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        request = f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        request += "Content-Type: multipart/form-data; boundary=xx\r\n"
        connection.sendall(f"{request}Content-Length: {len(head) + size + len(tail)}\r\n\r\n".encode() + head)
        for block in blocks:
            if select.select([connection], [], [], 0)[0]:
                break
            connection.sendall(block)
            sent += len(block)
        else:
            connection.sendall(tail)
        return connection.recv(4096), sent


def test_ten_gigabytes_are_refused_while_they_are_uploaded_and_take_no_memory(uploads: Path, app: App) -> None:
    block = lines([{"prompt": "a", "completion": "b"}] * 30_000).encode()
    count = 10 * GIGABYTE // len(block)
    assert app.process is not None
    with Watched(app.process.pid) as watched:
        answer, sent = upload(app.port, "huge.jsonl", (block for _ in range(count)), count * len(block))
    assert answer.startswith(b"HTTP/1.1 413") and b"exceeded maximum allowed size" in answer
    assert sent < 2.5 * GIGABYTE, "the server did not wait for the end"
    assert watched.growth < 100 * MEGABYTE
    wait_for(lambda: not [path for path in uploads.rglob("*") if path.is_file()])
    assert app.answers()


def test_ten_gigabytes_on_the_disk_are_refused_by_their_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(10 * GIGABYTE)
    command = [
        sys.executable,
        "app.py",
        "train",
        "--data",
        path,
        "--output",
        tmp_path / "out",
        "--home",
        tmp_path / "home",
    ]
    child = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    with Watched(child.pid) as watched, child.stderr as stream:
        said = stream.read()
    assert child.wait(60) == 2
    assert "huge.jsonl is too large to read: it has 10.0 GB" in said
    assert watched.peak < 400 * MEGABYTE
    assert list((tmp_path / "home" / "datasets").iterdir()) == []


def test_a_file_of_more_rows_than_can_be_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are good or bad: each takes memory while the file is read."""
    monkeypatch.setattr(core.data.reading, "MAX_ROWS", 1000)
    for row in ({"prompt": "a", "completion": "b"}, {}):
        path = keep(tmp_path, "a.jsonl", lines([{"prompt": "a", "completion": "b"}, *[row] * 1000]))
        with pytest.raises(DataError, match="more than 1,000 rows"):
            read_dataset(path, skip_bad_rows=True)


# ---- 18: other encodings


def test_an_old_encoding_is_named_and_no_letter_is_changed(service: Service, tmp_path: Path) -> None:
    said = "Où est le café ? À côté du musée, près de la forêt."
    rows = lines([{"prompt": said, "completion": "Là-bas, derrière l’église."}])
    for encoding in ("cp1252", "utf-16", "utf-16-be"):
        dataset = service.data.add(keep(tmp_path, f"{encoding}.jsonl", rows.encode(encoding)))
        assert texts(service.data.rows(dataset.id)[0]) == [said, "Là-bas, derrière l’église."]
        is_guessed = encoding != "utf-16"  # the mark says it, so nothing is guessed
        assert (f"read as {encoding}" in dataset.file_format) == is_guessed


def test_a_broken_byte_is_told_with_its_place(service: Service, tmp_path: Path) -> None:
    content = lines([{"prompt": "naïve", "completion": "café 🏴"}]).encode()
    place = content.index("🏴".encode())
    with pytest.raises(DataError, match=rf"byte {place} \(0xf0\) is no valid UTF-8"):
        service.data.add(keep(tmp_path, "a.jsonl", content[: place + 2] + content[place + 3 :]))


# ---- 19: marks and line breaks


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_mark_and_windows_line_breaks_give_the_same_hash_as_the_plain_file(
    service: Service, tmp_path: Path, name: str
) -> None:
    content = {
        "a.jsonl": lines([{"prompt": "Où?", "completion": "Là."}, {"prompt": "Wo?", "completion": "Süd."}]),
        "a.json": json.dumps([{"prompt": "Où?", "completion": "Là."}], indent=1, ensure_ascii=False),
        "a.csv": 'prompt,completion\nOù?,"Là,\nici"\n"Wo ""da""?",Süd\n',
        "a.txt": "Où est\nle café?\n\nIci\n",
    }[name]
    plain = records_hash(service, keep(tmp_path, name, content))
    windows = content.replace("\n", "\r\n")
    for other in (windows.encode(), content.encode("utf-8-sig"), windows.encode("utf-8-sig"), windows.encode("utf-16")):
        assert records_hash(service, keep(tmp_path, name, other)) == plain


# ---- 20: nested


def test_messages_inside_a_document_are_found_and_deeper_ones_are_named(service: Service, tmp_path: Path) -> None:
    """There is no picker: the refusal lists what was found there, and what would be understood."""
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]
    for document in ([{"messages": talk}], {"version": 2, "items": [{"id": 1, "messages": talk}]}, {"messages": talk}):
        dataset = service.data.add(keep(tmp_path, "a.json", json.dumps(document)))
        assert (dataset.row_format, texts(service.data.rows(dataset.id)[0])) == ("OpenAI messages", ["Hi", "Ahoy"])
    with pytest.raises(DataError, match=r"found: id, dialog\); say what the columns are, or name them .*messages"):
        service.data.add(keep(tmp_path, "b.jsonl", lines([{"id": 1, "dialog": {"messages": talk}}])))


# ---- 22: mixed types and nulls


def test_rows_of_mixed_types_are_numbered_and_left_out_only_with_consent(service: Service, tmp_path: Path) -> None:
    good = {"prompt": "a", "completion": "b"}
    bad: list[Any] = [{"prompt": None, "completion": "b"}, {"prompt": 7, "completion": "b"}, [1], None, {"prompt": "a"}]
    path = keep(tmp_path, "mixed.jsonl", lines([good, *bad, good]))
    with pytest.raises(DataError) as caught:
        service.data.add(path)
    assert "Row 2 has a prompt that is null" in caught.value.title
    assert "4 more rows have problems: 3, 4, 5, 6" in caught.value.detail and "left out" in caught.value.hint
    assert service.data.all() == ()
    dataset = service.data.add(path, skip_bad_rows=True)
    assert (dataset.rows, dataset.skipped) == (2, 5)
    assert [record.source_row for record in service.data.rows(dataset.id)] == [1, 7]


# ---- 23: NUL


def parquet_of(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink, **options)
    return bytes(sink.getvalue())


NUL = "a\x00b"
GOOD = {"prompt": "a", "completion": "b"}
NULS: dict[str, tuple[str, str | bytes, str]] = {
    "prompt": ("a.jsonl", lines([GOOD, GOOD | {"prompt": NUL}]), "Row 2 has a NUL character in its prompt"),
    "completion": ("a.json", json.dumps([GOOD, GOOD | {"completion": NUL}]), "Row 2 has a NUL .* completion"),
    "system": ("a.jsonl", lines([GOOD, GOOD | {"system": NUL}]), "Row 2 has a NUL .* system"),
    "message": (
        "a.jsonl",
        lines([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": NUL}]}]),
        "Row 1 has a NUL .* assistant message",
    ),
    "label": ("a.jsonl", lines([{"text": "a", "label": "x"}, {"text": "b", "label": NUL}]), "Row 2 has a NUL .* label"),
    "text": ("a.txt", f"fine\n\nnot {NUL}\n", "Row 3 has a NUL .* text"),
    "cell": ("a.csv", f"prompt,completion\na,b\n{NUL},b\n", "Row 3 has a NUL .* prompt"),
    "raw": (
        "a.jsonl",
        lines([GOOD]).encode() + b'{"prompt": "a\x00b", "completion": "b"}\n',
        "Line 2 .*not valid JSON",
    ),
    "parquet": ("a.parquet", parquet_of([GOOD, GOOD | {"prompt": NUL}]), "Row 2 has a NUL .* prompt"),
}


@pytest.mark.parametrize("where", NULS)
def test_a_nul_is_told_with_its_row_wherever_it_stands(service: Service, tmp_path: Path, where: str) -> None:
    name, content, says = NULS[where]
    with pytest.raises(DataError, match=says):
        service.data.add(keep(tmp_path, name, content))
    assert service.data.all() == ()


# ---- 24: a row of a million tokens


@pytest.mark.parametrize("shape", [pytest.param("words", marks=pytest.mark.slow), "one word"])
def test_a_row_of_a_million_tokens_is_cut_and_counted_and_takes_little_memory(
    working: Service, tiny_model: Path, tmp_path: Path, shape: str
) -> None:
    """The tiny model's tokens are bytes. Memory is compared with that of the same run without the row."""
    text = "sail " * 200_000 if shape == "words" else "x" * MEGABYTE
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(8)]
    peaks = {}
    for name, content in (("plain", rows), ("long", [*rows, {"prompt": "Sail?", "completion": text}])):
        run, events = carried_out(working, keep(tmp_path, f"{name}.jsonl", lines(content)), tiny_model, max_tokens=64)
        (finished,) = of_kind(events, Finished)
        assert run.state == "finished"
        assert ("1 rows are longer than 64 tokens and were cut" in notes(events)) == (name == "long")
        assert finished.tokens <= 3 * 2 * 64, "three steps of two rows"
        peaks[name] = finished.peak_rss_bytes
    assert peaks["long"] - peaks["plain"] < 400 * MEGABYTE, peaks


# ---- 25: duplicates


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_counted_and_never_on_both_sides_of_the_split(starter_folder: Path, seed: int) -> None:
    """Real rows, through the real tokenizer and into the file that training reads."""
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    records = [conversation(f"What is {i % 20}?", f"It is {i % 20}.", row=i + 1) for i in range(60)]
    rows = encode(tokenizer, records, 1000).rows
    train, held, copies = hold_out(rows, 0.25, seed)
    assert len(rows) == 60 and copies == 40 and (len(train), len(held)) == (45, 15)
    assert not {tuple(row.tokens) for row in train} & {tuple(row.tokens) for row in held}


def test_a_run_tells_how_many_rows_are_copies(working: Service, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i % 6}?", "completion": f"It is {i % 6}."} for i in range(18)]
    _, events = carried_out(working, keep(tmp_path, "copies.jsonl", lines(rows)), tiny_model, holdout=0.5)
    (started,) = of_kind(events, Started)
    assert (started.train_rows, started.eval_rows) == (9, 9)
    assert "12 rows are copies of others" in notes(events)


def test_rows_that_differ_are_no_copies(starter_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    passages = [Passage(text=f"The number {i} is {i * i}.", source_row=i + 1) for i in range(20_000)]
    assert hold_out(encode(tokenizer, passages, 1000).rows, 0.5, 0).copies == 0


# ---- 26: emoji and text from right to left


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_emoji_and_right_to_left_text_are_kept_to_the_byte(service: Service, tmp_path: Path, suffix: str) -> None:
    row = {"prompt": "👩‍👩‍👧‍👦 שלום \u202bعالم\u202c?", "completion": "e\u0301 🏴‍☠️ مرحبا بالعالم \u2028 नमस्ते"}
    table = "prompt,completion\n" + ",".join(f'"{cell}"' for cell in row.values()) + "\n"
    contents = {".jsonl": lines([row]), ".json": json.dumps([row]), ".csv": table, ".parquet": parquet_of([row])}
    dataset = service.data.add(keep(tmp_path, f"مرحبا🏴{suffix}", contents[suffix]))
    assert dataset.name == f"مرحبا🏴{suffix}"
    assert texts(service.data.rows(dataset.id)[0]) == list(row.values())
    kept = (service.home / "datasets" / dataset.id / "records.jsonl").read_bytes()
    assert all(text.encode() in kept for text in row.values())


# ---- 28: no token to fill up with


@pytest.mark.parametrize("padding", [None, "the end"])
@pytest.mark.parametrize("kind", ["llama", "gptj"])
def test_without_a_padding_token_the_end_is_still_learned_and_filling_is_not(
    starter_folder: Path, tmp_path: Path, kind: str, padding: str | None
) -> None:
    """Packed rows (Llama) are filled up with nothing; padded ones (GPT-J) with a token that no label is ever asked of,
    be it the end token itself.
    """
    base, tokenizer = tmp_path / "base", AutoTokenizer.from_pretrained(starter_folder)
    tokenizer.pad_token = None if padding is None else tokenizer.eos_token
    gptj = {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 128, "vocab_size": VOCABULARY,
            "initializer_range": 0.1}  # fmt: skip
    model = tiny_llama() if kind == "llama" else AutoModelForCausalLM.from_config(CONFIG_MAPPING["gptj"](**gptj))
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    end = tokenizer.eos_token_id
    assert (AutoTokenizer.from_pretrained(base).pad_token_id == end) == (padding is not None)

    records = [conversation("Short?", "Yes.", row=1), conversation("Long?", "No, it is a longer answer.", row=2)]
    settings: dict[str, Any] = {"learning_rate": 2e-2, "steps": 40, "batch_size": 2, "evaluations": 1}
    targets = ("all-linear",) if kind == "llama" else ("all-linear", "lm_head")
    run = EngineRun(base, tmp_path / "run", records, data={"holdout": 0}, optim=settings, lora={"targets": targets})
    (finished,) = of_kind(list(run.events()), Finished)
    assert finished.last_loss < 0.3 * finished.first_loss

    loaded = load_model(base, dtype=torch.float32)
    activate(loaded.model, load_adapter(loaded.model, run.output))
    for row in encode(tokenizer, records, 1000).rows:
        assert row.labels[-2:].count(end) == 1, "the answer ends with the end token, and that has a label"
        place = max(at for at, label in enumerate(row.labels) if label == end)
        assert int(plain_logits(loaded.model, row.tokens)[place].argmax()) == end, "the end was learned"


def test_filling_has_no_label_though_it_is_the_end_token(starter_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    records = [conversation("Short?", "Yes."), conversation("Long?", "No, it is a longer answer.")]
    rows = list(encode(tokenizer, records, 1000).rows)
    batch = pad(rows, torch.device("cpu"), tokenizer.eos_token_id)
    assert batch.labeled[batch.mask == 0].sum() == 0 and (batch.mask == 0).sum() > 0
    assert batch.labels.tolist() == [label for row in rows for label in row.labels if label != IGNORE]
    assert (batch.labels == tokenizer.eos_token_id).sum() == 2


# ---- 30: nothing to learn


def test_rows_whose_labels_are_all_cut_off_end_the_run_before_anything_is_trained(
    working: Service, tiny_model: Path, tmp_path: Path
) -> None:
    """Only the tokenizer can tell, so the worker does, in a sentence, before its first step."""
    rows = [{"prompt": f"{i}: " + "word " * 40, "completion": "Never reached."} for i in range(4)]
    run, events = carried_out(working, keep(tmp_path, "long.jsonl", lines(rows)), tiny_model, max_tokens=32)
    assert run.state == "failed" and not of_kind(events, Started) and not of_kind(events, StepDone)
    (failed,) = of_kind(events, Failed)
    assert failed.title == "No row keeps anything to train on within 32 tokens"
    assert failed.hint == "Raise the token limit, or shorten the prompts"
    folder = working.home / "runs" / run.id
    assert not (folder / "checkpoints").exists() and not (folder / "adapter").exists()


def test_rows_without_anything_to_learn_are_refused_before_a_run_can_be_launched(
    service: Service, tmp_path: Path
) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hello?"}]}, {"messages": []}]
    for skip in (False, True):
        with pytest.raises(DataError, match="Row 1 has no assistant message.*none of the 2 rows"):
            service.data.add(keep(tmp_path, "a.jsonl", lines(rows)), skip_bad_rows=skip)
    assert service.data.all() == ()
