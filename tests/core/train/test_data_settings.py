"""What is trained, and with which template, from a config to the events, the adapter's files and the chat."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from core.data.records import Message
from core.data.tokens.encoding import encode
from core.data.tokens.named_templates import TEMPLATES
from core.data.tokens.templates import choose_template, saved_template
from core.events import Started
from core.generate.chat import ChatModel
from core.generate.requests import PaneRequest, Sampling
from tests.core.tiny import conversation, tiny_llama
from tests.core.train.running import RECORDS, Make, notes, of_kind

TALKS = [
    conversation("Color?", f"Color {number}.", "Sure?", "Yes, I am.", system="Be brief.", row=number + 1)
    for number in range(6)
]


@pytest.mark.parametrize("train_on", ["assistant", "last", "everything"])
def test_a_run_trains_the_tokens_that_were_chosen(make: Make, tiny_folder: Path, train_on: Any) -> None:
    run = make(records=TALKS, data={"holdout": 0, "train_on": train_on}, optim={"steps": 1})
    (started,) = of_kind(list(run.events()), Started)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    rows = encode(tokenizer, TALKS, 1024, train_on=train_on).rows
    assert started.trained_tokens_per_epoch == sum(row.trained for row in rows)
    others = {kind: encode(tokenizer, TALKS, 1024, train_on=kind) for kind in ("assistant", "last", "everything")}
    counts = [int(found.rows.trained.sum()) for found in others.values()]
    assert len({*counts}) == 3 and started.trained_tokens_per_epoch == counts[list(others).index(train_on)]


def test_a_chosen_template_is_told_saved_with_the_adapter_and_named_on_its_card(make: Make) -> None:
    run = make(data={"template": "gemma"}, optim={"steps": 1})
    said = notes(list(run.events()))
    assert "<start_of_turn> is not one token of this model" in said and "no chat template" not in said
    assert saved_template(run.output) == TEMPLATES["gemma"].jinja
    card = (run.output / "README.md").read_text()
    assert "the chat template Gemma" in card and 'AutoTokenizer.from_pretrained("path/to/this/folder")' in card


def test_marks_that_join_the_vocabulary_are_not_missed(make: Make) -> None:
    tokens = ["<start_of_turn>", "<end_of_turn>"]
    run = make(data={"template": "gemma"}, lora={"new_tokens": tokens}, optim={"steps": 1})
    assert "not one token" not in notes(list(run.events()))


def reply(chat: ChatModel, adapter: str | None) -> str:
    messages = (Message(role="user", content="Color 3?"),)
    sampling = Sampling(max_new_tokens=8, temperature=0.0, top_p=1.0, seed=0)
    pane = PaneRequest(adapter=adapter, messages=messages, sampling=sampling)
    return "".join(delta.text for delta in chat.reply([pane], lambda: False))


def test_chat_puts_conversations_before_an_adapter_as_it_was_taught_and_before_the_base_as_it_was(
    make: Make, tiny_folder: Path, tmp_path: Path
) -> None:
    run = make(records=RECORDS, data={"template": "alpaca"}, optim={"steps": 30})
    list(run.events())
    chat = ChatModel(tiny_folder, bits=32)
    before = reply(chat, None)
    key = chat.load_adapter(run.output)

    alpaca = tmp_path / "alpaca base"
    tiny_llama().save_pretrained(alpaca)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    choose_template(tokenizer, "alpaca")
    tokenizer.save_pretrained(alpaca)
    bare = shutil.copytree(run.output, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    assert saved_template(bare) is None
    other = ChatModel(alpaca, bits=32)

    taught = reply(chat, key)
    assert taught == reply(other, other.load_adapter(bare)) and taught.startswith("It is ")
    assert reply(chat, None) == before != reply(other, None)
    assert reply(chat, chat.load_adapter(bare)) != taught
    assert reply(chat, chat.load_adapter(run.output)) == taught


def test_an_answer_ends_at_the_mark_of_the_template_that_was_taught(
    make: Make, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`<file_sep>` stands for a mark that the base knows as a token and does not end its answers with."""
    run = make(optim={"steps": 1})
    list(run.events())
    template = "{% for m in messages %}{{ m['content'] + '<file_sep>' }}{% endfor %}"
    ours = {**TEMPLATES, "plain": replace(TEMPLATES["plain"], jinja=template)}
    monkeypatch.setattr("core.data.tokens.templates.TEMPLATES", ours)
    (run.output / "chat_template.jinja").write_text(template)
    chat = ChatModel(tiny_folder, bits=32)
    key = chat.load_adapter(run.output)
    (token,) = chat.loaded.tokenizer("<file_sep>", add_special_tokens=False)["input_ids"]
    taught, base = (PaneRequest(adapter=adapter, messages=()) for adapter in (key, None))
    assert chat._new_row(taught, [1]).ends == chat._ends | {token}
    assert chat._new_row(base, [1]).ends == chat._ends
