"""How a row becomes a record, once it is known what its columns mean.

`converter` plans that once for a mapping; the plan is a function of a row's values that looks at no other column.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

from core.data.formats.cells import (
    MISSING,
    Values,
    cell,
    decoded,
    empty,
    filled,
    is_nothing,
    missing,
    optional_text,
    sound_text,
    text_of,
)
from core.data.formats.conversations import conversation, messages_of, plain_turns, said, talk_in, transcript
from core.data.formats.mapping import Mapping
from core.data.formats.tool_calls import tools_of
from core.data.records import Conversation, Labeled, Message, Passage, Record
from core.data.rows import BadRow, Row, kind_of

Columns: TypeAlias = dict[str, str]
Plan: TypeAlias = Callable[[Values, int], Record]

_ANSWERS = ("text", "value", "answer", "content")
_CLEAR = MappingProxyType({"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False})


class NotDesired(BadRow):
    """Raised on a row whose answer is marked as one that nobody wants."""

    def __init__(self) -> None:
        super().__init__("is marked as not desired", "Leave it out")


def converter(mapping: Mapping) -> Callable[[Row], Record]:
    """What makes a record of a row of a file whose columns mean `mapping`, which `check_mapping` has passed.

    The function raises `BadRow` on a row that cannot be trained on, `NotDesired` on one that is not meant to be.
    """
    plan = _PLANS[mapping.format](mapping.columns)

    def convert(row: Row) -> Record:
        values = row.values
        if not isinstance(values, dict):
            raise BadRow(f"is {kind_of(values)}, not an object with columns", "Correct or remove the row")
        return plan(values, row.number)

    return convert


def to_record(row: Row, mapping: Mapping) -> Record:
    """`row` as a record; for many rows ask `converter` once.

    Raises:
        BadRow: it cannot be trained on.
    """
    return converter(mapping)(row)


def _pair(columns: Columns) -> Plan:
    prompt, completion = columns["prompt"], columns["completion"]
    return _exchange(columns, prompt, completion, partial(text_of, column=prompt), columns.get("history"))


def _alpaca(columns: Columns) -> Plan:
    instruction, context, history = columns["instruction"], columns.get("input"), columns.get("history")

    def ask(values: Values) -> str:
        first, second = text_of(values, instruction), optional_text(values, context)
        return "\n\n".join(part for part in (first, second) if part and not part.isspace())

    return _exchange(columns, instruction, columns["output"], ask, history)


def _exchange(
    columns: Columns, question: str, answer: str, ask: Callable[[Values], str], history: str | None = None
) -> Plan:
    """A question and its answer, of which either may also be turns."""
    system, tools = columns.get("system"), columns.get("tools")
    is_plain = system is None and tools is None and history is None

    def convert(values: Values, number: int) -> Record:
        asked, answered = values.get(question), values.get(answer)
        if type(asked) is not str or type(answered) is not str or (asked[:2] == answered[:2] == "[{"):
            turns = _turns_of_both(values, question, answer)
            if turns:
                return _talk(values, turns, number, system, tools)
        prompt, reply = ask(values), text_of(values, answer, "missing_answers")
        if not prompt or prompt.isspace():
            raise empty(question)
        if not reply or reply.isspace():
            raise empty(answer, "missing_answers")
        messages = [Message(role="user", content=prompt), Message(role="assistant", content=reply)]
        if is_plain:
            return Conversation(messages=tuple(messages), source_row=number)
        if history is not None and not is_nothing(before := cell(values, history)):
            messages = plain_turns(before, history) + messages
        return _talk(values, messages, number, system, tools)

    return convert


def _turns_of_both(values: Values, question: str, answer: str) -> list[Message]:
    """The turns of a question and its answer; none where both are no more than text, or not there."""
    found = [talk_in(cell(values, column)) is not None for column in (question, answer)]
    is_text = isinstance(values.get(question), str) and isinstance(values.get(answer), str)
    if not (all(found) if is_text else any(found)):
        return []
    return _either(values, question, "user") + _either(values, answer, "assistant")


def _either(values: Values, column: str, role: Any) -> list[Message]:
    """The messages of a column of turns or text."""
    value = cell(values, column)
    if value is MISSING:
        raise missing(column, "missing_answers" if role == "assistant" else "empty")
    return said(value, column, role)


def _talk(values: Values, messages: list[Message], number: int, system: str | None, tools: str | None) -> Conversation:
    """A conversation with what the columns for a system message and tools add; its own system message goes before."""
    if (said_first := optional_text(values, system)) and not (messages and messages[0].role == "system"):
        messages = [Message(role="system", content=said_first), *messages]
    return conversation(messages, number, None if tools is None else tools_of(cell(values, tools)))


def _question(columns: Columns) -> Plan:
    question, answer = columns["question"], columns["answer"]
    context, system = columns.get("context"), columns.get("system")

    def convert(values: Values, number: int) -> Record:
        asked, about = filled(values, question), optional_text(values, context)
        reply = first_answer(cell(values, answer), answer)
        prompt = f"{about}\n\n{asked}" if about and not about.isspace() else asked
        messages = [Message(role="user", content=prompt), Message(role="assistant", content=reply)]
        return _talk(values, messages, number, system, None)

    return convert


def first_answer(value: Any, column: str) -> str:
    """The answer, or the first of several, as SQuAD lists them under `text`."""
    if value is MISSING:
        raise missing(column, "missing_answers")
    found = inside = decoded(value)
    if isinstance(value, str) and not (isinstance(inside, dict) and "answer_start" in inside):
        found = value  # an answer that is JSON itself
    while isinstance(found, (dict, list)):
        if isinstance(found, dict):
            inside = [found[key] for key in _ANSWERS if not is_nothing(found.get(key))]
        else:
            inside = [item for item in found if not is_nothing(item)]
        if not inside:
            raise BadRow(f"has no answer in its {column}", "Write one or remove the row", "missing_answers")
        found = inside[0]
    text = sound_text(found, column)
    if not text or text.isspace():
        raise empty(column, "missing_answers")
    return text


def _chat(columns: Columns) -> Plan:
    column = columns["messages"] if "messages" in columns else columns["conversations"]
    system, tools = columns.get("system"), columns.get("tools")

    def convert(values: Values, number: int) -> Record:
        turns = values.get(column, MISSING)
        if turns is MISSING and (turns := cell(values, column)) is MISSING:
            raise missing(column, "empty")
        return _talk(values, messages_of(turns, column), number, system, tools)

    return convert


def _turns(columns: Columns) -> Plan:
    column, system = columns["turns"], columns.get("system")

    def convert(values: Values, number: int) -> Record:
        turns = cell(values, column)
        if turns is MISSING:
            raise missing(column, "empty")
        return _talk(values, plain_turns(turns, column), number, system, None)

    return convert


def _preference(columns: Columns) -> Plan:
    return _best(columns, columns["chosen"])


def _best(columns: Columns, answer: str) -> Plan:
    """An answer, with the question before it where it does not hold it itself."""
    prompt, system = columns.get("prompt"), columns.get("system")

    def convert(values: Values, number: int) -> Record:
        value = cell(values, answer)
        if value is MISSING:
            raise missing(answer, "missing_answers")
        messages = transcript(value) or said(value, answer, "assistant")
        if prompt is not None and not any(message.role == "user" for message in messages):
            asked = cell(values, prompt)
            messages = (transcript(asked) or _either(values, prompt, "user")) + messages
        return _talk(values, messages, number, system, None)

    return convert


def _desired(columns: Columns) -> Plan:
    label, best = columns["label"], _best(columns, columns["completion"])

    def convert(values: Values, number: int) -> Record:
        mark = cell(values, label)
        is_desired = _CLEAR.get(str(mark).strip().lower().removesuffix(".0"))
        if is_desired is None:
            shown = kind_of(mark) if mark is not MISSING else "missing"
            raise BadRow(f"has a {label} that is {shown}, not true or false", f"Correct {label} or remove the row")
        if not is_desired:
            raise NotDesired
        return best(values, number)

    return convert


def _text(columns: Columns) -> Plan:
    column = columns["text"]
    return lambda values, number: Passage(text=filled(values, column), source_row=number)


def _labeled(columns: Columns) -> Plan:
    first, second, label = columns["text"], columns.get("text_pair"), columns["label"]

    def convert(values: Values, number: int) -> Record:
        text = filled(values, first)
        pair = None if second is None else filled(values, second)
        return Labeled(text=text, text_pair=pair, label=_class_name(values, label), source_row=number)

    return convert


def _class_name(values: Values, column: str) -> str:
    """The name of a class, which may be written as a number (also 1.0, as columns with gaps hold it) or as true. White
    space around it is dropped.
    """
    value = cell(values, column)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, str) and not value.strip():
        raise empty(column)
    return text_of(values, column).strip()


_PLANS: MappingProxyType[str, Callable[[Columns], Plan]] = MappingProxyType({
    "prompt_completion": _pair,
    "alpaca": _alpaca,
    "question_answer": _question,
    "messages": _chat,
    "sharegpt": _chat,
    "turns": _turns,
    "preference": _preference,
    "desired": _desired,
    "text": _text,
    "labeled": _labeled,
})  # fmt: skip
