"""Requests that are answered at once: each joins the rows that are being written, and its rows leave when they end.

A step writes one token behind every row. Before it, the first request in line is let in, if there is room for it: its
prompts are read, each alone, which the others wait for, and its rows take their steps with all others from then on. One
request a step is let in, so that who is being answered never waits for more than one prompt.

There is room while rows are no more than `MOST_ROWS`, and while what the keys and values of all will take, if each
answer becomes as long as it may, is no more than `most_bytes`. Who comes first is let in whatever it takes. Others wait
in line, in which nobody overtakes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UserError
from core.generate.decoder import MOST_ROWS, Decoder, Row
from core.generate.replies import Pane, Reply
from core.generate.requests import Delta

WRITTEN_BYTES = 2**31

Advance = Callable[[Reply, Sequence[Pane], Tensor], list[Delta]]
Conclude = Callable[[Reply], Iterable[Delta]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What a step brought one request; with an `error` it is over."""

    reply: Reply
    deltas: tuple[Delta, ...] = ()
    error: Exception | None = None


class Writing:
    """Requests in line and under way over one model.

    Args:
        advance: chooses the next token of some panes of a reply by their logits, and says what is new in them.
        conclude: says what there is to say of a reply once all its panes have ended.
        most_bytes: what the keys and values of all rows may take.
    """

    def __init__(self, decoder: Decoder, advance: Advance, conclude: Conclude, most_bytes: int = WRITTEN_BYTES) -> None:
        self._decoder, self._advance, self._conclude = decoder, advance, conclude
        self._most_bytes = most_bytes
        self._line: deque[Reply] = deque()
        self._under_way: list[Reply] = []
        self._bytes_a_token = 0.0  # not known before the first prompt was read

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to write."""
        return not self._line and not self._under_way

    def add(self, reply: Reply) -> None:
        """Put a request in line. One with more panes than there are rows is refused: it would never be let in.

        Raises:
            UserError: it has too many panes.
        """
        if len(reply.panes) > MOST_ROWS:
            raise UserError(f"{len(reply.panes)} answers at once are more than {MOST_ROWS}", hint="Ask for fewer")
        self._line.append(reply)

    def leave(self, reply: Reply) -> None:
        """Write no more of it; what was computed of it is kept."""
        if reply in self._line:
            self._line.remove(reply)
        if reply in self._under_way:
            self._under_way.remove(reply)
        for pane in reply.panes:
            self._let_go(pane)
        if not self._under_way:
            self._decoder.rest()

    @torch.inference_mode()
    def step(self) -> list[Told]:
        """One token for each row, and the first of the request that is let in."""
        told = []
        writing = list(self._under_way)
        if self._line and self._has_room_for(self._line[0]):
            told.append(self._let_in(self._line.popleft()))
        if writing:
            told += self._write(writing)
        for each in told:
            if each.error is not None or each.reply.is_done:
                self.leave(each.reply)
        return told

    def _has_room_for(self, reply: Reply) -> bool:
        if not self._under_way:
            return True
        rows = sum(len(each.open_panes) for each in self._under_way) + len(reply.panes)
        needed = sum(self._needs(each) for each in (*self._under_way, reply))
        return rows <= MOST_ROWS and needed <= self._most_bytes

    def _needs(self, reply: Reply) -> float:
        return self._bytes_a_token * sum(len(pane.prompt) + pane.room for pane in reply.open_panes)

    def _let_in(self, reply: Reply) -> Told:
        """Read its prompts and choose its first tokens."""
        try:
            logits = []
            for pane in reply.panes:
                pane.row = self._read(pane, reply.panes)
                logits.append(pane.row.logits)
            self._under_way.append(reply)
            return Told(reply, self._news(reply, reply.panes, torch.stack(logits)))
        except Exception as error:  # noqa: BLE001, told to who asked; the others go on
            return Told(reply, error=error)

    def _read(self, pane: Pane, panes: Sequence[Pane]) -> Row:
        """The row of `pane`: a branch of one before it in `panes` that begins alike."""
        asked = pane.asked
        for other in panes:
            if other.row is not None and (other.asked.adapter, other.prompt) == (asked.adapter, pane.prompt):
                return other.row.branch()
        row = self._decoder.read(pane.prompt, asked.adapter, asked.keeps)
        self._bytes_a_token = row.bytes / len(row.tokens)
        return row

    def _write(self, replies: Sequence[Reply]) -> list[Told]:
        panes = [(reply, pane) for reply in replies for pane in reply.open_panes]
        rows = [pane.row for _, pane in panes if pane.row is not None]
        try:
            logits = self._decoder.write(rows, [pane.tokens[-1] for _, pane in panes])
        except Exception as error:  # noqa: BLE001, told to all whom it stops
            return [Told(reply, error=error) for reply in replies]
        told = []
        for reply in replies:
            mine = [at for at, (owner, _) in enumerate(panes) if owner is reply]
            try:
                told.append(Told(reply, self._news(reply, [panes[at][1] for at in mine], logits[mine])))
            except Exception as error:  # noqa: BLE001, such as logits that are not numbers: the others go on
                told.append(Told(reply, error=error))
        return told

    def _news(self, reply: Reply, panes: Sequence[Pane], logits: Tensor) -> tuple[Delta, ...]:
        deltas = self._advance(reply, panes, logits)
        for pane in panes:
            if pane.ended is not None:
                self._let_go(pane)
        return (*deltas, *(self._conclude(reply) if reply.is_done else ()))

    def _let_go(self, pane: Pane) -> None:
        """Keep what was computed of it for the next turn, and let its row leave."""
        row, pane.row = pane.row, None
        if row is not None:
            self._decoder.keep(row)
