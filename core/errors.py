"""Every error that a person may read, as one tree.

    UserError                 the request cannot be carried out; nothing was changed
    |- ConfigError            a setting is outside what the engine or the model allows
    |- DataError              a dataset file cannot be read or trained on
    |- ModelError             a base model cannot be found, read or converted
    |- AdapterError           an adapter on disk does not fit its format or its base model
    |- RunError               a run cannot be started, moved to that state, or went wrong
    `- NotFound               an id names nothing that is stored

A `UserError` carries what happened (`title`), where (`detail`) and what to do (`hint`). The page shows these,
the command line prints them as one sentence, and only logs keep tracebacks. Anything that is not a `UserError`
is our own mistake.
"""

from __future__ import annotations

_JOINERS = "\u200c\u200d"  # invisible, and part of words and of emoji


class UserError(Exception):
    """One thing that went wrong, told to the person who can act on it. What others (libraries, files) say in it may
    have lines, and characters that no sentence has; they become blanks and question marks.

    Args:
        title: what happened, with the value that caused it, without a full stop.
        detail: where it happened (a row, a file, a field), or the longer story; may be empty.
        hint: what to do next, as an imperative; may be empty.
    """

    def __init__(self, title: str, detail: str = "", hint: str = "") -> None:
        super().__init__(title)
        self.title, self.detail, self.hint = map(_one_line, (title, detail, hint))

    def __str__(self) -> str:
        """The one sentence that a terminal prints."""
        where = f" ({self.detail})" if self.detail else ""
        what_to_do = f"; {self.hint[0].lower()}{self.hint[1:]}" if self.hint else ""
        return f"{self.title}{where}{what_to_do}".rstrip(".") + "."


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter in _JOINERS else "?" for letter in " ".join(text.split()))


class ConfigError(UserError):
    """A setting is outside what the engine or the model allows. `field` is its dotted name, such as `lora.rank`."""

    def __init__(self, title: str, detail: str = "", hint: str = "", field: str = "") -> None:
        super().__init__(title, detail, hint)
        self.field = field


class DataError(UserError):
    """A dataset file cannot be read or trained on."""


class ModelError(UserError):
    """A base model cannot be found, read or converted."""


class AdapterError(UserError):
    """An adapter on disk does not fit its format or its base model."""


class RunError(UserError):
    """A run cannot be started, moved to that state, or went wrong."""


class NotFound(UserError):
    """An id names nothing that is stored."""
