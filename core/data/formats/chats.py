"""Formats whose rows hold conversations: lists of turns, plain turns, and answers that were judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from core.data.formats import dialects as names
from core.data.formats.cells import decoded
from core.data.formats.conversations import CALL, ROLE_KEYS, SPEAKERS
from core.data.formats.findings import answers, found, has_text, is_called, listed, mapping, system, tools
from core.data.formats.first_rows import Column, Columns
from core.data.formats.mapping import Detection, Mapping

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def preference(columns: Columns) -> Detection | None:
    """Pairs of a chosen and a rejected answer."""
    chosen, rejected = columns.first(names.CHOSEN), columns.first(names.REJECTED)
    if chosen is None or rejected is None or not (chosen.has_text or chosen.has_talk):
        return None
    is_whole = chosen.is_transcript or any(_speaks(value, "user") for value in chosen.values)
    prompt = None if is_whole else _prompt(columns)
    best = mapping("preference", prompt=prompt, chosen=chosen, rejected=rejected, system=system(columns))
    pair = f"{chosen.name} and {rejected.name} are answers of which one was liked better"
    if prompt is None and not is_whole and not chosen.has_talk:
        why = f"{pair}, and no column holds what was asked"
        return found(columns, mapping("text", text=chosen), why, is_sure=False)
    return found(columns, best, f"{pair}; {chosen.name} is learned")


def _prompt(columns: Columns) -> Column | None:
    """What was asked: text, the turns so far, or such a column inside of an object."""
    known = (*names.PROMPTS, *names.INSTRUCTIONS, *names.CHATS)
    fits = (column for column in columns.named(known) if column.has_text or column.has_talk)
    if (column := next(fits, None)) is not None:
        return column
    objects = (column for column in columns.named(known) if column.shape == "object")
    inner = (columns.inside(column).first(names.CHATS, lambda each: each.has_talk) for column in objects)
    return next(filter(None, inner), None)


def desired(columns: Columns) -> Detection | None:
    """Answers with a mark that says whether they are desired."""
    mark = columns.first(names.DESIRED, lambda column: column.is_truth or set(map(str, column.values)) <= {"0", "1"})
    if mark is None or not mark.values:
        return None
    whole = columns.first((*names.CHATS, *names.ANSWERS), lambda column: column.has_talk)
    answer = whole or next(iter(answers(columns)), None)
    if answer is None:
        return None
    is_whole = any(_speaks(value, "user") for value in answer.values)
    prompt = None if is_whole else _prompt(columns)
    if prompt is None and not is_whole:
        return None
    best = mapping("desired", prompt=prompt, completion=answer, label=mark, system=system(columns))
    if mark.is_truth:
        return found(columns, best, f"{mark.name} says which answers in {answer.name} are desired; those are learned")
    rest = Columns([column for column in columns.all if column is not mark])
    other = chat(rest) if is_whole else None
    plain = other.mapping if other else mapping("prompt_completion", prompt=prompt, completion=answer)
    why = f"{mark.name} could say which answers in {answer.name} are desired, or something else"
    return found(columns, plain, why, [best])


def answered_chat(columns: Columns) -> Detection | None:
    """Turns up to a question, with the answer in another column."""
    prompt = columns.first((*names.PROMPTS, *names.CHATS), lambda column: column.has_talk)
    answer = next(iter(answers(columns, lambda column: column.has_text or column.has_talk)), None)
    if prompt is None or answer is None or any(_speaks(value, "assistant", last=True) for value in prompt.values):
        return None
    best = mapping("prompt_completion", prompt=prompt, completion=answer, system=system(columns), tools=tools(columns))
    return found(columns, best, f"{prompt.name} holds the turns up to a question, and {answer.name} what is answered")


def chat(columns: Columns) -> Detection | None:
    """Lists of turns, by the name of their column, or by what it holds where no name is known."""
    named = [column for column in columns.named(names.CHATS) if column.has_talk or _could_talk(column)]
    named = [column for column in named if column.has_talk] or named
    others = [column for column in columns.all if column.shape == "talk" and not is_called(column, names.CHATS)]
    candidates = named[:1] or others
    if not candidates:
        return None
    best, *rest = (_chat_mapping(columns, column) for column in candidates)
    column = candidates[0]
    if rest:
        return found(columns, best, f"{listed(candidates)} each hold conversations", rest)
    keys = "from and value, as ShareGPT's" if best.format == "sharegpt" else "role and content, as OpenAI's"
    return _with_remarks(found(columns, best, f"{column.name} holds lists of turns with {keys} do"), column)


def _could_talk(column: Column) -> bool:
    """Whether a column holds lists of objects, or empty ones: turns in which something is missing."""
    lists = [value for value in map(decoded, column.values) if isinstance(value, list)]
    return len(lists) > 0 and all(isinstance(turn, dict) for turns in lists for turn in turns)


def _chat_mapping(columns: Columns, column: Column) -> Mapping:
    first = next((turn for value in column.values for turn in _turns(value)), {})
    others = {"system": system(columns), "tools": tools(columns)}
    if "from" in first or ("role" not in first and column.key != "messages"):
        return mapping("sharegpt", conversations=column, **others)
    return mapping("messages", messages=column, **others)


def _with_remarks(detection: Detection, column: Column) -> Detection:
    turns = [turn for value in column.values for turn in _turns(value)]
    parts = [part for turn in turns if isinstance(turn.get("content"), list) for part in turn["content"]]
    thinks = any(turn.get(key) for turn in turns for key in _THOUGHTS) or any(
        isinstance(part, dict) and part.get("type") in _THOUGHTS for part in parts
    )
    if not thinks:
        return detection
    remark = "What the model thinks before it answers is put between <think> and </think>"
    return replace(detection, remarks=(*detection.remarks, remark))


def turns(columns: Columns) -> Detection | None:
    """Plain lists of texts, spoken in turn."""
    named = columns.first(names.TURNS, lambda column: column.shape == "texts")
    lists = [column for column in columns.all if column.shape == "texts"]
    column = named or (lists[0] if len(lists) == 1 and not any(map(has_text, columns.all)) else None)
    if column is None:
        return None
    why = f"{column.name} holds lists of texts, which are taken as said in turn, by the person first"
    best = mapping("turns", turns=column, system=system(columns))
    return found(columns, best, why, is_sure=named is not None)


def _turns(value: object) -> list[dict[str, Any]]:
    listed = decoded(value)
    return [turn for turn in (listed if isinstance(listed, list) else [listed]) if isinstance(turn, dict)]


def _speaks(value: object, role: str, last: bool = False) -> bool:
    """Whether a turn of `value`, or its last, is of `role`."""
    known = [
        SPEAKERS.get(str(turn.get(key)).strip().lower()) for turn in _turns(value) for key in ROLE_KEYS if key in turn
    ]
    spoken = ["assistant" if each == CALL else each for each in known]
    return role in (spoken[-1:] if last else spoken)
