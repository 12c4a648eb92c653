"""From a record to tokens and labels, through the model's own chat template.

A conversation is rendered as text once. For each assistant turn, rendering the messages before it (with the
template's opening of an assistant turn) and the messages up to it shows where the turn's own text begins and ends;
tokens inside it, the end-of-turn mark included, carry labels, all others IGNORE. Labels follow the text and never
the token's value, since one token may end a turn and pad a batch. A passage is trained on every token.

Labels are shifted here, once: `labels[i]` is the token that should follow `tokens[i]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from core.data.records import Conversation, Labeled, Message, Passage, Record
from core.errors import DataError

IGNORE = -100

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### User:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ '### Assistant:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)


class Tokens(Protocol):
    """What batching, splitting and counting need to know of a row, whatever its task."""

    @property
    def tokens(self) -> list[int]:
        """What is fed to the model."""

    @property
    def trained(self) -> int:
        """How many answers the row asks for; the loss is a mean over them."""


AnyRow = TypeVar("AnyRow", bound=Tokens)


@dataclass(frozen=True, slots=True)
class Row:
    """One training row: `tokens[i]` should be followed by `labels[i]`, or by whatever where that is IGNORE."""

    tokens: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        """How many positions carry a label."""
        return sum(label != IGNORE for label in self.labels)


@dataclass(frozen=True, slots=True)
class Encoding(Generic[AnyRow]):
    """All usable rows, and what was lost on the way to them."""

    rows: list[AnyRow]
    truncated: int
    without_labels: int


def ensure_template(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template our plain one; True where that was needed."""
    if tokenizer.chat_template:
        return False
    tokenizer.chat_template = PLAIN_TEMPLATE
    return True


def render(tokenizer: Any, messages: Iterable[Message], *, opening: bool) -> str:
    """The conversation as text; with `opening` it ends where an assistant's answer is to begin."""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    text: str = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=opening)
    return text


def require_unlabeled(records: Iterable[Record]) -> tuple[Conversation | Passage, ...]:
    """`records`, each of which is text that can be gone on with.

    Raises:
        DataError: a record has a label in place of an answer.
    """
    found = []
    for record in records:
        if isinstance(record, Labeled):
            raise DataError(
                f"Row {record.source_row} has a label, {record.label!r}, and no answer",
                hint="Choose the task classification, or a dataset with prompts and completions",
            )
        found.append(record)
    return tuple(found)


def encode(tokenizer: Any, records: Iterable[Conversation | Passage], max_tokens: int) -> Encoding[Row]:
    """Rows of at most `max_tokens` tokens; rows that keep no label are left out and counted.

    Raises:
        DataError: a template cannot render a row, or no row keeps a label.
    """
    rows: list[Row] = []
    truncated = without_labels = 0
    for record in records:
        row = _encode_passage(tokenizer, record) if isinstance(record, Passage) else _encode_chat(tokenizer, record)
        truncated += len(row.tokens) > max_tokens
        row = Row(row.tokens[:max_tokens], row.labels[:max_tokens])
        if row.trained:
            rows.append(row)
        else:
            without_labels += 1
    if not rows:
        raise DataError(
            f"No row keeps anything to train on within {max_tokens} tokens",
            hint="Raise the token limit, or shorten the prompts",
        )
    return Encoding(rows, truncated, without_labels)


def _encode_passage(tokenizer: Any, passage: Passage) -> Row:
    tokens = list(tokenizer(passage.text, add_special_tokens=True)["input_ids"])
    if tokenizer.eos_token_id is not None and tokens[-1:] != [tokenizer.eos_token_id]:
        tokens.append(tokenizer.eos_token_id)
    return Row(tokens[:-1], tokens[1:])


def _encode_chat(tokenizer: Any, conversation: Conversation) -> Row:
    text, spans = _trained_spans(tokenizer, conversation)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = list(encoded["input_ids"])
    labels = [
        token if any(start <= first and last <= end for start, end in spans) and last > first else IGNORE
        for token, (first, last) in zip(tokens, encoded["offset_mapping"], strict=True)
    ]
    return Row(tokens[:-1], labels[1:])


def _trained_spans(tokenizer: Any, conversation: Conversation) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text and, for each assistant turn, its first and past-the-last character."""
    messages = conversation.messages
    try:
        text = render(tokenizer, messages, opening=False)
        spans = []
        for index, message in enumerate(messages):
            if message.role == "assistant":
                before = render(tokenizer, messages[:index], opening=True)
                through = render(tokenizer, messages[: index + 1], opening=False).rstrip()
                if not text.startswith(through) or not through.startswith(before):
                    raise DataError(
                        f"Row {conversation.source_row}: the model's chat template rewrites earlier turns",
                        hint="Split the conversation into rows with one assistant message each",
                    )
                spans.append((len(before), len(through)))
    except DataError:
        raise
    except Exception as error:  # a template is a program of the model's author: anything may come out of it
        raise DataError(
            f"Row {conversation.source_row}: the model's chat template refused it: {error}",
            hint="Check the order of roles in that row",
        ) from error
    return text, spans
