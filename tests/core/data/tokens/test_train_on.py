"""What is trained of a conversation, against the starter's ChatML read with a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import TrainOn
from core.data.records import Conversation, Message, Passage, Record
from core.data.tokens.batching import pack
from core.data.tokens.encoding import IGNORE, Row, encode
from core.errors import DataError
from tests.core.data.tokens.test_encoding import trained_text
from tests.core.tiny import conversation

LONG = 10**6
ANSWER = re.compile(r"(?s)(?<=<\|im_start\|>assistant\n).*?<\|im_end\|>")
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<>|"), max_size=12)
TURNS = st.lists(st.tuples(WORDS, WORDS, st.sampled_from([0, 1, 1])), min_size=1, max_size=4)


def weighed(turns: Sequence[tuple[str, str, int]]) -> Conversation:
    messages: list[Message] = []
    for question, answer, weight in turns:
        messages += [
            Message(role="user", content=question),
            Message(role="assistant", content=answer, weight=weight),
        ]
    return Conversation(messages=tuple(messages), source_row=1)


def expected(tokenizer: Any, talk: Conversation, train_on: TrainOn) -> Row:
    """By the text alone: answers stand between ChatML's marks, each of which is one token."""
    plain = [{"role": message.role, "content": message.content} for message in talk.messages]
    text = tokenizer.apply_chat_template(plain, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    weights = [message.weight for message in talk.messages if message.role == "assistant"]
    answers = [found.span() for found in ANSWER.finditer(text)]
    assert len(answers) == len(weights)
    chosen = [answers[-1]] if train_on == "last" and weights[-1] else []
    if train_on == "assistant":
        chosen = [span for span, weight in zip(answers, weights, strict=True) if weight]
    silent = [span for span, weight in zip(answers, weights, strict=True) if not weight]
    labels = []
    for token, (first, last) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        lies_in = [start <= first and last <= end for start, end in (silent if train_on == "everything" else chosen)]
        is_trained = not any(lies_in) if train_on == "everything" else any(lies_in)
        labels.append(token if is_trained else IGNORE)
    return Row(encoded["input_ids"][:-1], labels[1:])


@pytest.mark.parametrize("train_on", ["assistant", "last", "everything"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(talks=st.lists(TURNS.map(weighed), min_size=1, max_size=4))
def test_labels_are_those_of_the_turns_that_are_chosen(
    tokenizer: Any, talks: list[Conversation], train_on: TrainOn
) -> None:
    rows = [row for talk in talks if (row := expected(tokenizer, talk, train_on)).trained]
    if not rows:
        with pytest.raises(DataError, match="No row keeps anything"):
            encode(tokenizer, talks, LONG, train_on=train_on)
        return
    found = encode(tokenizer, talks, LONG, train_on=train_on)
    assert list(found.rows) == rows
    assert found.without_labels == len(talks) - len(rows)


def texts(tokenizer: Any, record: Record, train_on: TrainOn) -> list[str]:
    return trained_text(tokenizer, encode(tokenizer, [record], LONG, train_on=train_on).rows[0])


def test_the_last_turn_alone_can_be_trained(tokenizer: Any) -> None:
    talk = conversation("One?", "Yes, one.", "Two?", "Yes, two.", system="Be brief.")
    assert texts(tokenizer, talk, "last") == ["Yes, two.<|im_end|>"]


def test_every_token_can_be_trained_but_the_first_which_nothing_precedes(tokenizer: Any) -> None:
    talk = conversation("One?", "Yes, one.", system="Be brief.")
    (text,) = texts(tokenizer, talk, "everything")
    assert text == (
        "system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nYes, one.<|im_end|>\n"
    )


def test_an_answer_of_weight_0_is_read_and_never_learned(tokenizer: Any) -> None:
    talk = weighed([("One?", "Wrong.", 0), ("Two?", "Right.", 1)])
    assert texts(tokenizer, talk, "assistant") == texts(tokenizer, talk, "last") == ["Right.<|im_end|>"]
    before, after = texts(tokenizer, talk, "everything")
    assert before.endswith("<|im_start|>assistant\n") and after.endswith("Right.<|im_end|>\n")
    assert "Wrong." not in before + after


def test_a_passage_is_trained_on_every_token_whatever_is_chosen(tokenizer: Any) -> None:
    passage = Passage(text="Once upon a time.", source_row=1)
    assert texts(tokenizer, passage, "assistant") == texts(tokenizer, passage, "last")
    assert texts(tokenizer, passage, "assistant") == texts(tokenizer, passage, "everything")


def test_a_template_that_rewrites_earlier_turns_serves_for_the_last_one_and_for_everything(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] if loop.last else m['content'][:3] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    talk = conversation("Why?", "A long answer.", "And?", "Yes.")
    with pytest.raises(DataError, match="rewrites earlier turns") as caught:
        encode(tokenizer, [talk], LONG)
    assert "last turn alone" in caught.value.hint
    (text,) = texts(tokenizer, talk, "everything")
    assert "A l\n" in text and "Yes." in text


@pytest.mark.parametrize("train_on", ["assistant", "last", "everything"])
def test_packed_rows_have_the_labels_of_each_by_itself(tokenizer: Any, train_on: TrainOn) -> None:
    """Also where all begin with the same system prompt, which is laid out once if none of it is trained."""
    talks = [
        conversation("One?", f"Answer {n}.", "Two?", "Yes, two.", system="You are a pirate and answer in short words.")
        for n in range(3)
    ]
    rows = [expected(tokenizer, talk, train_on) for talk in talks]
    encoded = list(encode(tokenizer, talks, LONG, train_on=train_on).rows)
    batch = pack(encoded, torch.device("cpu"))
    assert (batch.shared > 0) == (train_on != "everything")
    assert batch.labels.tolist() == [label for row in rows for label in row.labels if label != IGNORE]
    follow = batch.tokens[0].roll(-1)  # inside a segment, a label is the token behind it
    places = batch.labeled[0].nonzero()[:, 0]
    inside = [int(place) for place in places if int(place) + 1 not in batch.bounds.tolist()]
    labels = dict(zip(places.tolist(), batch.labels.tolist(), strict=True))
    assert [labels[place] for place in inside] == follow[inside].tolist()
