from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data.records import Conversation, Message
from core.data.tokens.encoding import marked_turns
from core.data.tokens.named_templates import PLAIN_TEMPLATE
from core.data.tokens.templates import ChatTemplate, Span, render
from core.errors import DataError
from tests.core.data.tokens.slow_encoding import spans
from tests.core.tiny import conversation

# What model families do in their templates, each in its own words; {S} and {E} stand for a family's marks.
TEMPLATES = {
    "plain": PLAIN_TEMPLATE,
    "a system message of its own": (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
        "{% endif %}<|im_start|>{{ m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "trimmed, with headers and the beginning of text": (
        "{{- bos_token }}\n{%- set ns = namespace(turns=0) %}\n"
        "{%- for message in messages %}\n    {%- set ns.turns = ns.turns + 1 %}\n"
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim "
        "+ '<|eot_id|>' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}"
    ),
    "roles that must alternate, the system's words in the first turn": (
        "{%- if messages[0]['role'] == 'system' %}{%- set first = messages[0]['content'] + '\n\n' %}"
        "{%- set rest = messages[1:] %}{%- else %}{%- set first = '' %}{%- set rest = messages %}{%- endif %}"
        "{{- bos_token }}{%- for m in rest %}"
        "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Roles must alternate') }}"
        "{%- endif %}{%- if m['role'] == 'user' %}{{- '[INST] ' + (first if loop.first else '') + m['content'] "
        "+ ' [/INST]' }}{%- else %}{{- ' ' + m['content'] + eos_token }}{%- endif %}{%- endfor %}"
    ),
    "no system message, a model and not an assistant": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "with a macro, tools, documents and words of the generation": (
        "{%- macro turn(m) %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endmacro %}"
        "{%- if tools %}{{ tools | tojson }}{% endif %}{% if documents is defined and documents %}no{% endif %}"
        "{%- for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ turn(m) }}{% endgeneration %}"
        "{% else %}{{ turn(m) }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    "with the year and the keys of a message": (
        "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.keys() | list | tojson }}{{ m | tojson }}"
        "{% if loop.index > 5 %}{% break %}{% endif %}{% endfor %}{{ add_generation_prompt }}{{ pad_token }}"
    ),
    "earlier turns rewritten": (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] if loop.last else m['content'][:3] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ),
    "misspelled": "{% for m in messages %}{{ m.content }",
}

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from([
    "", " ", "\n", " edge ", "{{ x }}", "{% if %}", "<|im_end|>", "<b>&amp;</b>", "'\"\\", "a\r\nb", "😀",
])  # fmt: skip
ROLES = st.sampled_from(["system", "user", "assistant"])
MESSAGES = st.lists(st.builds(Message, role=ROLES, content=TEXTS), min_size=1, max_size=6)
TURNS = st.tuples(st.none() | TEXTS, st.lists(TEXTS, min_size=2, max_size=6))


def answers(template: ChatTemplate, talk: Conversation) -> tuple[str, list[Span]]:
    return template.placed_turns(talk, marked_turns(talk, "assistant"))


def outcome(text: Any) -> str:
    """What `text` gives, or how it fails."""
    try:
        return str(text())
    except Exception as error:  # noqa: BLE001, a template may raise anything
        return f"{type(error).__name__}: {error}"


def applied(tokenizer: Any, messages: list[Message], opening: bool) -> str:
    plain = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=opening))


@pytest.mark.parametrize("name", [*TEMPLATES, None])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=MESSAGES, opening=st.booleans())
def test_the_text_is_that_of_apply_chat_template(
    tokenizer: Any, name: str | None, messages: list[Message], opening: bool
) -> None:
    if name is not None:
        tokenizer.chat_template = TEMPLATES[name]
    expected = outcome(lambda: applied(tokenizer, messages, opening))
    assert outcome(lambda: render(tokenizer, messages, opening=opening)) == expected


@pytest.mark.parametrize("name", [*TEMPLATES, None])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=TURNS)
def test_turns_stand_where_rendering_everything_each_time_says(
    tokenizer: Any, name: str | None, turns: tuple[str | None, list[str]]
) -> None:
    if name is not None:
        tokenizer.chat_template = TEMPLATES[name]
    talk = conversation(*turns[1], system=turns[0])
    expected = outcome(lambda: spans(tokenizer, talk))
    assert outcome(lambda: answers(ChatTemplate(tokenizer), talk)) == expected


def test_a_question_with_its_answer_is_rendered_twice(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template, rendered = ChatTemplate(tokenizer), list[int]()
    whole = template.render

    def counted(messages: list[dict[str, str]], **how: Any) -> str:
        rendered.append(len(messages))
        return whole(messages, **how)

    monkeypatch.setattr(template, "render", counted)
    answers(template, conversation("Why?", "So."))
    assert sorted(rendered) == [1, 2]
    rendered.clear()
    answers(template, conversation("Why?", "So.", "And?", "Not."))
    assert sorted(rendered) == [1, 2, 3, 4]


def test_of_several_templates_the_default_one_is_taken(tokenizer: Any) -> None:
    messages = [Message(role="user", content="Hi")]
    tokenizer.chat_template = {"tool_use": "tools", "default": PLAIN_TEMPLATE}
    assert render(tokenizer, messages, opening=True) == applied(tokenizer, messages, True) != "tools"


def test_a_tokenizer_with_a_way_of_its_own_goes_its_way(tokenizer: Any) -> None:
    class Own(type(tokenizer)):  # type: ignore[misc]
        def apply_chat_template(self, messages: list[dict[str, str]], **how: Any) -> str:
            return f"{len(messages)} {how}"

    own = Own.__new__(Own)
    own.__dict__.update(tokenizer.__dict__)
    text = ChatTemplate(own).render([{"role": "user", "content": "Hi"}], opening=True)
    assert text == "1 {'tokenize': False, 'add_generation_prompt': True}"


def test_an_answer_without_anything_before_it_is_refused_with_its_row(tokenizer: Any) -> None:
    alone = Conversation(messages=(Message(role="assistant", content="Ho."),), source_row=4)
    with pytest.raises(DataError, match="Row 4: .* needs a message to begin with"):
        answers(ChatTemplate(tokenizer), alone)
