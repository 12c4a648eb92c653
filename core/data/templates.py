"""A conversation as text, by the chat template of the model's tokenizer, and where in it the assistant speaks.

`apply_chat_template` of transformers checks, copies and converts what it is given at each call, which takes as long
as rendering itself. A conversation here is plain strings already, so the template that transformers compiles (in its
sandbox: it is a program by the model's author) is asked directly; tests hold that the text is the same.

Where an assistant's turn begins and ends is found by rendering what comes before it, with the opening of a turn, and
all up to it. That is exact for every template that only ever adds text; one that rewrites earlier turns is refused.
The last turn ends where the whole text does, so a question with its answer is rendered twice, not three times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from core.data.records import Conversation, Message
from core.errors import DataError

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### User:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ '### Assistant:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)

Span: TypeAlias = tuple[int, int]  # the first and the past-the-last character


def ensure_template(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template our plain one; True where that was needed."""
    if tokenizer.chat_template:
        return False
    tokenizer.chat_template = PLAIN_TEMPLATE
    return True


def has_plain_template(tokenizer: Any) -> bool:
    """Whether our plain template is the tokenizer's."""
    return bool(tokenizer.chat_template == PLAIN_TEMPLATE)


def render(tokenizer: Any, messages: Iterable[Message], *, opening: bool) -> str:
    """The conversation as text; with `opening` it ends where an assistant's answer is to begin."""
    return ChatTemplate(tokenizer).render(_plain(messages), opening=opening)


class ChatTemplate:
    """A tokenizer's chat template. It is compiled when it is first used, so what is wrong with it is told then."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _compiled(self) -> Any:
        """The template; None where the tokenizer has a way of its own to make text of a conversation."""
        from transformers import PreTrainedTokenizerBase  # here: the page comes past this module, without transformers
        from transformers.utils.chat_template_utils import _compile_jinja_template

        if type(self._tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
            return None
        return _compile_jinja_template(self._tokenizer.get_chat_template())

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """What the template finds beside the messages; put together once, not at each rendering."""
        return {**self._compiled.globals, **self._tokenizer.special_tokens_map, "tools": None, "documents": None}

    def render(self, messages: Sequence[dict[str, str]], *, opening: bool) -> str:
        """The text of `messages`, each with `role` and `content`, as `render`.

        Raises:
            ValueError: there are none.
            Exception: whatever the template raises.
        """
        if not messages:
            raise ValueError("it needs a message to begin with")
        text: str
        if self._compiled is None:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening)
        else:
            variables = {**self._variables, "messages": messages, "add_generation_prompt": opening}
            text = "".join(self._compiled.root_render_func(self._compiled.new_context(variables, shared=True)))
        return text

    def trained_spans(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The rendered text, and for each assistant turn where it stands, its end mark included.

        Raises:
            DataError: the template rewrites earlier turns, or refuses the conversation.
        """
        messages = _plain(conversation.messages)
        try:
            text = self.render(messages, opening=False)
            spans = [
                self._span(text, messages, index)
                for index, message in enumerate(messages)
                if message["role"] == "assistant"
            ]
        except _Rewritten:
            raise DataError(
                f"Row {conversation.source_row}: the model's chat template rewrites earlier turns",
                hint="Split the conversation into rows with one assistant message each",
            ) from None
        except Exception as error:  # a template is a program of the model's author: anything may come out of it
            raise DataError(
                f"Row {conversation.source_row}: the model's chat template refused it: {error}",
                hint="Check the order of roles in that row",
            ) from error
        return text, spans

    def _span(self, text: str, messages: list[dict[str, str]], index: int) -> Span:
        """Where turn `index` stands in the text of all `messages`."""
        is_last = index == len(messages) - 1
        before = self.render(messages[:index], opening=True)
        through = (text if is_last else self.render(messages[: index + 1], opening=False)).rstrip()
        if not text.startswith(through) or not through.startswith(before):
            raise _Rewritten
        return len(before), len(through)


class _Rewritten(Exception):
    """A turn reads differently once others follow it."""


def _plain(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
