"""What those that look for a row format have in common: which columns could play a role, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from core.data.formats import dialects as names
from core.data.formats.cells import decoded, key_of
from core.data.formats.converting import first_answer
from core.data.formats.first_rows import Column, Columns
from core.data.formats.mapping import Detection, Mapping
from core.data.rows import BadRow

_ABOUT = frozenset(map(key_of, names.ABOUT))


def found(
    columns: Columns, best: Mapping, why: str, others: Sequence[Mapping] = (), is_sure: bool | None = None
) -> Detection:
    """The finding that `columns` mean `best`, which is sure where there are no `others` and nothing else is said."""
    taken = {column.partition(".")[0] for column in best.columns.values()} | set(best.columns.values())
    media = columns.named(names.MEDIA)
    what = f"column {listed(media)} is" if len(media) == 1 else f"columns {listed(media)} are"
    remarks = [f"The model reads text alone, so the {what} left out"] if media else []
    return Detection(
        mapping=best,
        why=why,
        is_sure=not others if is_sure is None else is_sure,
        alternatives=tuple(other for other in others if other != best),
        unused=tuple(name for name in columns.names if name not in taken),
        remarks=tuple(remarks),
    )


def mapping(format_key: str, **roles: Column | None) -> Mapping:
    """The mapping of those roles that have a column."""
    return Mapping(format=format_key, columns={role: column.name for role, column in roles.items() if column})


def listed(columns: Iterable[Column | None]) -> str:
    """Names of columns as in a sentence: `a, b and c`."""
    words = [column.name.strip() for column in columns if column is not None]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def is_about(column: Column) -> bool:
    """Whether a column tells of the row, such as where it is from, and is nothing to learn."""
    return column.key in _ABOUT or column.key.endswith("id")


def has_text(column: Column) -> bool:
    """Whether a column holds text."""
    return column.has_text


def is_called(column: Column, known: Iterable[str]) -> bool:
    """Whether a column goes by one of the names that are `known`."""
    return column.key in {key_of(name) for name in known}


def can_answer(column: Column) -> bool:
    """Whether a column holds answers, each text or a list of which the first counts."""
    return any(_has_answer(value) for value in column.values)


def _has_answer(value: object) -> bool:
    try:
        return bool(first_answer(value, ""))
    except BadRow:
        return False


def answers(columns: Columns, fits: Callable[[Column], bool] = has_text) -> list[Column]:
    """The columns that could hold what is answered."""
    return list(filter(fits, columns.named(names.ANSWERS)))


def system(columns: Columns) -> Column | None:
    """The column of system messages."""
    return columns.first(names.SYSTEMS, lambda column: column.has_text or not column.values)


def tools(columns: Columns) -> Column | None:
    """The column of the tools that may be called."""
    return columns.first(names.TOOLS, lambda column: any(isinstance(decoded(each), list) for each in column.values))


def history(columns: Columns) -> Column | None:
    """The column of earlier exchanges, each a pair; some rows may have none."""
    return columns.first(names.HISTORIES, lambda column: all(map(_are_exchanges, column.values)))


def _are_exchanges(value: object) -> bool:
    pairs = decoded(value)
    return isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)


def plain_texts(columns: Columns) -> list[Column]:
    """The columns of text that are not about the row, and not numbers, which a table keeps as text."""
    texts = (column for column in columns.all if column.shape == "text" and not is_about(column))
    return [column for column in texts if not column.are_numerals]
