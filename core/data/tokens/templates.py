"""A conversation as text, by the chat template of the model's tokenizer, and where in it turns stand.

`apply_chat_template` of transformers checks, copies and converts what it is given at each call, which takes as long
as rendering itself. A conversation here is plain strings already, so the template that transformers compiles (in its
sandbox: it is a program by the model's author) is asked directly; tests hold that the text is the same.

Where an assistant's turn begins and ends is found by rendering what comes before it, with the opening of a turn, and
all up to it. That is exact for every template that only ever adds text; one that rewrites earlier turns is refused.
The last turn ends where the whole text does, so a question with its answer is rendered twice, not three times.

A template says nothing of what it passes over. So one is tried out before it is given tools, calls or their results:
what it does not write down would be missing from the text without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from core.config import TemplateName
from core.data.records import Conversation, Message
from core.data.tokens.named_templates import PLAIN_TEMPLATE, TEMPLATES
from core.errors import AdapterError, DataError

Span: TypeAlias = tuple[int, int]  # the first and the past-the-last character
Plain: TypeAlias = dict[str, Any]  # a message as templates know it

_TEMPLATE_FILE, _TOKENIZER_SETTINGS = "chat_template.jinja", "tokenizer_config.json"
_PROBE = "probe_of_tools"
_QUESTION = {"role": "user", "content": "?"}


def choose_template(tokenizer: Any, name: TemplateName | None) -> tuple[str, ...]:
    """Give `tokenizer` the template `name`; without a name our plain one, if it has none. Returns what the user should
    know of it.
    """
    if name is None:
        if not ensure_template(tokenizer):
            return ()
        return ("The model has no chat template; a plain one is used (### User / ### Assistant)",)
    template = TEMPLATES[name]
    tokenizer.chat_template = template.jinja
    spelled = [mark for mark in template.tokens if not _is_one_token(tokenizer, mark)]
    remarks = tuple(
        f"{mark} is not one token of this model, and is spelled out; it can be added as a new token" for mark in spelled
    )
    if "eos_token" in template.jinja and tokenizer.eos_token is None:
        remarks += (f"The model has no token that ends a text, so {template.title} ends answers with none",)
    return remarks


def _is_one_token(tokenizer: Any, mark: str) -> bool:
    return len(tokenizer(mark, add_special_tokens=False)["input_ids"]) == 1


def ensure_template(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template our plain one; True where that was needed."""
    if tokenizer.chat_template:
        return False
    tokenizer.chat_template = PLAIN_TEMPLATE
    return True


def has_our_template(tokenizer: Any) -> bool:
    """Whether one of `TEMPLATES` is the tokenizer's."""
    return is_ours(tokenizer.chat_template)


def is_ours(template: str | None) -> bool:
    """Whether it is, letter by letter, one of `TEMPLATES`."""
    return any(template == known.jinja for known in TEMPLATES.values())


def saved_template(folder: Path) -> str | None:
    """The chat template of the tokenizer that lies in `folder`, as beside an adapter; None where there is none.

    Raises:
        AdapterError: what lies there cannot be read.
    """
    try:
        if (folder / _TEMPLATE_FILE).is_file():
            return (folder / _TEMPLATE_FILE).read_text(encoding="utf-8")
        if not (folder / _TOKENIZER_SETTINGS).is_file():
            return None
        settings = json.loads((folder / _TOKENIZER_SETTINGS).read_bytes())
    except ValueError as error:
        raise AdapterError(
            f"The tokenizer in {folder.name} cannot be read", str(error), "Copy the adapter's folder again"
        ) from error
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    return template if isinstance(template, str) else None


def end_of_turn(tokenizer: Any, template: str) -> frozenset[int]:
    """The token by which `template` ends an answer; none where that takes several, or it refuses to say."""
    answer = {"role": "assistant", "content": _PROBE}
    try:
        text = ChatTemplate(tokenizer, template).render([_QUESTION, answer], opening=False)
    except Exception:  # noqa: BLE001, a template is a program of its author, who may refuse anything
        return frozenset()
    mark = text.rpartition(_PROBE)[2].strip()
    tokens = tokenizer(mark, add_special_tokens=False)["input_ids"] if mark else []
    return frozenset(tokens) if len(tokens) == 1 else frozenset()


def render(tokenizer: Any, messages: Iterable[Message], *, opening: bool, template: str | None = None) -> str:
    """The conversation as text; with `opening` it ends where an assistant's answer is to begin.

    Args:
        template: the program to render it with, in place of the tokenizer's.
    """
    return ChatTemplate(tokenizer, template).render(_plain(messages), opening=opening)


class ChatTemplate:
    """A tokenizer's chat template. It is compiled when it is first used, so what is wrong with it is told then.

    Args:
        source: the program to take in place of the tokenizer's.
    """

    def __init__(self, tokenizer: Any, source: str | None = None) -> None:
        self._tokenizer, self._source = tokenizer, source

    @cached_property
    def _compiled(self) -> Any:
        """The template; None where the tokenizer has a way of its own to make text of a conversation."""
        return self._compile(None)

    @cached_property
    def _compiled_for_tools(self) -> Any:
        """The same where there are tools, for which some models have another template."""
        return self._compile([_tool("tool")])

    def _compile(self, tools: list[Plain] | None) -> Any:
        from transformers import PreTrainedTokenizerBase  # here: the page comes past this module, without transformers
        from transformers.utils.chat_template_utils import _compile_jinja_template

        has_own_way = type(self._tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template
        if has_own_way and self._source is None and not has_our_template(self._tokenizer):
            return None
        return _compile_jinja_template(self._source or self._tokenizer.get_chat_template(tools=tools))

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """What the template finds beside the messages; put together once, not at each rendering."""
        return {**self._compiled.globals, **self._tokenizer.special_tokens_map, "tools": None, "documents": None}

    def render(self, messages: Sequence[Plain], *, opening: bool, tools: list[Plain] | None = None) -> str:
        """The text of `messages`, each with `role` and `content`, as `render`.

        Raises:
            ValueError: there are none.
            Exception: whatever the template raises.
        """
        if not messages:
            raise ValueError("it needs a message to begin with")
        compiled = self._compiled_for_tools if tools else self._compiled
        text: str
        if compiled is None:
            more = {"tools": tools} if tools else {}
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening, **more)
        else:
            variables = {**self._variables, "messages": messages, "add_generation_prompt": opening, "tools": tools}
            text = "".join(compiled.root_render_func(compiled.new_context(variables, shared=True)))
        return text

    def placed_turns(self, conversation: Conversation, numbers: Iterable[int]) -> tuple[str, list[Span]]:
        """The rendered text, and where in it each of the turns `numbers` (from 0) stands, its end mark included.

        Raises:
            DataError: the template rewrites earlier turns, refuses the conversation, or has no place for its tools.
        """
        messages = _plain(conversation.messages)
        tools = json.loads(conversation.tools) if conversation.tools else None
        if tools or any(message.role == "tool" or message.tool_calls for message in conversation.messages):
            self._check_tools(conversation)
        try:
            text = self.render(messages, opening=False, tools=tools)
            spans = [self._span(text, messages, number, tools) for number in numbers]
        except _Rewritten:
            raise DataError(
                f"Row {conversation.source_row}: the model's chat template rewrites earlier turns",
                hint="Train on the last turn alone, or split it into rows with one assistant message each",
            ) from None
        except Exception as error:  # a template is a program of the model's author: anything may come out of it
            raise DataError(
                f"Row {conversation.source_row}: the model's chat template refused it: {error}",
                hint="Check the order of roles in that row",
            ) from error
        return text, spans

    def _span(self, text: str, messages: list[Plain], index: int, tools: list[Plain] | None) -> Span:
        """Where turn `index` stands in the text of all `messages`."""
        is_last = index == len(messages) - 1
        before = self.render(messages[:index], opening=True, tools=tools)
        through = (text if is_last else self.render(messages[: index + 1], opening=False, tools=tools)).rstrip()
        if not text.startswith(through) or not through.startswith(before):
            raise _Rewritten
        return len(before), len(through)

    def _check_tools(self, conversation: Conversation) -> None:
        """Refuse a conversation of whose tools the template would say nothing."""
        messages = conversation.messages
        if conversation.tools and not self._writes_tools:
            what = "does not show which tools there are"
        elif any(message.tool_calls for message in messages) and not self._writes_calls:
            what = "has no place for calls of tools"
        elif any(message.role == "tool" for message in messages) and not self._writes_results:
            what = "has no place for what tools answer"
        else:
            return
        raise DataError(
            f"Row {conversation.source_row}: the model's chat template {what}",
            hint="Choose the template ChatML, which has a place for tools, or remove them from the row",
        )

    @cached_property
    def _writes_tools(self) -> bool:
        return self._shows_probe([_QUESTION], tools=[_tool(_PROBE)])

    @cached_property
    def _writes_calls(self) -> bool:
        return self._shows_probe([_QUESTION, _calling(_PROBE)])

    @cached_property
    def _writes_results(self) -> bool:
        return self._shows_probe([_QUESTION, _calling("tool"), {"role": "tool", "name": "tool", "content": _PROBE}])

    def _shows_probe(self, messages: list[Plain], tools: list[Plain] | None = None) -> bool:
        try:
            return _PROBE in self.render(messages, opening=False, tools=tools)
        except Exception:  # noqa: BLE001, as in `placed_turns`; what is refused is not written
            return False


class _Rewritten(Exception):
    """A turn reads differently once others follow it."""


def _tool(name: str) -> Plain:
    """A tool, as templates are given it."""
    function = {"name": name, "description": "", "parameters": {"type": "object", "properties": {}}}
    return {"type": "function", "function": function}


def _calling(name: str) -> Plain:
    """A message that calls a tool."""
    call = {"type": "function", "id": "call00000", "function": {"name": name, "arguments": {}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _plain(messages: Iterable[Message]) -> list[Plain]:
    return [_plain_message(message) for message in messages]


def _plain_message(message: Message) -> Plain:
    plain: Plain = {"role": message.role, "content": message.content}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_calls is not None:
        plain["tool_calls"] = json.loads(message.tool_calls)
    return plain
