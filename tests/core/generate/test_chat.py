"""What a chat answers: as transformers does, each pane as alone, turn after turn, until it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, OPTForCausalLM

from core.adapters.inject import lora_layers
from core.data.tokens.templates import render
from core.errors import ModelError, UserError
from core.generate.chat import ChatModel
from core.generate.ends import end_tokens
from core.generate.requests import PaneRequest, Sampling
from tests.core.generate.asking import LONG, SHORT, deltas, long_answer, pane, texts
from tests.core.tiny import VOCABULARY, tiny_llama


def test_each_pane_of_a_mixed_batch_says_what_it_says_alone(chat: ChatModel, keys: list[str]) -> None:
    """Base and adapters of other ranks, over conversations of other lengths and turns."""
    panes = [
        pane(None, SHORT),
        pane(keys[0], LONG),
        pane(keys[1], SHORT, "Hello.", LONG),
        pane(None, LONG),
        pane(keys[0], SHORT),
    ]
    together = texts(chat, panes)
    assert together == [texts(chat, [alone])[0] for alone in panes]
    assert len(set(together)) == len(panes)


def generated(folder: Path, asked: PaneRequest, max_new_tokens: int) -> str:
    """What transformers' own `generate` answers."""
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(render(tokenizer, asked.messages, opening=True), add_special_tokens=False, return_tensors="pt")
    inputs = {"input_ids": prompt["input_ids"], "attention_mask": prompt["attention_mask"]}
    output = reference.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=2)[0]
    return str(tokenizer.decode(output[inputs["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.mark.parametrize("question", [SHORT, LONG])
def test_the_base_says_what_transformers_own_generate_says(chat: ChatModel, tiny_folder: Path, question: str) -> None:
    asked = pane(None, question)
    assert texts(chat, [asked], max_new_tokens=20) == [generated(tiny_folder, asked, 20)]


def test_learned_positions_count_from_each_rows_own_first_token(tiny_folder: Path, tmp_path: Path) -> None:
    """Rotary positions are relative and would not notice the padding; OPT's are looked up in a table."""
    torch.manual_seed(0)
    config = OPTConfig(
        hidden_size=64, ffn_dim=96, word_embed_proj_dim=64, num_hidden_layers=2, num_attention_heads=4, init_std=0.1,
        vocab_size=VOCABULARY, max_position_embeddings=256, pad_token_id=None, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    chat = ChatModel(tmp_path, bits=32)
    panes = [pane(None, SHORT), pane(None, LONG)]
    assert texts(chat, panes) == [generated(tmp_path, one, 12) for one in panes]


def test_totals_run_on_and_each_pane_ends_once(chat: ChatModel, keys: list[str]) -> None:
    seen = deltas(chat, [pane(None, SHORT), pane(keys[0], LONG)])
    for index in (0, 1):
        mine = [delta for delta in seen if delta.pane == index]
        assert [delta.tokens for delta in mine] == list(range(1, len(mine) + 1))
        assert [delta.seconds for delta in mine] == sorted(delta.seconds for delta in mine)
        assert [delta.done for delta in mine] == [False] * (len(mine) - 1) + [True]


def test_an_answer_ends_at_the_end_of_turn_and_its_mark_is_not_shown(chat: ChatModel) -> None:
    """With what the base says fourth made an end token, the answer is its first three."""
    whole = deltas(chat, [pane(None, SHORT)], max_new_tokens=6)
    tokenizer = chat.loaded.tokenizer
    said = tokenizer("".join(delta.text for delta in whole), add_special_tokens=False)["input_ids"]
    settings = chat.loaded.model.generation_config
    original, ends = settings.eos_token_id, chat._ends
    try:
        settings.eos_token_id = [original, said[3]]
        chat._ends = end_tokens(chat.loaded)
        ended = deltas(chat, [pane(None, SHORT)], max_new_tokens=6)
    finally:
        settings.eos_token_id, chat._ends = original, ends
    first = said.index(said[3])
    assert ended[-1].done and ended[-1].tokens == first + 1 and ended[-1].text == ""
    assert "".join(delta.text for delta in ended) == tokenizer.decode(said[:first])


def test_the_place_where_an_adapter_parts_from_the_base_is_told_whatever_their_order(
    chat: ChatModel, keys: list[str]
) -> None:
    for panes in ([pane(None, SHORT), pane(keys[0], SHORT)], [pane(keys[0], SHORT), pane(None, SHORT)]):
        base, other = (0, 1) if panes[0].adapter is None else (1, 0)
        seen = deltas(chat, panes)
        alone = [[delta.text for delta in deltas(chat, [one])] for one in panes]
        first = next(i for i, pair in enumerate(zip(*alone, strict=True), start=1) if pair[0] != pair[1])
        told = [delta.differs_at for delta in seen if delta.pane == other]
        assert told == [None] * (first - 1) + [first] * (len(told) - first + 1)
        assert all(delta.differs_at is None for delta in seen if delta.pane == base)


def test_a_difference_in_the_very_last_token_is_told(chat: ChatModel, keys: list[str]) -> None:
    told = deltas(chat, [pane(keys[0], SHORT), pane(None, SHORT)], max_new_tokens=1)
    assert told[0].text != told[1].text and told[0].differs_at == 1


def conversation(chat: ChatModel, adapters: Sequence[str | None], questions: Sequence[str]) -> list[list[str]]:
    """Each question's answers, asked one after another in as many panes as there are adapters."""
    turns: list[list[str]] = [[] for _ in adapters]
    said = []
    for question in questions:
        panes = [pane(key, *before, question) for key, before in zip(adapters, turns, strict=True)]
        said.append(texts(chat, panes))
        turns = [[*before, question, answer] for before, answer in zip(turns, said[-1], strict=True)]
    return said


def test_a_conversation_of_several_turns_goes_the_way_it_goes_without_memory(
    chat: ChatModel, tiny_folder: Path, adapters: list[Path]
) -> None:
    keeping = ChatModel(tiny_folder, bits=32)
    panes = [None, *(keeping.load_adapter(folder) for folder in adapters)]
    questions = [SHORT, LONG, "Why?", LONG]
    assert conversation(keeping, panes, questions) == conversation(chat, panes, questions)
    assert keeping.decoder.kept.bytes > 0 and chat.decoder.kept.bytes == 0
    assert conversation(keeping, panes[::-1], questions) == conversation(chat, panes[::-1], questions)


def test_an_answer_that_was_stopped_or_left_is_kept_as_far_as_it_came(chat: ChatModel, tiny_folder: Path) -> None:
    keeping = ChatModel(tiny_folder, bits=32)
    stopped = list(keeping.reply([long_answer(None, SHORT)], lambda: True))
    after_one = keeping.decoder.kept.bytes
    left = keeping.reply([long_answer(None, SHORT)], lambda: False)
    for _ in range(4):
        next(left)
    left.close()  # type: ignore[attr-defined]
    assert len(stopped) == 1 and keeping.decoder.kept.bytes > after_one > 0
    assert texts(keeping, [pane(None, SHORT)]) == texts(chat, [pane(None, SHORT)])


def test_stopping_ends_all_panes_after_the_token_under_way(chat: ChatModel, keys: list[str]) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    seen = list(chat.reply([long_answer(None, SHORT), long_answer(keys[0], LONG)], stop))
    assert [(delta.pane, delta.tokens) for delta in seen] == [(i, n) for n in (1, 2, 3) for i in (0, 1)]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_an_answer_ends_before_a_stop_and_the_others_go_on(chat: ChatModel, length: int) -> None:
    (whole,) = texts(chat, [pane(None, SHORT)])
    stop = whole[6 : 6 + length]
    asked = [replace(pane(None, SHORT), stop=(stop,)), pane(None, SHORT)]
    seen = deltas(chat, asked)
    said = ["".join(delta.text for delta in seen if delta.pane == index) for index in (0, 1)]
    assert said == [whole[: whole.find(stop)], whole]
    last = [[delta for delta in seen if delta.pane == index][-1] for index in (0, 1)]
    assert [delta.ended for delta in last] == ["stop", "length"]
    assert last[0].tokens < last[1].tokens == 12


def test_a_text_is_gone_on_with_as_it_is_and_its_tokens_are_counted(chat: ChatModel, tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    text = "Once upon a time"
    (seen, *_) = deltas(chat, [replace(pane(None), text=text)])
    assert seen.prompt_tokens == len(tokenizer(text)["input_ids"])
    assert texts(chat, [replace(pane(None), text=text)]) != texts(chat, [pane(None, text)])
    with pytest.raises(UserError, match="empty"):
        deltas(chat, [replace(pane(None), text="")])


def test_an_answer_that_nobody_reads_on_leaves_the_model_as_it_was(chat: ChatModel, keys: list[str]) -> None:
    expected = texts(chat, [pane(None, SHORT)])
    replies = chat.reply([long_answer(keys[0], SHORT)], lambda: False)
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert all(layer.rows is None for layer in lora_layers(chat.loaded.model).values())
    assert texts(chat, [pane(None, SHORT)]) == expected


def test_the_same_seed_repeats_and_another_does_not(chat: ChatModel, keys: list[str]) -> None:
    panes = [pane(None, SHORT), pane(keys[1], LONG)]
    one = texts(chat, panes, temperature=1.0, seed=7)
    assert texts(chat, panes, temperature=1.0, seed=7) == one
    assert texts(chat, panes, temperature=1.0, seed=8) != one
    assert texts(chat, panes[1:], temperature=1.0, seed=7) == one[1:]


def test_each_pane_follows_its_own_sampling(chat: ChatModel, keys: list[str]) -> None:
    samplings = [
        Sampling(max_new_tokens=12),
        Sampling(max_new_tokens=5, temperature=1.0, seed=7),
        Sampling(max_new_tokens=9, temperature=0.7, top_p=0.8, seed=1),
    ]
    asked = zip([pane(None, SHORT), pane(keys[0], LONG), pane(keys[1], SHORT)], samplings, strict=True)
    panes = [replace(one, sampling=sampling) for one, sampling in asked]
    said = list(chat.reply(panes, lambda: False))
    for number, alone in enumerate(panes):
        together = [(delta.text, delta.tokens, delta.done) for delta in said if delta.pane == number]
        assert together == [(delta.text, delta.tokens, delta.done) for delta in chat.reply([alone], lambda: False)]


def test_a_penalty_counts_the_prompt_and_the_answer_as_transformers_does(chat: ChatModel, tiny_folder: Path) -> None:
    asked, penalty = pane(None, LONG), 1.7
    prompt = chat._tokenize(asked)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    settings = {"do_sample": False, "max_new_tokens": 12, "repetition_penalty": penalty}
    found = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **settings)[0]
    expected = chat.loaded.tokenizer.decode(found[len(prompt) :], skip_special_tokens=True)
    plain = texts(chat, [asked])
    assert texts(chat, [asked, asked], repetition_penalty=penalty) == [expected] * 2 != plain * 2


def test_a_tiny_nucleus_is_greedy(chat: ChatModel) -> None:
    assert texts(chat, [pane(None, LONG)], temperature=1.0, top_p=1e-6) == texts(chat, [pane(None, LONG)])


def test_a_conversation_that_fills_the_model_is_refused_and_one_that_nearly_does_ends_there(chat: ChatModel) -> None:
    limit = tiny_llama().config.max_position_embeddings
    with pytest.raises(UserError, match=f"the model reads {limit}") as caught:
        deltas(chat, [pane(None, "word " * limit)])
    assert caught.value.hint
    nearly = "word " * (limit - 60)
    prompt = len(chat._tokenize(pane(None, nearly)))
    assert limit - 60 < prompt < limit
    seen = deltas(chat, [pane(None, nearly), pane(None, SHORT)], max_new_tokens=limit - prompt + 5)
    ends = {delta.pane: delta.tokens for delta in seen if delta.done}
    assert ends == {0: limit - prompt, 1: limit - prompt + 5}


@pytest.mark.parametrize("text", ["😀 and 👩‍👩‍👧‍👦!", "שלום, مرحبا", "日本語 text", " leading space", "a\n\n  b"])
def test_characters_of_several_tokens_come_whole_and_all_text_comes(chat: ChatModel, text: str) -> None:
    row = chat._new_row(pane(None, text), [1])
    tokens = chat.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = [chat._extend(row, token) for token in tokens]
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


def test_a_template_that_refuses_is_told(chat: ChatModel) -> None:
    tokenizer = chat.loaded.tokenizer
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
        with pytest.raises(UserError, match="no system messages"):
            deltas(chat, [pane(None, SHORT)])
    finally:
        tokenizer.chat_template = template


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        ChatModel(tmp_path)


def test_a_base_without_a_template_says_so_and_answers_all_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    chat = ChatModel(tmp_path, bits=32)
    assert not chat.has_own_template and texts(chat, [pane(None, SHORT)])[0]


def test_the_starter_answers_in_words(starter_folder: Path) -> None:
    chat = ChatModel(starter_folder, bits=32)
    assert chat.has_own_template
    (said,) = texts(chat, [pane(None, "What is the capital of France? Answer in one word.")], max_new_tokens=12)
    assert "Paris" in said
