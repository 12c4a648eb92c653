"""What is asked of a chat, looked at before a model is loaded for it."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import AdapterError, ConfigError
from core.generate.requests import Sampling
from jobs.adapters import AdapterFacts
from jobs.views import Pane

LEAST_STRENGTH, MOST_STRENGTH = -1.0, 2.0
MOST_PENALTY = 10.0
MOST_ALTERNATIVES = 20


def check_chat(panes: Sequence[Pane]) -> None:
    """Refuse what no model could answer. A pane without a sampling of its own has one that is in order.

    Raises:
        ConfigError: there is no pane or no message, or a number is outside its range.
    """
    if not panes:
        raise ConfigError("There is nobody to ask", hint="Add a pane")
    if any(pane.text is None and (not pane.messages or pane.messages[-1].role != "user") for pane in panes):
        raise ConfigError("There is no message to answer", hint="Type one")
    for pane in panes:
        _check_blend(pane)
        if pane.alternatives is not None and not 0 <= pane.alternatives <= MOST_ALTERNATIVES:
            hint = f"Ask for 0 to {MOST_ALTERNATIVES}"
            raise ConfigError(f"{pane.alternatives} alternatives of a token cannot be told", hint=hint)
        _check_sampling(pane.sampling or Sampling())


def named_in(pane: Pane) -> tuple[str, ...]:
    """The adapters that a pane names, by id or folder."""
    if isinstance(pane.adapter, tuple):
        return tuple(adapter for adapter, _ in pane.adapter)
    return () if pane.adapter is None else (pane.adapter,)


def _check_blend(pane: Pane) -> None:
    if not isinstance(pane.adapter, tuple):
        return
    if len(set(named_in(pane))) < len(pane.adapter):
        raise ConfigError("A blend names an adapter twice", hint="Add up its strengths")
    for _, strength in pane.adapter:
        if not LEAST_STRENGTH <= strength <= MOST_STRENGTH:
            hint = f"It must be from {LEAST_STRENGTH:g} to {MOST_STRENGTH:g}"
            raise ConfigError(f"The strength of an adapter is {strength}", hint=hint)


def _check_sampling(sampling: Sampling) -> None:
    if sampling.max_new_tokens < 1:
        raise ConfigError(f"Max new tokens is {sampling.max_new_tokens}", hint="It must be at least 1")
    if sampling.temperature < 0:
        raise ConfigError(f"Temperature is {sampling.temperature}", hint="It must be 0 or more")
    if not 0 < sampling.top_p <= 1:
        raise ConfigError(f"Top p is {sampling.top_p}", hint="It must be above 0 and at most 1")
    if sampling.top_k < 0:
        raise ConfigError(f"Top k is {sampling.top_k}", hint="It must be 0, which keeps all, or more")
    if not 0 < sampling.repetition_penalty <= MOST_PENALTY:
        title = f"The repetition penalty is {sampling.repetition_penalty}"
        raise ConfigError(title, hint=f"It must be above 0 and at most {MOST_PENALTY:g}; 1 is none")


def able_to_chat(name: str, facts: AdapterFacts) -> AdapterFacts:
    """The `facts` of an adapter that answers with text.

    Raises:
        AdapterError: it names a class instead.
    """
    if facts.task == "classification":
        title = f"{name} names the class of a text, so it has no words to chat with"
        raise AdapterError(title, hint="Choose an adapter that was trained for chat")
    return facts
