"""What people put down about runs, to find and to tell them apart: tags and a note. `service.notes`."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.errors import ConfigError
from jobs.names import checked_note, is_printable
from jobs.store import Store
from jobs.views import Run

MOST_TAGS, LONGEST_TAG = 12, 30


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes of one home."""

    store: Store

    def put(self, run_id: str, tags: Sequence[str], note: str) -> Run:
        """Give a run these tags and this note, in place of those that it had.

        Raises:
            NotFound: there is no such run.
            ConfigError: on `tags` or `note`: too many, too long, or with control characters.
        """
        self.store.annotate(run_id, checked_tags(tags), checked_note(note))
        return self.store.run(run_id)


def tags_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """The tags that the runs have, those of most runs first."""
    counts = Counter(tag for run in runs for tag in run.tags)
    return tuple(sorted(counts, key=lambda tag: (-counts[tag], tag)))


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Each tag once, in one spelling.

    Raises:
        ConfigError: there are too many, or one is too long or cannot be shown.
    """
    named = (unicodedata.normalize("NFC", tag).strip().lower() for tag in tags)
    found = tuple(dict.fromkeys(tag for tag in named if tag))
    if len(found) > MOST_TAGS:
        raise ConfigError(f"These are {len(found)} tags", hint=f"{MOST_TAGS} is the most; drop some", field="tags")
    for tag in found:
        if len(tag) > LONGEST_TAG:
            raise ConfigError(f"The tag {tag} is too long", hint=f"{LONGEST_TAG} letters are the most", field="tags")
        if not is_printable(tag) or "," in tag:
            raise ConfigError("A tag holds a comma or control characters", hint="Type it anew", field="tags")
    return found
