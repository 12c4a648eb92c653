"""Formats whose rows hold what is asked and what is answered, each in a column of its own."""

from __future__ import annotations

from core.data.formats import dialects as names
from core.data.formats.findings import (
    answers,
    can_answer,
    found,
    has_text,
    history,
    is_called,
    listed,
    mapping,
    plain_texts,
    system,
    tools,
)
from core.data.formats.first_rows import Column, Columns
from core.data.formats.mapping import Detection


def alpaca(columns: Columns) -> Detection | None:
    """An instruction with its output, and perhaps an input."""
    instruction = columns.first(names.INSTRUCTIONS, has_text)
    outputs = answers(columns)
    if instruction is None or not outputs:
        return None
    roles = {
        "input": columns.first(names.INPUTS, lambda column: has_text(column) or not column.values),
        "system": system(columns),
        "history": history(columns),
    }
    maps = [mapping("alpaca", instruction=instruction, output=output, **roles) for output in outputs]
    question = columns.first(names.QUESTIONS, has_text)
    if question is not None:
        as_input = mapping("alpaca", instruction=instruction, output=outputs[0], **{**roles, "input": question})
        as_system = mapping("question_answer", question=question, answer=outputs[0], system=instruction)
        asked = f"what {question.name} asks and {outputs[0].name} answers"
        why = f"{instruction.name} could belong to {asked}, or be the system message before it"
        return found(columns, as_input, why, [as_system, *maps])
    if len(maps) > 1:
        return found(columns, maps[0], f"{listed(outputs)} could each hold the output", maps[1:])
    why = f"The columns {listed((instruction, roles['input'], outputs[0]))} are Alpaca's"
    return found(columns, maps[0], why)


def question(columns: Columns) -> Detection | None:
    """A question with its answer, and perhaps the text that it is about."""
    asked = columns.first(names.QUESTIONS, has_text)
    replies = answers(columns, can_answer)
    if asked is None or not replies:
        return None
    context = columns.first(names.CONTEXTS, lambda column: column.shape == "text")
    maps = [
        mapping("question_answer", question=asked, answer=reply, context=context, system=system(columns))
        for reply in replies
    ]
    if len(maps) > 1:
        return found(columns, maps[0], f"{listed(replies)} could each hold the answers", maps[1:])
    why = f"{asked.name} holds questions, and {replies[0].name} their answers"
    if context is not None:
        why = f"{why}, about what {context.name} says"
    if choices := columns.first(names.CHOICES):
        return found(columns, maps[0], f"{why}, but the choices in {choices.name} would be left out", is_sure=False)
    return found(columns, maps[0], why)


def pair(columns: Columns) -> Detection | None:
    """What is asked, by many names, with what is answered."""
    replies = answers(columns)
    asked = [column for column in columns.named(names.PROMPTS) if column.has_text and column not in replies]
    is_named = bool(asked)
    asked = asked or [column for column in columns.named(names.SOURCES) if column.has_text][:1]
    if not replies or not asked:
        return None
    others = {"system": system(columns), "tools": tools(columns), "history": history(columns)}
    maps = [
        mapping("prompt_completion", prompt=prompt, completion=reply, **others) for reply in replies for prompt in asked
    ]
    prompt, reply = asked[0], replies[0]
    if not is_named and is_called(reply, names.MAYBE_LABELS) and reply.repeats:
        return found(columns, mapping("labeled", text=prompt, label=reply), _either(prompt, reply), maps)
    if len(replies) > 1:
        return found(columns, maps[0], f"{listed(replies)} could each hold what is answered", maps[1:])
    if len(asked) > 1:
        return found(columns, maps[0], f"{listed(asked)} could each hold what is asked", maps[1:])
    return found(columns, maps[0], f"{prompt.name} holds what is asked, and {reply.name} what is answered")


def two_texts(columns: Columns) -> Detection | None:
    """A guess at two columns of text whose names say nothing; a person has to choose."""
    texts = plain_texts(columns)
    if len(texts) != 2:
        return None
    first, second = sorted(texts, key=lambda column: -column.asks)
    forth = mapping("prompt_completion", prompt=first, completion=second)
    back = mapping("prompt_completion", prompt=second, completion=first)
    classes = [column for column in texts if column.repeats]
    if len(classes) != 1:
        why = f"{listed(texts)} hold text, and nothing tells which of them answers"
        return found(columns, forth, why, [back])
    (label,) = classes
    text, asked = (first, forth) if label is second else (second, back)
    return found(columns, mapping("labeled", text=text, label=label), _either(text, label), [asked])


def _either(text: Column, label: Column) -> str:
    return f"{label.name} could be the class of what {text.name} says, or the answer to it"
