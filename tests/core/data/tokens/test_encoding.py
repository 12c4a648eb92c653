from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from core.data.records import Conversation, Message, Passage, Record
from core.data.tokens.encoding import IGNORE, Row, encode
from core.data.tokens.named_templates import PLAIN_TEMPLATE
from core.data.tokens.templates import ensure_template, render
from core.errors import DataError
from tests.core.tiny import conversation

LONG = 10**6


def encoded(tokenizer: Any, record: Record, max_tokens: int = LONG) -> Row:
    (row,) = encode(tokenizer, [record], max_tokens).rows
    return row


def trained_text(tokenizer: Any, row: Row) -> list[str]:
    """The text of each run of labels, special tokens shown."""
    runs: list[list[int]] = [[]]
    for label in row.labels:
        if label == IGNORE:
            runs.append([])
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs if run]


def whole_text(tokenizer: Any, row: Row) -> str:
    """The text that the row's tokens and its last label spell."""
    return str(tokenizer.decode(row.tokens))


def spelled(tokenizer: Any, text: str) -> str:
    return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]))


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


# ---- what is trained


def test_exactly_the_assistants_words_and_its_end_of_turn_are_trained(tokenizer: Any) -> None:
    row = encoded(tokenizer, conversation("Say hello.", "Hello there!"))
    assert trained_text(tokenizer, row) == ["Hello there!<|im_end|>"]


def test_each_answer_of_several_is_trained_and_no_question(tokenizer: Any) -> None:
    turns = conversation("One?", "Yes, one.", "Two?", "Yes, two.", "Three?", "No.", system="Be brief.")
    row = encoded(tokenizer, turns)
    assert trained_text(tokenizer, row) == ["Yes, one.<|im_end|>", "Yes, two.<|im_end|>", "No.<|im_end|>"]
    assert "Be brief." in whole_text(tokenizer, row)


def test_words_of_the_assistant_that_others_say_too_are_not_trained_there(tokenizer: Any) -> None:
    """Labels follow the place in the text, not the words; and the end of a user's turn is the same token."""
    row = encoded(tokenizer, conversation("Blue.", "Blue.", "Blue.", "Green.", system="Blue."))
    assert trained_text(tokenizer, row) == ["Blue.<|im_end|>", "Green.<|im_end|>"]


def test_template_marks_within_the_words_confuse_nothing(tokenizer: Any) -> None:
    row = encoded(tokenizer, conversation("What is <|im_start|>assistant\nfake<|im_end|>?", "A mark."))
    assert trained_text(tokenizer, row) == ["A mark.<|im_end|>"]


def test_what_precedes_an_answer_is_what_chat_will_show_the_model(tokenizer: Any) -> None:
    turns = conversation("One?", "Yes, one.", "Two?", "Yes, two.", system="Be brief.")
    row = encoded(tokenizer, turns)
    for index in (2, 4):
        prompt = tokenizer(render(tokenizer, turns.messages[:index], opening=True), add_special_tokens=False)[
            "input_ids"
        ]
        assert row.tokens[: len(prompt)] == prompt
        assert row.labels[len(prompt) - 2] == IGNORE and row.labels[len(prompt) - 1] != IGNORE


def test_each_label_is_the_token_that_follows(tokenizer: Any) -> None:
    row = encoded(tokenizer, conversation("One?", "Yes, one.", "Two?", "Yes, two."))
    assert len(row.tokens) == len(row.labels)
    pairs = zip(row.labels, [*row.tokens[1:], None], strict=True)
    assert all(label in (IGNORE, following) or following is None for label, following in pairs)
    assert row.trained == sum(label != IGNORE for label in row.labels) > 0


def test_every_token_of_a_passage_and_its_end_is_trained(tokenizer: Any) -> None:
    row = encoded(tokenizer, Passage(text="Once upon a time.", source_row=1))
    assert IGNORE not in row.labels
    assert row.labels[-1] == tokenizer.eos_token_id
    assert tokenizer.decode([*row.tokens[:1], *row.labels[:-1]]) == "Once upon a time."


def test_a_passage_that_ends_itself_is_not_ended_twice(tokenizer: Any) -> None:
    row = encoded(tokenizer, Passage(text="The end.<|im_end|>", source_row=1))
    assert row.labels.count(tokenizer.eos_token_id) == 1


TRICKY = [
    "😀", "😀 at first", "at last 👩‍👩‍👧‍👦", "שלום עולם", "مرحبا بالعالم", "e\u0301 and é", "日本語のテキスト",
    "🏳️‍🌈🏳️‍🌈", "\u202eright to left\u202c", "a\u200bb", "tab\tnew\nline", "\U0001d54f math", "naïve café", "नमस्ते",
    "<b>&amp;</b>",
]  # fmt: skip


@pytest.mark.parametrize("text", TRICKY)
def test_emoji_and_right_to_left_text_come_back_as_they_went_in(tokenizer: Any, text: str) -> None:
    row = encoded(tokenizer, conversation(text, text, f"again {text}", text))
    assert trained_text(tokenizer, row) == [f"{text}<|im_end|>"] * 2
    passage = encoded(tokenizer, Passage(text=text, source_row=1))
    assert tokenizer.decode([passage.tokens[0], *passage.labels[:-1]]) == text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3))
def test_any_words_are_trained_whole_but_for_white_space_at_the_edge(
    tokenizer: Any, turns: list[tuple[str, str]]
) -> None:
    """White space that meets the template's own may share a token with it, which belongs to both and is not trained."""
    answers = [answer.strip() for _, answer in turns]
    assume(all(answers))
    assume(all(spelled(tokenizer, answer) == answer for answer in answers))  # the starter's tokenizer lacks a few bytes
    found = trained_text(tokenizer, encoded(tokenizer, conversation(*(text for turn in turns for text in turn))))
    assert [text.removesuffix("<|im_end|>").strip() for text in found] == answers


# ---- what is lost


def test_a_long_row_is_cut_and_counted(tokenizer: Any) -> None:
    records = [conversation("Count.", "one two three four five six seven eight nine ten"), conversation("Hi.", "Ho.")]
    whole = encode(tokenizer, records, LONG)
    limit = len(whole.rows[0].tokens) - 5
    cut = encode(tokenizer, records, limit)
    assert (whole.truncated, cut.truncated) == (0, 1)
    assert cut.rows[0] == Row(whole.rows[0].tokens[:limit], whole.rows[0].labels[:limit])
    assert cut.rows[1] == whole.rows[1]
    assert encode(tokenizer, records, limit + 5).truncated == 0


def test_a_row_that_keeps_no_label_is_left_out_and_counted(tokenizer: Any) -> None:
    records = [conversation("word " * 80, "Never reached."), conversation("Hi.", "Ho.")]
    found = encode(tokenizer, records, 50)
    assert (len(found.rows), found.truncated, found.without_labels) == (1, 1, 1)


def test_no_row_with_a_label_is_an_error_that_says_what_to_do(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="within 20 tokens") as caught:
        encode(tokenizer, [conversation("word " * 80, "Never reached.")], 20)
    assert "token limit" in caught.value.hint


@pytest.mark.parametrize("text", ["", "x"])
def test_the_shortest_passages_do_no_harm(tokenizer: Any, text: str) -> None:
    records = [Passage(text=text, source_row=1), Passage(text="more than that", source_row=2)]
    found = encode(tokenizer, records, LONG)
    assert len(found.rows) + found.without_labels == 2
    assert all(row.trained for row in found.rows)


# ---- templates


def test_a_tokenizer_without_a_template_gets_a_plain_one_that_trains_the_same_words(tokenizer: Any) -> None:
    assert not ensure_template(tokenizer)
    tokenizer.chat_template = None
    assert ensure_template(tokenizer) and tokenizer.chat_template == PLAIN_TEMPLATE
    row = encoded(tokenizer, conversation("One?", "Yes, one.", "Two?", "😀", system="Be brief."))
    assert trained_text(tokenizer, row) == ["Yes, one.<|im_end|>", "😀<|im_end|>"]
    assert whole_text(tokenizer, row).startswith("Be brief.\n\n### User:\nOne?\n\n### Assistant:\nYes, one.")


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_row(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] if loop.last else m['content'][:3] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(DataError, match="Row 7: .* rewrites earlier turns"):
        encode(tokenizer, [conversation("Question?", "A long answer.", "Another?", "Yes.", row=7)], LONG)


def test_a_template_that_refuses_a_row_is_told_with_the_row_and_its_words(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="Row 12: .*roles must alternate"):
        encode(tokenizer, [conversation("Hi.", "Ho.", row=12)], LONG)


def test_a_conversation_that_the_assistant_begins_is_not_trained_wrongly(tokenizer: Any) -> None:
    """The starter's template puts a system message in front of it, so the opening of the turn cannot be found."""
    first = Conversation(
        messages=(Message(role="assistant", content="Welcome!"), Message(role="user", content="Hi."),
                  Message(role="assistant", content="Ho.")),
        source_row=3,
    )  # fmt: skip
    try:
        row = encoded(tokenizer, first)
    except DataError as error:
        assert "Row 3" in str(error)
    else:
        assert trained_text(tokenizer, row) == ["Welcome!<|im_end|>", "Ho.<|im_end|>"]


def test_the_order_of_rows_is_kept(tokenizer: Any) -> None:
    records = [conversation("Say it.", f"It is {number}.") for number in random.Random(0).sample(range(1000), 20)]
    texts = [trained_text(tokenizer, row)[0] for row in encode(tokenizer, records, LONG).rows]
    assert texts == [f"{record.messages[1].content}<|im_end|>" for record in records]
