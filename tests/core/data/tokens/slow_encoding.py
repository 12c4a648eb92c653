"""What `core.data.tokens.encoding` and `core.data.tokens.templates` do, slowly and obviously: every row alone, every
text rendered by transformers each time that it is needed, and each token asked for its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from core.data.records import Conversation, Message, Passage
from core.data.tokens.encoding import IGNORE, Row
from core.errors import DataError


def rows(tokenizer: Any, records: Iterable[Conversation | Passage], max_tokens: int) -> list[Row]:
    """The rows of `records` that keep a label."""
    whole = [passage(tokenizer, each) if isinstance(each, Passage) else chat(tokenizer, each) for each in records]
    cut = [Row(row.tokens[:max_tokens], row.labels[:max_tokens]) for row in whole]
    return [row for row in cut if row.trained]


def passage(tokenizer: Any, record: Passage) -> Row:
    tokens = list(tokenizer(record.text, add_special_tokens=True)["input_ids"])
    if tokenizer.eos_token_id is not None and tokens[-1:] != [tokenizer.eos_token_id]:
        tokens.append(tokenizer.eos_token_id)
    return Row(tokens[:-1], tokens[1:])


def chat(tokenizer: Any, record: Conversation) -> Row:
    text, found = spans(tokenizer, record)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = list(encoded["input_ids"])
    labels = [
        token if any(start <= first and last <= end for start, end in found) and last > first else IGNORE
        for token, (first, last) in zip(tokens, encoded["offset_mapping"], strict=True)
    ]
    return Row(tokens[:-1], labels[1:])


def spans(tokenizer: Any, record: Conversation) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text and, for each assistant turn, its first and past-the-last character."""
    messages = record.messages
    try:
        text = _render(tokenizer, messages, opening=False)
        found = []
        for index, message in enumerate(messages):
            if message.role == "assistant":
                before = _render(tokenizer, messages[:index], opening=True)
                through = _render(tokenizer, messages[: index + 1], opening=False).rstrip()
                if not text.startswith(through) or not through.startswith(before):
                    raise DataError(
                        f"Row {record.source_row}: the model's chat template rewrites earlier turns",
                        hint="Train on the last turn alone, or split it into rows with one assistant message each",
                    )
                found.append((len(before), len(through)))
    except DataError:
        raise
    except Exception as error:  # a template may raise anything
        raise DataError(
            f"Row {record.source_row}: the model's chat template refused it: {error}",
            hint="Check the order of roles in that row",
        ) from error
    return text, found


def _render(tokenizer: Any, messages: Sequence[Message], *, opening: bool) -> str:
    plain = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=opening))
