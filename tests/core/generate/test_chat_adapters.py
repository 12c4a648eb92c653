"""Adapters come into a chat, again, anew or broken, over a base of any precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.adapters.inject import remove
from core.errors import AdapterError
from core.generate.chat import ChatModel
from tests.core.generate.asking import SHORT, deltas, pane, texts


def test_an_adapter_that_was_not_loaded_is_refused_and_not_answered_by_the_base(chat: ChatModel) -> None:
    with pytest.raises(AdapterError, match="No adapter zebra"):
        deltas(chat, [pane("zebra", SHORT)])


def test_loading_an_adapter_again_gives_the_same_key_and_the_same_answers(
    chat: ChatModel, keys: list[str], adapters: list[Path]
) -> None:
    before = texts(chat, [pane(keys[0], SHORT)])
    assert chat.load_adapter(adapters[0]) == keys[0]
    assert texts(chat, [pane(keys[0], SHORT)]) == before


def test_an_adapter_that_is_written_anew_is_read_anew(
    chat: ChatModel, keys: list[str], adapters: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(adapters[0], tmp_path / "one")
    assert chat.load_adapter(tmp_path / "one") == keys[0]
    shutil.rmtree(tmp_path / "one")
    shutil.copytree(adapters[1], tmp_path / "one")
    assert chat.load_adapter(tmp_path / "one") == keys[1]


def test_an_adapter_that_was_taken_out_is_put_in_again(
    tiny_folder: Path, chat: ChatModel, keys: list[str], adapters: list[Path]
) -> None:
    mine = ChatModel(tiny_folder, bits=32)
    key = mine.load_adapter(adapters[0])
    remove(mine.loaded.model, key)
    assert mine.load_adapter(adapters[0]) == key
    assert texts(mine, [pane(key, SHORT)]) == texts(chat, [pane(keys[0], SHORT)])


def test_a_broken_adapter_leaves_the_loaded_ones_alone(chat: ChatModel, keys: list[str], tmp_path: Path) -> None:
    before = texts(chat, [pane(key, SHORT) for key in keys])
    with pytest.raises(AdapterError):
        chat.load_adapter(tmp_path)
    assert texts(chat, [pane(key, SHORT) for key in keys]) == before


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_chat_works_over_a_base_of_any_precision(tiny_folder: Path, adapters: list[Path], bits: int) -> None:
    chat = ChatModel(tiny_folder, bits=bits)
    key = chat.load_adapter(adapters[1])
    base, adapted = texts(chat, [pane(None, SHORT), pane(key, SHORT)], max_new_tokens=5)
    assert base and adapted and base != adapted
