"""Names and notes that people give: display text, never a path."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from core.errors import ConfigError

LONGEST_NAME, LONGEST_NOTE = 80, 4000

# Control characters, and those that turn the direction of text around.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def checked_name(text: str) -> str:
    """`text` in Unicode's composed form, without blanks around it.

    Raises:
        ConfigError: on `name`; it is empty, too long or holds control characters.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise ConfigError("The name is empty", hint="Give it at least one letter", field="name")
    if len(name) > LONGEST_NAME:
        hint = f"Shorten it to at most {LONGEST_NAME} characters"
        raise ConfigError(f"The name has {len(name)} characters", hint=hint, field="name")
    if not is_printable(name):
        raise ConfigError("The name holds control characters", hint="Type it anew", field="name")
    return name


def checked_note(note: str) -> str:
    """The note in Unicode's composed form, without blanks around it.

    Raises:
        ConfigError: on `note`; it is too long, or holds control characters.
    """
    text = unicodedata.normalize("NFC", note).replace("\r\n", "\n").strip()
    if len(text) > LONGEST_NOTE:
        hint = f"Shorten it to at most {LONGEST_NOTE:,}"
        raise ConfigError(f"The note has {len(text):,} characters", hint=hint, field="note")
    if not all(is_printable(line.replace("\t", " ")) for line in text.split("\n")):
        raise ConfigError("The note holds control characters", hint="Type it anew", field="note")
    return text


def is_printable(text: str) -> bool:
    """Whether it holds no control characters, and none that turn the direction of text around."""
    return _UNPRINTABLE.search(text) is None


def file_title(path: Path) -> str:
    """A file's own name as a display name: whatever cannot be shown is left out and the rest cut to length."""
    name = _UNPRINTABLE.sub("", unicodedata.normalize("NFC", path.name)).strip()
    return name[-LONGEST_NAME:] or "dataset"


def slug(name: str) -> str:
    """`name` as a part of a file's name: lower-case ASCII letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40] or "adapter"
