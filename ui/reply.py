"""An answer in the Playground as it arrives, with what is known of its tokens. No Gradio in here."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.service import Delta, TokenProbability


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of an answer and the text that it completed; empty where a character needs more tokens, or none came."""

    text: str
    token: TokenProbability


@dataclass(kw_only=True)
class Reply:
    """An answer so far. `is_over` says that nothing more of it will come, `made_with` by which strengths it was made,
    and `differs_at` counts its first token, from 1, that is not the base's. `pieces` are its tokens, and `base` the
    same in the eyes of the base, where they were asked for.
    """

    made_with: str = ""
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    is_done: bool = False
    is_over: bool = False
    differs_at: int | None = None
    pieces: list[Piece] = field(default_factory=list)
    base: tuple[TokenProbability, ...] = ()

    def take(self, delta: Delta) -> None:
        """Add what is new."""
        self.text += delta.text
        self.tokens, self.seconds, self.is_done = delta.tokens, delta.seconds, delta.done
        self.differs_at = delta.differs_at
        self.pieces += [Piece(delta.text, token) for token in delta.probabilities[:1]]
        self.base = delta.base_probabilities or self.base

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0
