"""What the model that is being trained answers to a few prompts that stay the same for the whole run.

All prompts are one batch, with keys and values of their own, answered greedily and at most `MOST_TOKENS` long, by the
model as it stands: the adapter that is trained is the active one, in the dtype that it is trained in. Nothing of it
reaches the training: no gradient is formed, no random number drawn, no weight touched, and the attention that training
needs is put back. So a run with samples ends with the bits of one without (tests hold that).

A prompt costs one token after the other, each about as long as reading the weights once; several prompts cost hardly
more than one. With the starter on two cores two answers of 64 tokens take three seconds, as long as four of its steps.
So they are asked for before the first step, after the last, and at those evaluations between that are `SPACING` steps
behind the last time: in runs of hundreds of steps a few percent of the time, and at most a seventh there.

The prompts are the user's own, or the beginnings of held-out rows: all tokens before the first that is trained. A row
that is trained from its first token on is begun with some of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from core.config import SampleConfig
from core.data.records import Conversation, Message, Passage, Record, Records
from core.data.tokens.encoding import IGNORE, Row
from core.data.tokens.splits import source_rows_of
from core.data.tokens.templates import end_of_turn, render
from core.errors import ConfigError
from core.events import Event, Note, Sample
from core.generate.ends import end_tokens
from core.generate.padded import PaddedBatch
from core.kernels import packed_attention
from core.models.load import LoadedModel
from core.train.trial import PLAINEST

MOST_TOKENS = 64
LONGEST_PROMPT = 512  # tokens; a held-out row that asks more is passed over
BEGINNING = 24  # tokens that begin a row which is trained as a whole
SPACING = 25  # steps between two times that the model is asked, at least
SHOWN = 1000  # characters of a prompt that an event repeats
_LOOKED_AT = 64  # held-out rows, for some whose prompts are short enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked: its tokens, with all that the chat template puts around them, and its words."""

    tokens: tuple[int, ...]
    text: str


class Sampler:
    """Asks a model the same prompts again and again.

    Args:
        autocast: the dtype to compute in where it is not the stored one.
    """

    def __init__(self, loaded: LoadedModel, prompts: Sequence[Prompt], autocast: torch.dtype | None = None) -> None:
        self._loaded, self._prompts, self._autocast = loaded, tuple(prompts), autocast
        self.told: dict[int, list[Event]] = {}  # what was answered, by step
        tokenizer = loaded.tokenizer
        self._ends = end_tokens(loaded) | end_of_turn(tokenizer, tokenizer.chat_template)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """What is asked; nothing once the model has shown that it cannot answer."""
        return self._prompts

    def ask(self, step: int, stop: Callable[[], str | None]) -> Iterator[Event]:
        """An answer to every prompt after `step` steps; none where `stop` answers meanwhile. A model that cannot write
        token by token is not asked again, and a note says so.
        """
        if not self._prompts:
            return
        try:
            answers = self._answers(stop)
        except Exception as error:  # noqa: BLE001 - another architecture's code: anything may come out of it
            self._prompts = ()
            kind = self._loaded.model.config.model_type
            yield Note(text=f"No samples are written: answering, this {kind} model fails with {type(error).__name__}")
            return
        self.told[step] = []
        for number, (prompt, answer) in enumerate(zip(self._prompts, answers, strict=False)):
            text = self._loaded.tokenizer.decode(answer, skip_special_tokens=True)
            sample = Sample(step=step, number=number, prompt=_cut(prompt.text), text=text.strip())
            self.told[step].append(sample)
            yield sample

    @torch.no_grad()
    def _answers(self, stop: Callable[[], str | None]) -> list[list[int]]:
        """Each prompt's answer, as tokens; nothing where `stop` answered."""
        with _plain_attention(self._loaded.model), self._computing():
            batch = PaddedBatch(self._loaded, [prompt.tokens for prompt in self._prompts])
            written: list[list[int]] = [[] for _ in self._prompts]
            chosen = batch.read().argmax(dim=-1).tolist()
            for _ in range(MOST_TOKENS):
                if stop():
                    return []
                for answer, token in zip(written, chosen, strict=True):
                    if not answer or answer[-1] not in self._ends:
                        answer.append(token)
                if all(answer[-1] in self._ends for answer in written):
                    break
                chosen = batch.write(chosen).argmax(dim=-1).tolist()
        return written

    def _computing(self) -> torch.autocast:
        return torch.autocast(self._loaded.device.type, dtype=self._autocast, enabled=self._autocast is not None)


def asked_after(evaluations: Collection[int]) -> frozenset[int]:
    """The steps after which the model is asked, in a run that evaluates after these."""
    asked = [0]
    for step in sorted(evaluations):
        if step - asked[-1] >= SPACING:
            asked.append(step)
    return frozenset({*asked, max(evaluations, default=0)})


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """Within the block, `model` attends as one that writes does; rows that are packed have no cache."""
    before = model.config._attn_implementation
    if before != packed_attention.NAME:
        yield
        return
    model.set_attn_implementation(PLAINEST)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def prompts_of(
    config: SampleConfig, loaded: LoadedModel, records: Records, held_out: Sequence[Row]
) -> tuple[Prompt, ...]:
    """What a run asks.

    Raises:
        ConfigError: the chat template refuses one of the user's prompts, or it is too long.
    """
    if config.prompts:
        is_plain = isinstance(next(iter(records), None), Passage)
        return tuple(_own(text, loaded.tokenizer, is_plain) for text in config.prompts)
    begun = ((_beginning(held_out[at]), at) for at in range(min(len(held_out), _LOOKED_AT)))
    chosen = [(tokens, at) for tokens, at in begun if 0 < len(tokens) <= LONGEST_PROMPT][: config.rows]
    if not chosen:
        return ()
    places = source_rows_of(held_out)
    numbers = [int(places[at]) for _, at in chosen]
    words = _words(records, set(numbers))
    decode = loaded.tokenizer.decode
    return tuple(
        Prompt(tokens=tokens, text=words.get(number) or decode(tokens, skip_special_tokens=True).strip())
        for (tokens, _), number in zip(chosen, numbers, strict=True)
    )


def _own(text: str, tokenizer: Any, is_plain: bool) -> Prompt:
    """A prompt of the user's: a message, or where rows are plain text, the beginning of one."""
    try:
        asked = text if is_plain else render(tokenizer, [Message(role="user", content=text)], opening=True)
    except Exception as error:  # a template is a program of the model's author: anything may come out of it
        raise ConfigError(
            f"The model's chat template refuses the sample prompt {_cut(text, 60)!r}",
            str(error),
            "Ask something else, or ask nothing",
            field="samples.prompts",
        ) from error
    tokens = tuple(tokenizer(asked, add_special_tokens=is_plain)["input_ids"])
    if not 0 < len(tokens) <= LONGEST_PROMPT:
        raise ConfigError(
            f"The sample prompt {_cut(text, 60)!r} has {len(tokens)} tokens",
            hint=f"Ask something of at most {LONGEST_PROMPT}",
            field="samples.prompts",
        )
    return Prompt(tokens=tokens, text=text)


def _beginning(row: Row) -> tuple[int, ...]:
    """The tokens before the first that is trained; of a row trained from its start, some of its first."""
    first = next((at for at, label in enumerate(row.labels) if label != IGNORE), 0)
    asked = first + 1 if first else min(BEGINNING, len(row.tokens) // 2)
    return tuple(row.tokens[:asked])


def _words(records: Records, numbers: set[int]) -> dict[int, str]:
    """What the last speaker before the first answer says in those of `records` that stand at `numbers`."""
    found: dict[int, str] = {}
    for record in records:
        if record.source_row in numbers:
            found[record.source_row] = _question(record)
            if len(found) == len(numbers):
                break
    return found


def _question(record: Record) -> str:
    """What is asked in a conversation; nothing where the record is none."""
    if not isinstance(record, Conversation):
        return ""
    first = next((at for at, message in enumerate(record.messages) if message.role == "assistant"), 0)
    return record.messages[first - 1].content if first else ""


def _cut(text: str, most: int = SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
