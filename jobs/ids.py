"""Ids of runs, datasets and adapters."""

from __future__ import annotations

from ulid import ULID


def new_id() -> str:
    """A ULID: 26 letters and digits, later ones sort later, safe as a folder's name."""
    return str(ULID())
