"""Feeds every reader of what people bring with broken files: datasets, adapters, settings.

    python -m tests.fuzz --inputs 100000 [--seed N] [--reader NAME]

Each input is a good file that was damaged: bits turned, pieces cut out, doubled, moved or put in from other files, and
tokens that parsers stumble over. It must be read, or refused as a `UserError` in one sentence; within `SECONDS`, with
no more memory than `MEMORY`, and with nothing left on the disk beside it. Anything else is written down with the input
that did it.

A reader runs in a process of its own, which is begun anew where an input kills it.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from core.errors import UserError

SECONDS, MEMORY = 5.0, 2 * 2**30  # an input; memory beyond what the process had when it began
LARGEST = 64 * 1024  # bytes of an input
ROOT = Path(__file__).parents[1]
TOKENS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b"[" * 500,
    b",", b":",     b"null", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 400, b'{"a":' * 300, b"\\ud800",
    b"\xed\xa0\x80", b"&a *a", b"!!python/object/apply:os.system [id]",     b"PAR1", b"PK\x03\x04", b"\x80\x04",
    b"../../x", b"=cmd()", b"\t", b"\x1f\x8b", b"(" * 200, b"\xf0\x9f\x8f\xb4", b"messages", b"role", b"content",
)  # fmt: skip

Reader = Callable[[Path], object]


class Hang(BaseException):
    """An input took too long; not an Exception, which a reader could take for its own."""


def _conversations(count: int = 6) -> list[dict[str, object]]:
    return [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"What is {n}?"},
                      {"role": "assistant", "content": f"It is {n}, “matey” 🏴."}]}
        for n in range(count)
    ]  # fmt: skip


def dataset_seeds() -> dict[str, list[bytes]]:
    """Good files by suffix."""
    chats = _conversations()
    pairs = [{"instruction": f"Say {n}", "input": "", "output": f"{n}, said"} for n in range(6)]
    labels = [{"text": f"row {n}", "label": "odd" if n % 2 else "even"} for n in range(6)]
    shared = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ahoy"}]}] * 3
    lines = [["".join(json.dumps(row) + "\n" for row in rows) for rows in (chats, pairs, labels, shared)]]
    csv = "text,label\n" + "".join(f'"row, {n}",{"odd" if n % 2 else "even"}\r\n' for n in range(6))
    return {
        ".jsonl": [text.encode() for text in lines[0]],
        ".json": [json.dumps(rows).encode() for rows in (chats, pairs, {"data": pairs})],
        ".csv": [csv.encode(), csv.encode("utf-16"), csv.replace(",", ";").encode("latin-1")],
        ".tsv": [csv.replace(",", "\t").encode()],
        ".txt": [b"One passage.\n\nAnother one.\n", "Ein Maß für Größe\n".encode("latin-1")],
        ".parquet": [_parquet(pairs), _parquet(labels)],
        ".jsonl.gz": [gzip.compress(text.encode(), 0) for text in lines[0]],
        ".zip": [_zipped({"a.jsonl": lines[0][0], "README.md": "x"}), _zipped({"a.txt": "One.\n", "b.md": "Two.\n"})],
        ".xlsx": [_workbook(pairs)],
    }


def _zipped(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def _workbook(rows: list[dict[str, str]]) -> bytes:
    """Unpacked, so that what is damaged is the sheet and not its checksum alone."""
    from openpyxl import Workbook

    book, packed, out = Workbook(), io.BytesIO(), io.BytesIO()
    for row in ([*rows[0]], *([*row.values()] for row in rows)):
        book.active.append(row)
    book.save(packed)
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return out.getvalue()


def _parquet(rows: list[dict[str, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def read_data(path: Path) -> object:
    """As the page reads an upload, and once more with bad rows left out."""
    from core.data.reading import read_dataset

    try:
        return read_dataset(path)
    except UserError:
        return read_dataset(path, skip_bad_rows=True)


def read_settings(path: Path) -> object:
    """As the command line reads `--config`."""
    from jobs.recipes import Source, read_recipe

    return read_recipe(path, {}, Source())


def read_peft(path: Path) -> object:
    """An adapter's folder: what the library shows of it, and what the engine reads. `path` is one of its files."""
    from core.adapters.peft_format import read_adapter
    from jobs.adapters import describe_adapter

    describe_adapter(path.parent)
    return read_adapter(path.parent)


def read_packed(path: Path) -> object:
    """As the library takes in a zip that somebody uploads."""
    from core.adapters.arrivals import unpack
    from jobs.adapter_maker import check
    from jobs.adapters import ADAPTER_FILES

    with tempfile.TemporaryDirectory() as name:
        unpack(path, path.name, ADAPTER_FILES, Path(name), lambda _bytes: None)
        return check(Path(name))


def packed_seeds() -> list[bytes]:
    """A small adapter as a zip: as it lies, in a folder, and packed tightly."""
    config, weights = adapter_seeds()
    found = []
    for folder, packing in (("", zipfile.ZIP_STORED), ("captain/", zipfile.ZIP_STORED), ("", zipfile.ZIP_DEFLATED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", packing) as archive:
            for name, content in (("adapter_config.json", config), ("adapter_model.safetensors", weights)):
                archive.writestr(f"{folder}{name}", content)
        found.append(out.getvalue())
    return found


def adapter_seeds() -> tuple[bytes, bytes]:
    """A small adapter's config and weights."""
    import numpy as np
    from safetensors.numpy import save

    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
                "base_model_name_or_path": "x/y", "bias": "none"}  # fmt: skip
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = {name.format("A"): np.ones((2, 8), np.float32), name.format("B"): np.ones((8, 2), np.float32)}
    return json.dumps(settings).encode(), save(weights)


SETTINGS = b"""name: run
base_model: starter
data: {dataset_id: D, max_tokens: 512, holdout: 0.1}
lora: {rank: 8, alpha: 16, targets: [q_proj, v_proj], rank_pattern: {q_proj: 4}}
optim: {learning_rate: 0.001, steps: 30, batch_size: 4}
quant: {bits: 4}
"""


class Inputs:
    """Damaged files, one after the other, the same for the same seed."""

    def __init__(self, reader: str, seed: int) -> None:
        self._random = random.Random(f"{reader} {seed}")
        self._reader = reader
        self._data = dataset_seeds() if reader == "dataset" else {}
        self._adapter = adapter_seeds() if reader == "adapter" else (b"", b"")
        self._packed = packed_seeds() if reader == "packed" else []

    def next(self, folder: Path) -> tuple[Path, Reader]:
        """Put the next input into `folder`; its file, and what reads it."""
        if self._reader == "settings":
            return self._write(folder / "run.yaml", self._damaged([SETTINGS])), read_settings
        if self._reader == "packed":
            return self._write(folder / "adapter.zip", self._damaged(self._packed)), read_packed
        if self._reader == "adapter":
            config, weights = self._adapter
            if self._random.random() < 0.5:
                config = self._damaged([config])
            else:
                weights = self._damaged([weights])
            self._write(folder / "adapter_config.json", config)
            return self._write(folder / "adapter_model.safetensors", weights), read_peft
        suffix = self._random.choice(list(self._data))
        others = [seed for seeds in self._data.values() for seed in seeds]
        wrong = self._random.random() < 0.05  # another format's content under this suffix
        return self._write(folder / f"data{suffix}", self._damaged(others if wrong else self._data[suffix])), read_data

    def _write(self, path: Path, content: bytes) -> Path:
        path.write_bytes(content)
        return path

    def _damaged(self, seeds: list[bytes]) -> bytes:
        content = bytearray(self._random.choice(seeds))
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 8))):
            self._damage(content)
        return bytes(content[:LARGEST])

    def _damage(self, content: bytearray) -> None:
        pick = self._random
        at, end = sorted((pick.randrange(len(content) + 1), pick.randrange(len(content) + 1)))
        match pick.randrange(7):
            case 0 if content:
                content[pick.randrange(len(content))] ^= 1 << pick.randrange(8)
            case 1:
                del content[at:end]
            case 2:
                content[at:at] = content[at:end] * pick.choice((1, 2, 50))
            case 3:
                del content[at:]
            case 4 if content:
                content[pick.randrange(len(content))] = pick.randrange(256)
            case 5:
                content[at:end] = pick.choice(TOKENS)
            case _:
                content[at:at] = pick.choice(TOKENS)


def work(reader: str, seed: int, first: int, last: int) -> int:
    """In a process of its own: read the inputs from `first` up to `last`; tells of each what is wrong, a line each."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["TMPDIR"] = name
        tempfile.tempdir = None
        folder = Path(name) / "input"
        inputs = Inputs(reader, seed)
        signal.signal(signal.SIGALRM, _too_long)
        _warm_up(reader, folder)
        limit = _data_bytes() + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        for number in range(last):
            folder.mkdir()
            path, read = inputs.next(folder)
            if number >= first:
                print(f"at {number}", flush=True)
                if (wrong := _wrong(path, read, Path(name))) is not None:
                    print(f"wrong {json.dumps({'input': number, 'file': path.name, 'what': wrong})}", flush=True)
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    print("done", flush=True)
    return 0


def _warm_up(reader: str, folder: Path) -> None:
    """Import what the reader needs, before memory is counted."""
    folder.mkdir()
    path, read = Inputs(reader, -1).next(folder)
    with suppress(UserError):
        read(path)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _wrong(path: Path, read: Reader, scratch: Path) -> str | None:
    """What an input did that it must not."""
    before = {str(each) for each in scratch.rglob("*")}
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(path)
    except UserError as error:
        if "\n" in str(error).strip():
            return f"not one sentence: {error}"
    except Hang:
        return f"took more than {SECONDS:.0f} seconds"
    except BaseException as error:  # noqa: BLE001  that is what is looked for
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    left = {str(each) for each in scratch.rglob("*")} - before
    return f"left on the disk: {sorted(left)}" if left else None


def _too_long(_number: int, _frame: types.FrameType | None) -> None:
    raise Hang


def _data_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().data)


READERS = ("dataset", "adapter", "packed", "settings")


def fuzz(reader: str, count: int, seed: int) -> list[str]:
    """Everything that went wrong over `count` inputs."""
    found: list[str] = []
    first = 0
    while first < count:
        command = [sys.executable, "-m", "tests.fuzz", "--work", f"{reader} {seed} {first} {count}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        found += [f"{reader}: {line.removeprefix('wrong ')}" for line in lines if line.startswith("wrong ")]
        if lines and lines[-1] == "done":
            return found
        reached = [int(line.split()[1]) for line in lines if line.startswith("at ")]
        if not reached:
            raise AssertionError(f"the reader's process did not begin: {done.stderr[-2000:]}")
        found.append(f"{reader}: input {reached[-1]} ended the process ({done.returncode}): {done.stderr[-300:]}")
        first = reached[-1] + 1
    return found


def main() -> int:
    """Carry out the command line; 1 where something went wrong."""
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=READERS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        reader, *numbers = given.work.split()
        return work(reader, *map(int, numbers))
    shares = {"dataset": 0.5, "adapter": 0.2, "packed": 0.15, "settings": 0.15}
    wrong: list[str] = []
    for reader in [given.reader] if given.reader else READERS:
        count = given.inputs if given.reader else int(given.inputs * shares[reader])
        found = fuzz(reader, count, given.seed)
        wrong += found
        print(f"{reader}: {count:,} inputs, {len(found)} went wrong", flush=True)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
