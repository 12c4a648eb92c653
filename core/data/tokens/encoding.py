"""From a record to tokens and labels, through the model's own chat template.

A conversation is rendered as text once. Where each assistant turn stands in it is told by `core.data.tokens.templates`;
tokens inside a turn, the end-of-turn mark included, carry labels, all others IGNORE. Labels follow the text and never
the token's value, since one token may end a turn and pad a batch. Where every token of a conversation is trained, all
carry labels but those inside turns that are not to be learned. A passage is trained on every token.

Labels are shifted here, once: `labels[i]` is the token that should follow `tokens[i]`.

Records are taken in batches, so that the tokenizer's threads have something to share; rows go to a `TokenStore` as
they are made. So memory stays what it is, however many there are. Where the tokenizer allows it, words are looked up
(`core.data.tokens.word_tokens`); else it is asked for whole texts, and for the place of each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.config import TrainOn
from core.data.records import Conversation, Labeled, Passage, Record
from core.data.tokens.store import TokenStore, narrowest
from core.data.tokens.templates import ChatTemplate, Span
from core.data.tokens.word_tokens import WordTokens
from core.errors import DataError, ModelError

IGNORE = -100
Trained: TypeAlias = tuple[NDArray[Any], NDArray[np.bool_]]  # a text's tokens, and whether each is trained

BATCH_ROWS, BATCH_LETTERS = 1000, 2**18  # a batch takes a tenth of a second, and its tokens a few megabytes


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


@dataclass(slots=True)
class Encoding(Generic[AnyRow]):
    """All usable rows, and what was lost on the way to them; `records` is how many it is made of so far.

    Args:
        max_tokens: what is longer is cut.
    """

    rows: TokenStore[AnyRow]
    max_tokens: int
    records: int = 0
    truncated: int = 0
    without_labels: int = 0


class ChatRows(TokenStore[Row]):
    """Rows of a causal language model: tokens with the one that follows the last, then a byte each: is it trained?"""

    def __init__(self, scratch: Path | None, token_type: np.dtype[Any]) -> None:
        super().__init__(scratch, token_type, stride=token_type.itemsize + 1, fixed=token_type.itemsize)

    def put(self, tokens: NDArray[Any], trained: NDArray[np.bool_], source_row: int) -> bool:
        """Keep a row, if any of it is trained: `tokens` `[n + 1]`, and whether the second to the last are, `[n]`."""
        labels = int(np.count_nonzero(trained))
        if labels:
            self._put(tokens.tobytes() + trained.tobytes(), tokens[:-1].tobytes(), labels, source_row)
        return labels > 0

    def _row(self, content: bytes) -> Row:
        length = (len(content) - self._fixed) // self._stride
        tokens = np.frombuffer(content, self.token_type, length + 1)
        trained = np.frombuffer(content, np.bool_, length, tokens.nbytes)
        labels = np.where(trained, tokens[1:].astype(np.int64), IGNORE)
        return Row(tokens[:-1].tolist(), labels.tolist())


def require_unlabeled(record: Record) -> Conversation | Passage:
    """`record`, which is text that can be gone on with.

    Raises:
        DataError: it has a label in place of an answer.
    """
    if isinstance(record, Labeled):
        raise DataError(
            f"Row {record.source_row} has a label, {record.label!r}, and no answer",
            hint="Choose the task classification, or a dataset with prompts and completions",
        )
    return record


def encode(
    tokenizer: Any,
    records: Iterable[Record],
    max_tokens: int,
    scratch: Path | None = None,
    train_on: TrainOn = "assistant",
) -> Encoding[Row]:
    """All that `encode_gradually` makes of `records`."""
    *_, whole = encode_gradually(tokenizer, records, max_tokens, scratch, train_on)
    return whole


def encode_gradually(
    tokenizer: Any,
    records: Iterable[Record],
    max_tokens: int,
    scratch: Path | None = None,
    train_on: TrainOn = "assistant",
) -> Iterator[Encoding[Row]]:
    """Rows of at most `max_tokens` tokens; rows that keep no label are left out and counted.

    Args:
        scratch: the folder for the rows' file.
        train_on: which tokens of a conversation are trained, as in `DataConfig`.

    Yields:
        The same encoding after every batch of records, by which it has grown; in the end it is whole.

    Raises:
        DataError: a record has a label, a template cannot render a row, or no row keeps a label.
        ModelError: the tokenizer cannot tell the places of its tokens.
    """
    store = ChatRows(scratch, narrowest(tokenizer))
    found: Encoding[Row] = Encoding(store, max_tokens)
    encoder = Encoder(tokenizer, store.token_type, train_on)
    for batch in batches(records):
        rows = encoder([require_unlabeled(record) for record in batch])
        for record, (tokens, trained) in zip(batch, rows, strict=True):
            found.truncated += len(tokens) > max_tokens + 1
            if not store.put(tokens[: max_tokens + 1], trained[1 : max_tokens + 1], record.source_row):
                found.without_labels += 1
        store.write()
        found.records += len(batch)
        yield found
    if not len(store):
        raise DataError(
            f"No row keeps anything to train on within {max_tokens} tokens",
            hint="Raise the token limit, or shorten the prompts",
        )


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """`records` in lists that are quickly encoded; a very long record is alone in its own."""
    batch: list[Record] = []
    letters = 0
    for record in records:
        batch.append(record)
        letters += _letters(record)
        if letters >= BATCH_LETTERS or len(batch) >= BATCH_ROWS:
            yield batch
            batch, letters = [], 0
    if batch:
        yield batch


def _letters(record: Record) -> int:
    if isinstance(record, Conversation):
        return sum(len(message.content) for message in record.messages)
    return len(record.text)


def backend_of(tokenizer: Any) -> Any:
    """What encodes many texts at once for `tokenizer`, with nothing cut or filled up; None where there is no such."""
    if not tokenizer.is_fast:
        return None
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def marked_turns(conversation: Conversation, train_on: TrainOn) -> list[int]:
    """The numbers (from 0) of the turns that are trained; where everything is, of those that are not."""
    answers = [number for number, message in enumerate(conversation.messages) if message.role == "assistant"]
    chosen = answers[-1:] if train_on == "last" else answers
    return [number for number in chosen if bool(conversation.messages[number].weight) != (train_on == "everything")]


class Encoder:
    """Makes tokens, and which of them are trained, of many records at once; nothing is cut."""

    def __init__(self, tokenizer: Any, token_type: np.dtype[Any], train_on: TrainOn = "assistant") -> None:
        self._tokenizer, self._type, self._train_on = tokenizer, token_type, train_on
        self._backend = backend_of(tokenizer)
        self._template = ChatTemplate(tokenizer)
        self._words = WordTokens.of(tokenizer, token_type) if self._backend is not None else None

    def __call__(self, records: Sequence[Conversation | Passage]) -> Iterator[Trained]:
        """Of each record all its tokens, and which of them are trained."""
        chats = [self._rendered(record) for record in records if isinstance(record, Conversation)]
        passages = [record.text for record in records if isinstance(record, Passage)]
        ready_chats, ready_passages = self._chats(chats), self._passages(passages)
        for record in records:
            yield next(ready_chats if isinstance(record, Conversation) else ready_passages)

    def _rendered(self, conversation: Conversation) -> tuple[str, list[Span]]:
        return self._template.placed_turns(conversation, marked_turns(conversation, self._train_on))

    def _passages(self, texts: list[str]) -> Iterator[Trained]:
        end = self._tokenizer.eos_token_id
        for ids in self._ids(texts):
            if end is not None and ids[-1:] != [end]:
                ids.append(end)
            yield np.array(ids, self._type), np.ones(len(ids), np.bool_)

    def _ids(self, texts: list[str]) -> Iterator[list[int]]:
        """The tokens of each text, with those that the tokenizer puts around a text."""
        if self._backend is None:
            yield from (list(self._tokenizer(text, verbose=False)["input_ids"]) for text in texts)
        else:
            yield from (encoding.ids for encoding in self._backend.encode_batch_fast(texts))

    def _chats(self, chats: list[tuple[str, list[Span]]]) -> Iterator[Trained]:
        """Of each rendered conversation, by its words where that can be, else as the tokenizer tells."""
        texts = [text for text, _ in chats]
        spelled = self._words(texts) if self._words is not None else [None] * len(texts)
        others = iter(self._placed([text for text, tokens in zip(texts, spelled, strict=True) if tokens is None]))
        for (text, spans), tokens in zip(chats, spelled, strict=True):
            if tokens is None:
                encoding = next(others)
                firsts, lasts = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
                yield np.array(encoding.ids, self._type), self._trained(firsts, lasts, spans)
            else:
                assert self._words is not None
                sizes = self._words.sizes[tokens]
                lasts = sizes.cumsum()
                yield tokens, self._trained(lasts - sizes, lasts, _in_bytes(text, spans))

    def _trained(self, firsts: NDArray[np.int64], lasts: NDArray[np.int64], spans: list[Span]) -> NDArray[np.bool_]:
        """`[tokens]`, whether each is trained, where `spans` are those of `marked_turns`."""
        marked = _within(firsts, lasts, spans)
        return ~marked if self._train_on == "everything" else marked

    def _placed(self, texts: list[str]) -> list[Any]:
        """What the tokenizer makes of `texts`, with places.

        Raises:
            ModelError: it does not know places.
        """
        if not texts:
            return []
        if self._backend is None:
            raise ModelError(
                "The base model's tokenizer cannot tell the places of its tokens in a text",
                hint="Choose a base model that has a tokenizer.json",
            )
        encodings: list[Any] = self._backend.encode_batch(texts, add_special_tokens=False)
        return encodings


def _within(firsts: NDArray[np.int64], lasts: NDArray[np.int64], spans: list[Span]) -> NDArray[np.bool_]:
    """`[tokens]`, which of the tokens from `firsts` to `lasts` stand for something, and lie in one of `spans`."""
    found = np.zeros(len(firsts), np.bool_)
    for start, end in spans:
        found |= (start <= firsts) & (lasts <= end)
    return found & (lasts > firsts)


def _in_bytes(text: str, spans: list[Span]) -> list[Span]:
    """`spans` of characters as spans of bytes."""
    if text.isascii():
        return spans
    return [(len(text[:start].encode()), len(text[:end].encode())) for start, end in spans]
