"""The templates that come with the workbench, as their families write them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import TemplateName, parse
from core.data.records import Conversation, Message
from core.data.tokens.encoding import encode, marked_turns
from core.data.tokens.named_templates import TEMPLATES
from core.data.tokens.templates import ChatTemplate, choose_template, end_of_turn, has_our_template, saved_template
from core.errors import AdapterError, ConfigError, DataError
from tests.core.data.tokens.test_encoding import trained_text
from tests.core.tiny import conversation

NAMES = [*TEMPLATES]
TALK = conversation("One?", "Yes.", "Two?", "No.", system="Be brief.")
# For a model whose texts begin with <s> and end with </s>.
WRITTEN = {
    "plain": (
        "Be brief.\n\n### User:\nOne?\n\n### Assistant:\nYes.</s>\n\n### User:\nTwo?\n\n### Assistant:\nNo.</s>\n\n"
    ),
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nYes."
        "<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nOne?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nTwo?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nNo.<|eot_id|>"
    ),
    "mistral": "<s>[INST] Be brief.\n\nOne? [/INST] Yes.</s>[INST] Two? [/INST] No.</s>",
    "gemma": (
        "<s><start_of_turn>user\nBe brief.\n\nOne?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
        "<start_of_turn>user\nTwo?<end_of_turn>\n<start_of_turn>model\nNo.<end_of_turn>\n"
    ),
    "zephyr": (
        "<|system|>\nBe brief.</s>\n<|user|>\nOne?</s>\n<|assistant|>\nYes.</s>\n<|user|>\nTwo?</s>\n"
        "<|assistant|>\nNo.</s>\n"
    ),
    "alpaca": (
        "Be brief.\n\n### Instruction:\nOne?\n\n### Response:\nYes.</s>\n\n### Instruction:\nTwo?\n\n"
        "### Response:\nNo.</s>\n\n"
    ),
    "vicuna": "Be brief. USER: One? ASSISTANT: Yes.</s>USER: Two? ASSISTANT: No.</s>",
}
WORDS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["", " edge ", "\n", "{{ x }}", "😀"])
TALKS = st.builds(
    lambda system, turns: conversation(*(text for turn in turns for text in turn), system=system),
    st.none() | WORDS,
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3),
)


def test_every_name_that_a_config_takes_is_a_template_with_a_title_and_a_sentence() -> None:
    assert set(TEMPLATES) == set(get_args(TemplateName)) == set(WRITTEN)
    assert len({template.title for template in TEMPLATES.values()}) == len(TEMPLATES)
    assert all(template.sentence.endswith(".") for template in TEMPLATES.values())
    with pytest.raises(ConfigError, match="Template is 'chatml2'") as caught:
        parse({"name": "run", "data": {"dataset_id": "d", "template": "chatml2"}})
    assert caught.value.field == "data.template" and "'llama3'" in caught.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_is_written_as_its_family_does(tokenizer: Any, name: TemplateName) -> None:
    marked = copy.deepcopy(tokenizer)
    marked.bos_token, marked.eos_token = "<s>", "</s>"
    choose_template(marked, name)
    text, _ = ChatTemplate(marked).placed_turns(TALK, [])
    assert text == WRITTEN[name]
    plain = [{"role": message.role, "content": message.content} for message in TALK.messages]
    assert text == marked.apply_chat_template(plain, tokenize=False)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(talk=TALKS)
def test_each_answer_is_found_with_its_end_whatever_is_said(
    tokenizer: Any, name: TemplateName, talk: Conversation
) -> None:
    choose_template(tokenizer, name)
    end = "".join(TEMPLATES[name].tokens[-1:]) or tokenizer.eos_token
    text, spans = ChatTemplate(tokenizer).placed_turns(talk, marked_turns(talk, "assistant"))
    answers = [message.content for message in talk.messages if message.role == "assistant"]
    blank = " " if name in ("mistral", "vicuna") else ""
    assert [text[first:last] for first, last in spans] == [f"{blank}{answer}{end}" for answer in answers]


def test_marks_that_the_model_lacks_are_told_and_those_that_it_has_are_not(tokenizer: Any) -> None:
    assert choose_template(tokenizer, "chatml") == ()
    lacking = choose_template(tokenizer, "gemma")
    assert [remark.split(" is not one token of this model")[0] for remark in lacking] == [
        "<start_of_turn>",
        "<end_of_turn>",
    ]
    taught = copy.deepcopy(tokenizer)
    taught.add_tokens(["<start_of_turn>", "<end_of_turn>"])
    assert choose_template(taught, "gemma") == ()
    assert end_of_turn(taught, taught.chat_template) == {taught.convert_tokens_to_ids("<end_of_turn>")}
    assert end_of_turn(tokenizer, tokenizer.chat_template) == frozenset()


def test_an_end_that_the_model_has_no_token_for_is_told(tokenizer: Any) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    (remark,) = choose_template(endless, "alpaca")
    assert "no token that ends a text" in remark
    text, _ = ChatTemplate(endless).placed_turns(TALK, [])
    assert text == WRITTEN["alpaca"].replace("</s>", "")


@pytest.mark.parametrize("name", NAMES)
def test_the_end_of_an_answer_is_a_token_where_the_model_has_it(tokenizer: Any, name: TemplateName) -> None:
    choose_template(tokenizer, name)
    has_mark = name not in ("llama3", "gemma")
    assert end_of_turn(tokenizer, TEMPLATES[name].jinja) == ({tokenizer.eos_token_id} if has_mark else set())


def test_without_a_name_the_models_own_stays(tokenizer: Any) -> None:
    own = tokenizer.chat_template
    assert choose_template(tokenizer, None) == () and tokenizer.chat_template == own
    assert not has_our_template(tokenizer)
    choose_template(tokenizer, "vicuna")
    assert has_our_template(tokenizer)


def test_a_template_travels_in_the_tokenizers_files(tokenizer: Any, tmp_path: Path) -> None:
    assert saved_template(tmp_path) is None
    choose_template(tokenizer, "zephyr")
    tokenizer.save_pretrained(tmp_path / "new")
    assert saved_template(tmp_path / "new") == TEMPLATES["zephyr"].jinja
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))  # an older file
    assert saved_template(tmp_path) == "{{ messages }}"
    for nothing in ({"chat_template": [{"name": "default"}]}, {}, []):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(nothing))
        assert saved_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": ')
    with pytest.raises(AdapterError, match="cannot be read"):
        saved_template(tmp_path)


TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
CALL = json.dumps([{"type": "function", "function": {"name": "weather", "arguments": {"place": "Köln <3"}}}])


def asking(*, tools: str | None = TOOLS, call: str | None = CALL, result: str | None = "rain") -> Conversation:
    messages = [Message(role="user", content="Umbrella?"), Message(role="assistant", content="", tool_calls=call)]
    if result is not None:
        messages.append(Message(role="tool", content=result, name="weather"))
    messages.append(Message(role="assistant", content="Yes."))
    return Conversation(messages=tuple(messages), source_row=5, tools=tools)


def test_tools_their_calls_and_their_answers_are_written_where_the_template_has_a_place(tokenizer: Any) -> None:
    choose_template(tokenizer, "chatml")
    row = encode(tokenizer, [asking()], 10**6).rows[0]
    text = tokenizer.decode([*row.tokens, row.labels[-1]] if row.labels[-1] > 0 else row.tokens)
    assert '<tools>\n{"type": "function", "function": {"name": "weather"' in text
    assert "<|im_start|>tool\n<tool_response>\nrain\n</tool_response><|im_end|>" in text
    assert trained_text(tokenizer, row) == [
        '<tool_call>\n{"name": "weather", "arguments": {"place": "Köln <3"}}\n</tool_call><|im_end|>',
        "Yes.<|im_end|>",
    ]


def test_another_makers_template_gets_the_tools_as_transformers_gives_them(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
        "{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}{{ m['name'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    text, _ = ChatTemplate(tokenizer).placed_turns(asking(), [1, 3])
    plain: list[dict[str, Any]] = [
        {"role": "user", "content": "Umbrella?"},
        {"role": "assistant", "content": "", "tool_calls": json.loads(CALL)},
        {"role": "tool", "content": "rain", "name": "weather"},
        {"role": "assistant", "content": "Yes."},
    ]
    assert text == tokenizer.apply_chat_template(plain, tokenize=False, tools=json.loads(TOOLS))


def test_of_several_templates_the_one_for_tools_is_taken_where_there_are_tools(tokenizer: Any) -> None:
    for_tools = "{{ tools | length }} tools{% for m in messages %} {{ m['content'] }}{{ m['tool_calls'] }}{% endfor %}"
    tokenizer.chat_template = {"default": "{{ messages | length }} messages", "tool_use": for_tools + "{{ tools }}"}
    text, _ = ChatTemplate(tokenizer).placed_turns(asking(result=None, call=None), [])
    assert text.startswith("1 tools Umbrella?")
    assert ChatTemplate(tokenizer).placed_turns(TALK, [])[0] == "5 messages"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "chatml"])
@pytest.mark.parametrize(
    ("talk", "says"),
    [
        (asking(), "does not show which tools there are"),
        (asking(tools=None), "has no place for calls of tools"),
        (asking(tools=None, call=None), "has no place for what tools answer"),
    ],
)
def test_what_a_template_would_pass_over_in_silence_is_refused(
    tokenizer: Any, name: TemplateName, talk: Conversation, says: str
) -> None:
    choose_template(tokenizer, name)
    with pytest.raises(DataError, match=f"Row 5: .*{says}") as caught:
        encode(tokenizer, [talk], 10**6)
    assert "ChatML" in caught.value.hint


def test_the_starters_own_template_has_no_place_for_calls_and_says_so(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="has no place for calls of tools"):
        encode(tokenizer, [asking(tools=None)], 10**6)
