"""What the columns of a file may mean: the row formats, their roles, and which column plays which role.

A `Mapping` is all that a row needs to become a record (`core.data.formats.converting`). It is found by
`core.data.formats.detection`, or made by hand of the table `FORMATS`, whose words are for people. A column's name may
be a path into objects, such as `input.messages`, where no column has that name itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from core.errors import ConfigError, DataError
from core.settings_file import read_settings, write_value

_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRole:
    """What a column can be in a format: a name for the page, and what the column should hold."""

    title: str
    sentence: str
    is_required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A row format as people know it; `roles` by key, in the order in which they are asked for."""

    title: str
    sentence: str
    roles: MappingProxyType[str, ColumnRole]

    @property
    def required(self) -> tuple[str, ...]:
        """The roles without which no row can be read."""
        return tuple(key for key, role in self.roles.items() if role.is_required)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """A format's key, and for each role that is played the name of its column in the file."""

    format: str
    columns: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What a file's columns seem to mean.

    `why` is one sentence. Where it is not sure, `mapping` is the likeliest and `alternatives` are the others; where it
    is, there are none. `unused` are the columns that no role takes.
    """

    mapping: Mapping
    why: str
    is_sure: bool = True
    alternatives: tuple[Mapping, ...] = ()
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        """The format's name for people."""
        return FORMATS[self.mapping.format].title


class Unclear(DataError):
    """What the columns mean cannot be told, and a person has to.

    Args:
        columns: by name a value that each holds, cut short.
        detection: the likeliest meaning; None where nothing fits.
    """

    def __init__(self, title: str, detail: str, columns: dict[str, str], detection: Detection | None = None) -> None:
        hint = "Say what the columns are, or name them prompt and completion, messages, text and label, or text alone"
        super().__init__(title, detail, hint)
        self.columns, self.detection = columns, detection


def _roles(**roles: tuple[str, str] | tuple[str, str, bool]) -> MappingProxyType[str, ColumnRole]:
    return MappingProxyType({
        key: ColumnRole(title=words[0], sentence=words[1], is_required=words[2] if len(words) == 3 else True)
        for key, words in roles.items()
    })  # fmt: skip


_SYSTEM = ("System", "Standing instructions that come before the conversation", False)
_TOOLS = ("Tools", "The functions that may be called, as a list or as JSON text", False)
_HISTORY = ("History", "Earlier exchanges, as a list of pairs", False)
_TURNS = "A list of turns, each with who speaks and what is said; also as JSON text"

FORMATS: MappingProxyType[str, Format] = MappingProxyType({
    "prompt_completion": Format(
        title="prompt and completion",
        sentence="One column asks and one answers; the model learns to write the answer.",
        roles=_roles(
            prompt=("Prompt", "What the model is given: text, or the turns so far"),
            completion=("Completion", "What it learns to write"),
            system=_SYSTEM,
            tools=_TOOLS,
            history=_HISTORY,
        ),
    ),
    "alpaca": Format(
        title="Alpaca",
        sentence="An instruction, often with an input to carry it out on, and the output.",
        roles=_roles(
            instruction=("Instruction", "What is to be done"),
            input=("Input", "What it is to be done with; may be empty in some rows", False),
            output=("Output", "What the model learns to write"),
            system=_SYSTEM,
            history=_HISTORY,
        ),
    ),
    "question_answer": Format(
        title="question and answer",
        sentence="A question, with or without a text that it is about, and its answer.",
        roles=_roles(
            question=("Question", "What is asked"),
            answer=("Answer", "What the model learns to write; of several answers the first"),
            context=("Context", "The text that the question is about; it comes first", False),
            system=_SYSTEM,
        ),
    ),
    "messages": Format(
        title="OpenAI messages",
        sentence="Conversations as chat models take them: messages with a role and content.",
        roles=_roles(messages=("Messages", _TURNS), system=_SYSTEM, tools=_TOOLS),
    ),
    "sharegpt": Format(
        title="ShareGPT",
        sentence="Conversations as chat exports write them: turns with from and value.",
        roles=_roles(conversations=("Conversations", _TURNS), system=_SYSTEM, tools=_TOOLS),
    ),
    "turns": Format(
        title="turns of a talk",
        sentence="Conversations as plain lists of sentences; the first is the person's, the second the model's.",
        roles=_roles(turns=("Turns", "A list of texts, or of pairs of texts"), system=_SYSTEM),
    ),
    "preference": Format(
        title="preference pairs",
        sentence="Two answers of which one was liked better; that one is learned.",
        roles=_roles(
            prompt=("Prompt", "What was asked, where the answers do not hold it themselves", False),
            chosen=("Chosen", "The answer that was liked better: text or messages"),
            rejected=("Rejected", "The other answer; it is not used", False),
            system=_SYSTEM,
        ),
    ),
    "desired": Format(
        title="desired answers",
        sentence="Answers marked as desired or not; those that are not desired are left out.",
        roles=_roles(
            prompt=("Prompt", "What was asked, where the answer does not hold it itself", False),
            completion=("Completion", "The answer: text or messages"),
            label=("Label", "True where the answer is desired"),
            system=_SYSTEM,
        ),
    ),
    "text": Format(
        title="text",
        sentence="Plain text, all of which is learned.",
        roles=_roles(text=("Text", "What the model learns to write")),
    ),
    "labeled": Format(
        title="text and label",
        sentence="A text, or a pair of texts, and the class that it belongs to.",
        roles=_roles(
            text=("Text", "What is to be classified"),
            text_pair=("Second text", "What the text is compared with", False),
            label=("Label", "The class: a name or a number"),
        ),
    ),
})  # fmt: skip


def check_mapping(mapping: Mapping, columns: Collection[str]) -> None:
    """Refuse a mapping that no row could be read by.

    Raises:
        ConfigError: there is no such format or role, a role is missing, or two share a column.
        DataError: a column is not among those of the file.
    """
    if mapping.format not in FORMATS:
        raise ConfigError(
            f"There is no row format {mapping.format!r}", hint=f"Choose from {', '.join(FORMATS)}", field="mapping"
        )
    known = FORMATS[mapping.format]
    for role, column in mapping.columns.items():
        if role not in known.roles:
            options = ", ".join(known.roles)
            raise ConfigError(f"{known.title} has no role {role!r}", hint=f"Choose from {options}", field="mapping")
        if column not in columns and column.partition(".")[0] not in columns:
            found = ", ".join(list(columns)[:_SHOWN]) + (" …" if len(columns) > _SHOWN else "")
            raise DataError(f"There is no column {column!r}", f"found: {found}", "Choose one of those")
    if missing := [known.roles[role].title for role in known.required if role not in mapping.columns]:
        title = f"No column is chosen for {' and '.join(missing)}"
        raise ConfigError(title, hint=f"{known.title} needs one", field="mapping")
    taken = list(mapping.columns.values())
    if repeated := next((column for column in taken if taken.count(column) > 1), ""):
        raise ConfigError(
            f"The column {repeated!r} is chosen twice", hint="Choose each for one role alone", field="mapping"
        )


def parse_mapping(values: object) -> Mapping:
    """The mapping that `dataclasses.asdict` made `values` of, perhaps by way of JSON.

    Raises:
        ConfigError: they are no mapping.
    """
    if isinstance(values, dict) and set(values) == {"format", "columns"} and isinstance(values["format"], str):
        columns: dict[Any, Any] = values["columns"] if isinstance(values["columns"], dict) else {0: 0}
        if all(isinstance(word, str) for pair in columns.items() for word in pair):
            return Mapping(format=values["format"], columns=columns)
    raise ConfigError(
        "The mapping cannot be read", hint='Write {"format": …, "columns": {role: column}}', field="mapping"
    )


def write_mapping(mapping: Mapping) -> str:
    """`mapping` on one line of YAML, as `alpaca: {instruction: task, output: reply}`; `read_mapping` gives it back."""
    return f"{mapping.format}: {write_value(mapping.columns)}"


def read_mapping(text: str, source: str) -> Mapping:
    """The mapping that a person typed; `source` is what errors call it.

    Raises:
        ConfigError: it is no format with its roles and their columns.
    """
    values = read_settings(text, source).values
    if len(values) == 1:
        ((format_key, columns),) = values.items()
        if (
            isinstance(columns, dict)
            and format_key in FORMATS
            and all(isinstance(name, str) for name in columns.values())
        ):
            return Mapping(format=format_key, columns=columns)
    hint = f"Write 'FORMAT: {{ROLE: COLUMN, …}}' with one of {', '.join(FORMATS)}"
    raise ConfigError(f"{source} says not what the columns mean", text, hint, field="mapping")
