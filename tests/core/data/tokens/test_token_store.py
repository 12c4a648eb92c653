from __future__ import annotations

import errno
import gc
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.tokens.encoding import IGNORE, ChatRows, Row
from core.data.tokens.labeling import ClassRow, ClassRows
from core.data.tokens.store import narrowest
from core.errors import RunError

ROOT = Path(__file__).parents[4]
TOKENS = st.lists(st.integers(0, 65535), min_size=2, max_size=30)
SHORT, WIDE = np.dtype(np.uint16), np.dtype(np.uint32)


def chat_row(tokens: list[int], trained: list[bool]) -> Row:
    labels = [token if is_trained else IGNORE for token, is_trained in zip(tokens[1:], trained, strict=True)]
    return Row(tokens[:-1], labels)


def put(store: ChatRows, tokens: list[int], trained: list[bool]) -> None:
    assert store.put(np.array(tokens, store.token_type), np.array(trained), 1) == any(trained)


def filled(scratch: Path | None = None, rows: int = 20) -> tuple[ChatRows, list[Row]]:
    """A store of some rows, and the rows."""
    store, expected = ChatRows(scratch, SHORT), []
    for number in range(rows):
        tokens, trained = list(range(number, 2 * number + 2)), [place % 3 == 0 for place in range(number + 1)]
        put(store, tokens, trained)
        expected.append(chat_row(tokens, trained))
    store.write()
    return store, expected


@given(rows=st.lists(TOKENS.flatmap(lambda row: st.tuples(st.just(row), st.lists(st.booleans(), min_size=len(row) - 1,
                                                                                 max_size=len(row) - 1)))),
       token_type=st.sampled_from([SHORT, WIDE]), order=st.randoms(use_true_random=False))  # fmt: skip
def test_rows_come_back_as_they_were_put_down_in_any_order(
    rows: list[tuple[list[int], list[bool]]], token_type: Any, order: random.Random
) -> None:
    store = ChatRows(None, token_type)
    for row in rows:
        put(store, *row)
        if order.random() < 0.3:
            store.write()
    store.write()
    expected = [chat_row(*row) for row in rows if any(row[1])]
    assert list(store) == expected and len(store) == len(expected)
    numbers = list(range(len(expected)))
    order.shuffle(numbers)
    assert [store[number] for number in numbers] == [expected[number] for number in numbers]
    assert store.lengths.tolist() == [len(row.tokens) for row in expected]
    assert store.trained.tolist() == [row.trained for row in expected]


@given(rows=st.lists(st.tuples(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 1))), st.integers(0, 10**6))),
       has_types=st.booleans())  # fmt: skip
def test_rows_of_classes_come_back_too(rows: list[tuple[list[tuple[int, int]], int]], has_types: bool) -> None:
    store, expected = ClassRows(None, SHORT, has_types=has_types), []
    for pairs, label in rows:
        tokens, types = [token for token, _ in pairs], [kind for _, kind in pairs]
        store.put(tokens, types, label, 1)
        expected.append(ClassRow(tokens, label, types if has_types else None))
    store.write()
    assert list(store) == expected
    assert store.lengths.tolist() == [len(row.tokens) for row in expected]
    assert store.trained.tolist() == [1] * len(expected)


def test_rows_are_counted_and_named_as_in_any_sequence() -> None:
    store, expected = filled()
    assert (store[-1], store[3:7], store[::-5]) == (expected[-1], expected[3:7], expected[::-5])
    with pytest.raises(IndexError):
        store[20]
    assert expected[4] in store and store.index(expected[4]) == 4


def test_rows_of_equal_tokens_have_equal_checksums_and_others_hardly() -> None:
    store = ChatRows(None, SHORT)
    for number in range(3000):
        put(store, [number // 2, 5, number], [True, number % 2 == 0])  # what the last one is followed by is no token
    checksums = store.checksums
    assert (checksums[::2] == checksums[1::2]).all()
    assert len(set(checksums.tolist())) >= 1499


def test_a_row_takes_16_bytes_of_memory() -> None:
    store, _ = filled()
    arrays = (store._places, store._trained, store._checksums)
    assert sum(array.itemsize for array in arrays) == 16


def test_a_token_that_does_not_fit_is_not_made_another() -> None:
    with pytest.raises(OverflowError):
        ClassRows(None, SHORT, has_types=False).put([65536], [], 0, 1)


def test_tokens_are_as_narrow_as_the_vocabulary_allows() -> None:
    class Words:
        def __init__(self, largest: int) -> None:
            self.largest = largest

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "z": self.largest}

    assert [narrowest(Words(largest)) for largest in (10, 65535, 65536, 300_000)] == [SHORT, SHORT, WIDE, WIDE]


# ---- the file


@pytest.mark.parametrize(("kept", "row"), [(0, 1), (100, 8), (-1, 20)])
def test_a_file_that_was_cut_short_is_told_with_the_first_row_that_is_gone(kept: int, row: int) -> None:
    store, expected = filled()
    os.ftruncate(store._file.fileno(), kept % os.fstat(store._file.fileno()).st_size)
    with pytest.raises(RunError, match=f"damaged at row {row}") as caught:
        list(store)
    assert "bytes are there" in caught.value.detail and caught.value.hint
    assert store[: row - 1] == expected[: row - 1]


def test_a_file_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = filled()

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(RunError, match="damaged at row 3"):
        store[2]


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full.open("r+b", buffering=0))
    store = ChatRows(None, SHORT)
    put(store, [1, 2], [True])
    with pytest.raises(RunError, match="could not be kept") as caught:
        store.write()
    assert "space" in caught.value.detail and "disk" in caught.value.hint


def test_the_file_lies_in_the_folder_has_no_name_and_goes_with_the_store(tmp_path: Path) -> None:
    scratch = tmp_path / "run" / "scratch"
    store, _ = filled(scratch)
    number = store._file.fileno()
    assert os.fstat(number).st_dev == scratch.stat().st_dev and os.fstat(number).st_size > 0
    assert list(scratch.iterdir()) == []
    del store
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(number)


# ---- memory

PEAK = """
import json, sys
from pathlib import Path
import numpy as np
from transformers import AutoTokenizer
from core.data.tokens.encoding import encode
from core.data.records import Conversation, Message, RecordFile, write_records
from core.data.tokens.splits import EpochOrder, hold_out, lengths_of

def records(count):
    chance = np.random.default_rng(0)
    words = [f"word{number}" for number in range(3000)]
    for row in range(1, count + 1):
        answer = " ".join(words[place] for place in chance.integers(0, 3000, 60))
        yield Conversation(source_row=row, messages=(
            Message(role="user", content=f"Tell me {row} words"), Message(role="assistant", content=answer)))

folder, model, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
write_records(records(count), folder / "records.jsonl")
rows = encode(AutoTokenizer.from_pretrained(model), RecordFile(folder / "records.jsonl"), 512, folder).rows
train, held, _ = hold_out(rows, 0.1, 0)
order = EpochOrder(len(train), 8, 0, lengths_of(train))
tokens = sum(len(train[number].tokens) for step in range(order.steps) for number in order.rows_of_step(step))
tokens += sum(len(row.tokens) for row in held)
assert tokens == rows.lengths.sum()
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"tokens": tokens, "peak_bytes": 1024 * int(peak)}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_hardly_grows_with_the_number_of_rows(starter_folder: Path, tmp_path: Path) -> None:
    """Kept in lists, the rows of the larger dataset would take over 200 MB, and their records 100 MB."""
    found = {}
    for count in (2_000, 40_000):
        command = [sys.executable, "-c", PEAK, str(tmp_path), str(starter_folder), str(count)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        found[count] = json.loads(result.stdout)
    more_tokens = found[40_000]["tokens"] - found[2_000]["tokens"]
    assert more_tokens * 16 > 100e6  # two lists hold a pointer for each token
    assert found[40_000]["peak_bytes"] - found[2_000]["peak_bytes"] < 16e6
