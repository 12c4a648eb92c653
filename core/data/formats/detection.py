"""Row formats: what a file's columns mean, told by their names and by what the first rows hold.

The formats are tried in order, those that are hardest to mistake first: pairs of a chosen and a rejected answer,
answers marked as desired, conversations, an instruction with its output, a question with its answer, a prompt with its
completion, plain turns, a text with a label, text. Names decide only where the values bear them out: a `label` of long
sentences is no class, a `messages` of texts no conversation. Where two readings are left, the likelier one is given
with the other beside it, and a person is asked; where none is, `Unclear` is raised with what the columns hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.data.formats import answers as answer_formats
from core.data.formats import chats as chat_formats
from core.data.formats import labels as label_formats
from core.data.formats.converting import to_record
from core.data.formats.first_rows import Columns
from core.data.formats.mapping import FORMATS, Detection, Mapping, Unclear, check_mapping, parse_mapping
from core.data.rows import Row

__all__ = [
    "FORMATS",
    "Detection",
    "Mapping",
    "Unclear",
    "check_mapping",
    "detect",
    "parse_mapping",
    "to_record",
]

_LOOKS = (
    chat_formats.preference,
    chat_formats.desired,
    chat_formats.answered_chat,
    chat_formats.chat,
    answer_formats.alpaca,
    answer_formats.question,
    answer_formats.pair,
    chat_formats.turns,
    label_formats.labeled,
    label_formats.text,
    answer_formats.two_texts,
)
_SHOWN = 20
_SAMPLES = 60


def detect(rows: Sequence[Row], name: str) -> Detection:
    """What the columns of the file called `name` mean, told from its first `rows` taken together.

    Raises:
        Unclear: they fit no format; lists those found.
    """
    columns = Columns.of(row.values for row in rows if isinstance(row.values, dict))
    for look in _LOOKS:
        if (detection := look(columns)) is not None:
            return detection
    shown = ", ".join(columns.names[:_SHOWN]) + (" …" if len(columns.names) > _SHOWN else "")
    raise Unclear(f"{name} has no columns that can be trained on", f"found: {shown or 'none'}", samples(columns))


def samples(columns: Columns) -> dict[str, str]:
    """By name a value of each column, and of what lies in its objects, by its path."""
    inner = (each for column in columns.all if column.shape == "object" for each in columns.inside(column).all)
    return {column.name: column.sample for column in [*columns.all, *inner][:_SAMPLES]}
