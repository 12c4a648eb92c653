"""Formats whose rows hold one text, or two, with or without a class."""

from __future__ import annotations

from core.data.formats import dialects as names
from core.data.formats.findings import found, has_text, is_about, is_called, listed, mapping, plain_texts
from core.data.formats.first_rows import Column, Columns
from core.data.formats.mapping import Detection

_OFFERED = 3


def labeled(columns: Columns) -> Detection | None:
    """A text, or a pair of them, with a label."""
    label = columns.first(names.LABELS, _names_classes)
    is_named = label is not None
    label = label or columns.first(names.MAYBE_CLASSES, _looks_like_classes)
    if label is None:
        return None
    rest = Columns([column for column in columns.all if column is not label])
    pair = next((pair for pair in map(rest.named, names.PAIRS) if len(pair) == 2 and all(map(has_text, pair))), None)
    texts = pair or _texts(rest)
    if not texts:
        return None
    if pair:
        first, second = pair
        best = mapping("labeled", text=first, text_pair=second, label=label)
    else:
        best = mapping("labeled", text=texts[0], label=label)
    if not is_named:
        why = f"{label.name} could be the class of what {texts[0].name} says, or something that is known about it"
        return found(columns, best, why, [mapping("text", text=texts[0])])
    if not label.are_names and not label.has_text:
        why = f"{label.name} hardly repeats, so it could be a measure of what {texts[0].name} says, and no class"
        return found(columns, best, why, [mapping("text", text=texts[0])])
    if not label.are_names:
        why = f"{label.name} could be the class of what {texts[0].name} says, but looks more like the answer to it"
        return found(columns, mapping("prompt_completion", prompt=texts[0], completion=label), why, [best])
    if not pair and len(texts) > 1:
        why = f"{listed(texts)} could each be the text that {label.name} is about"
        return found(columns, best, why, [mapping("labeled", text=text, label=label) for text in texts[1:]])
    held = "pairs of texts" if pair else "texts"
    return found(columns, best, f"{listed(texts)} {'hold' if pair else 'holds'} {held}, and {label.name} their classes")


def _names_classes(column: Column) -> bool:
    """Whether most of the values are text, truths or whole numbers."""
    whole = [isinstance(value, (str, int)) or _is_whole(value) for value in column.values]
    return sum(whole) > len(whole) / 2


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _looks_like_classes(column: Column) -> bool:
    return _names_classes(column) and column.are_names and column.distinct > 1


def _texts(columns: Columns) -> list[Column]:
    """What could be classified: the text that goes by the plainest name, or all that there are where none does."""
    bodies = list(filter(has_text, columns.named(names.BODIES)))
    if bodies:
        return bodies[:1]
    others = [column for column in plain_texts(columns) if not is_called(column, names.HEADINGS)]
    return others + list(filter(has_text, columns.named(names.HEADINGS)))[:1]


def text(columns: Columns) -> Detection | None:
    """Text with nothing beside it that answers."""
    texts = plain_texts(columns)
    named = columns.first(names.PASSAGES, has_text)
    if named is not None and (named.key == "text" or all(column is named for column in texts)):
        best = mapping("text", text=named)
        if labels := columns.named(names.LABELS[:6]):
            return found(columns, best, f"{labels[0].name} holds neither names nor whole numbers", is_sure=False)
        return found(columns, best, f"{named.name} holds text, and nothing answers it")
    if named is not None:
        others = [column for column in texts if column is not named]
        beside = [mapping("prompt_completion", prompt=named, completion=other) for other in others]
        why = f"{named.name} holds text, and so {'does' if len(others) == 1 else 'do'} {listed(others)}"
        return found(columns, mapping("text", text=named), why, beside[:_OFFERED], is_sure=False)
    texts = texts or [column for column in columns.all if column.shape == "text" and len(columns.all) == 1]
    if len(texts) != 1:
        return None
    (only,) = texts
    is_part = is_called(only, (*names.PROMPTS, *names.INSTRUCTIONS, *names.ANSWERS)) or is_about(only)
    why = f"{only.name} is the only column of text" + (", and nothing goes with it" if is_part else "")
    is_word = only.is_brief and len(columns.all) > 1  # a field of a table rather than a text to learn
    return found(columns, mapping("text", text=only), why, is_sure=not is_part and not is_word)
