r"""Chat templates by name, for a model that has none or where a person wants another.

Each follows the marks of a family of models; the programs are ours. What the marks are is all that a model learned of
its family's template, so a system message is never invented here, and words are put down as they are. Where a family
has no place for a system message, it leads the first turn of the user.

`tokens` are the marks that the family's models read as one token each. In a model that lacks one it is spelled out in
several: it works, but less well, and chat does not see by it where an answer ends. `eos_token` is whatever token ends a
text in the model at hand; in a tokenizer without one it prints nothing.

Each template only ever adds text, whatever follows, so that turns can be found (`core.data.tokens.templates`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.config import TemplateName


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A chat template: what it is called, a sentence on when to take it, its program, and the marks it counts on."""

    title: str
    sentence: str
    jinja: str
    tokens: tuple[str, ...] = ()


_TURNS = "{% for message in messages %}"
_END = "{% endfor %}"
# For families without tools: better refused than written down as if a person had said it.
_NO_TOOLS = (
    "{% if message['role'] == 'tool' or message['tool_calls'] %}"
    "{{ raise_exception('it has no place for tools') }}{% endif %}"
)
_SYSTEM_LEADS = (
    "{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] + '\n\n' %}{% set turns = "
    "messages[1:] %}{% else %}{% set lead = '' %}{% set turns = messages %}{% endif %}"
    "{{ bos_token }}{% for message in turns %}"
)

_PLAIN = (
    _TURNS + "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### User:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'tool' or message['tool_calls'] %}{{ raise_exception('it has no place for tools') }}"
    "{% else %}{{ '### Assistant:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    + _END
    + "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)

# Tools as the models of this family know them: listed in the system message, called and answered in JSON.
_CHATML = (
    "{% if tools %}{{ '<|im_start|>system\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    "{{ 'These functions can be called:\n<tools>\n' }}{% for tool in tools %}{{ (tool | tojson) + '\n' }}{% endfor %}"
    "{{ '</tools><|im_end|>\n' }}{% endif %}" + _TURNS + "{% if message['role'] == 'tool' %}"
    "{{ '<|im_start|>tool\n<tool_response>\n' + message['content'] + '\n</tool_response><|im_end|>\n' }}"
    "{% elif not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ ('' if loop.first and not message['content'] else '\n') + '<tool_call>\n' + (call['function'] | tojson) }}"
    "{{ '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_LLAMA3 = (
    "{{ bos_token }}" + _TURNS + _NO_TOOLS + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] + '<|eot_id|>' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

_MISTRAL = (
    _SYSTEM_LEADS + _NO_TOOLS + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (lead if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] }}{{ eos_token }}{% endif %}" + _END
)

_GEMMA = (
    _SYSTEM_LEADS
    + _NO_TOOLS
    + "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ (lead if loop.first else '') + message['content'] + '<end_of_turn>\n' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

_ZEPHYR = (
    _TURNS + _NO_TOOLS + "{{ '<|' + message['role'] + '|>\n' + message['content'] }}{{ eos_token }}{{ '\n' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)  # fmt: skip

_ALPACA = (
    _TURNS + _NO_TOOLS + "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + message['content'] }}{{ eos_token }}{{ '\n\n' }}{% endif %}"
    + _END
    + "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)

_VICUNA = (
    _TURNS + _NO_TOOLS + "{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] }}{{ eos_token }}{% endif %}"
    + _END
    + "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

TEMPLATES: Mapping[TemplateName, Template] = MappingProxyType({
    "plain": Template(
        title="Plain",
        sentence="Headings in words, for any model: nothing but the model's own end mark is special.",
        jinja=_PLAIN,
    ),
    "chatml": Template(
        title="ChatML",
        sentence="What most chat models of today were taught with; it has a place for tools.",
        jinja=_CHATML,
        tokens=("<|im_start|>", "<|im_end|>"),
    ),
    "llama3": Template(
        title="Llama 3",
        sentence="For Llama 3 and what was made of it.",
        jinja=_LLAMA3,
        tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "mistral": Template(
        title="Mistral",
        sentence="For Mistral and Mixtral; a system message leads the first question.",
        jinja=_MISTRAL,
    ),
    "gemma": Template(
        title="Gemma",
        sentence="For Gemma; a system message leads the first question.",
        jinja=_GEMMA,
        tokens=("<start_of_turn>", "<end_of_turn>"),
    ),
    "zephyr": Template(
        title="Zephyr",
        sentence="For Zephyr, TinyLlama and StableLM; the roles are plain text.",
        jinja=_ZEPHYR,
    ),
    "alpaca": Template(
        title="Alpaca",
        sentence="An instruction and a response; for base models, and for answering one question at a time.",
        jinja=_ALPACA,
    ),
    "vicuna": Template(
        title="Vicuna",
        sentence="USER and ASSISTANT on one line; for Vicuna and models made of the first Llama.",
        jinja=_VICUNA,
    ),
})  # fmt: skip

PLAIN_TEMPLATE = TEMPLATES["plain"].jinja
