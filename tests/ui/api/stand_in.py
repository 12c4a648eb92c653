"""A service that answers programs without a model: what is said is what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from core.errors import NotFound
from jobs.service import Asked, ChatUpdate, Delta, Served, Waiting

CAPTAIN = Served(
    id="captain",
    base_model="starter",
    adapter_id="A1",
    fingerprint="0a1b2c3d",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
BASE = Served(id="starter", base_model="starter")


class StandInKeys:
    def __init__(self, keys: dict[str, str] | None = None) -> None:
        self.keys = keys or {}

    def are_wanted(self) -> bool:
        return bool(self.keys)

    def owner(self, key: str) -> str | None:
        return self.keys.get(key)


class StandInServing:
    """Says each word of what it was asked, and then how: a token each. `fails_after` says after how many tokens what
    error comes.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Served, list[Asked]]] = []
        self.fails_after: tuple[int, Exception] | None = None
        self.closed = 0

    def models(self) -> tuple[Served, ...]:
        return BASE, CAPTAIN

    def find(self, name: str) -> Served:
        for served in self.models():
            if name in (served.id, f"{served.id}#{served.fingerprint}"):
                return served
        raise NotFound(f"There is no model {name}", hint="List the models to see their names")

    def answer(self, served: Served, asked: Sequence[Asked]) -> Iterator[ChatUpdate]:
        self.asked.append((served, list(asked)))
        return self._say(list(asked))

    def _say(self, asked: list[Asked]) -> Iterator[ChatUpdate]:
        try:
            yield Waiting(phase="starting")
            words = [(one.text or one.messages[-1].content).split() for one in asked]
            count = 0
            for turn in range(max(map(len, words))):
                for pane, mine in enumerate(words):
                    if turn >= len(mine):
                        continue
                    if self.fails_after is not None and count == self.fails_after[0]:
                        raise self.fails_after[1]
                    count += 1
                    is_done = turn + 1 == len(mine)
                    yield Delta(
                        pane=pane,
                        text=mine[turn] + ("" if is_done else " "),
                        tokens=turn + 1,
                        seconds=0.1,
                        done=is_done,
                        prompt_tokens=10 + pane,
                        ended=("stop", "length")[pane % 2] if is_done else None,  # type: ignore[arg-type]
                    )
        finally:
            self.closed += 1


class StandInService:
    def __init__(self, keys: dict[str, str] | None = None) -> None:
        self.keys, self.serving = StandInKeys(keys), StandInServing()
