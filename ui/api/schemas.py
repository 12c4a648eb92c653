"""What programs send, as OpenAI's clients do. What we do not have is refused with a sentence; what would change
nothing, such as `user` or `metadata`, is taken and not looked at.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from core.data.records import Message
from jobs.service import Sampling

MOST_STOPS, MOST_CHOICES, MOST_AT_ONCE = 4, 8, 16
CHAT_TOKENS, COMPLETION_TOKENS = 1024, 16  # of an answer at most, where the program does not say
LARGEST_SEED = 2**63 - 1

StopText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]

_ROLES = {"developer": "system"}

# For each field that we do not have: the values with which it asks for nothing.
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "suffix": (None, ""),
    "echo": (None, False),
    "web_search_options": (None,),
    # and of what other servers take beside OpenAI's fields
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "ignore_eos": (None, False),
    "stop_token_ids": (None, []),
    "use_beam_search": (None, False),
}


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn; its content is a text, or parts that are texts."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    def as_message(self) -> Message:
        """As the rest of the house knows it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role=_ROLES.get(self.role, self.role), content=content)  # type: ignore[arg-type]


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool = False


class Ask(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)  # as other servers have it: 0 and -1 leave all
    repetition_penalty: float | None = Field(None, gt=0, le=10)  # likewise: 1 is none
    seed: int | None = Field(None, ge=-LARGEST_SEED, le=LARGEST_SEED)
    stop: list[StopText] = []
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_here(cls, values: Any) -> Any:
        for name, harmless in _HARMLESS.items() if isinstance(values, dict) else ():
            if name in values and values[name] not in harmless:
                raise ValueError(f"{name} is not supported here; leave it out")
        return values

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, stop: Any) -> Any:
        if stop is None:
            return []
        return [stop] if isinstance(stop, str) else stop

    @field_validator("stop")
    @classmethod
    def _not_too_many(cls, stop: list[str]) -> list[str]:
        if len(stop) > MOST_STOPS:
            raise ValueError(f"there are {len(stop)}, and at most {MOST_STOPS} are taken")
        return stop

    @model_validator(mode="after")
    def _options_of_streams_alone(self) -> Ask:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are taken with stream alone")
        return self

    @property
    def choices(self) -> int:
        """How many answers are wanted to each prompt."""
        return self.n or 1

    @property
    def tells_usage(self) -> bool:
        """Whether a stream is to end with what it used."""
        return self.stream_options is not None and self.stream_options.include_usage

    def samplings(self, max_tokens: int) -> list[Sampling]:
        """How the tokens of each choice are chosen: apart from each other, and the same again for the same seed."""
        seed = secrets.randbelow(2**62) if self.seed is None else self.seed
        return [
            Sampling(
                max_new_tokens=max_tokens,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                top_k=max(self.top_k or 0, 0),
                repetition_penalty=self.repetition_penalty or 1.0,
                seed=(seed + choice) % 2**63,
            )
            for choice in range(self.choices)
        ]


class ChatAsk(Ask):
    """`/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def most_tokens(self) -> int:
        """Of an answer."""
        return self.max_completion_tokens or self.max_tokens or CHAT_TOKENS


class CompletionAsk(Ask):
    """`/v1/completions`."""

    prompt: list[str] = Field(min_length=1)
    best_of: int | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompts(cls, prompt: Any) -> Any:
        if isinstance(prompt, list) and any(isinstance(one, (int, list)) for one in prompt):
            raise ValueError("prompts of token numbers are not taken; give texts")
        return [prompt] if isinstance(prompt, str) else prompt

    @model_validator(mode="after")
    def _few_enough(self) -> CompletionAsk:
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("best_of is not supported here; leave it out")
        if len(self.prompt) * self.choices > MOST_AT_ONCE:
            raise ValueError(f"prompts times n are {len(self.prompt) * self.choices}, and at most {MOST_AT_ONCE} go")
        return self

    @property
    def most_tokens(self) -> int:
        """Of an answer."""
        return self.max_tokens or COMPLETION_TOKENS
