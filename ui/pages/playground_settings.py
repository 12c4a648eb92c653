"""The Playground's settings: how tokens are chosen, and the system prompt. Ids: `#chat-settings`, `#chat-…`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.errors import ConfigError
from jobs.service import Sampling


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What is said in Settings."""

    sampling: Sampling
    system: str


def widgets() -> list[Any]:
    """The fields, in the order in which `checked` takes their values."""
    return [
        gr.Number(200, label="Longest answer", info="In tokens", precision=0, elem_id="chat-max-tokens"),
        gr.Number(
            0.0, label="Temperature", info="0 always takes the likeliest token", step=0.1, elem_id="chat-temperature"
        ),
        gr.Number(1.0, label="Top-p", info="Leaves unlikely tokens out; 1 keeps all", step=0.05, elem_id="chat-top-p"),
        gr.Number(0, label="Top-k", info="Draws among so many; 0 keeps all", precision=0, elem_id="chat-top-k"),
        gr.Number(
            1.0,
            label="Repetition penalty",
            info="Above 1, what was said comes less often",
            step=0.05,
            elem_id="chat-penalty",
        ),
        gr.Number(0, label="Seed", info="The same seed repeats the answer", precision=0, elem_id="chat-seed"),
        gr.Textbox(
            "", label="System prompt", info="Said to every pane before the conversation", lines=2, elem_id="chat-system"
        ),
    ]


def checked(
    max_new_tokens: Any, temperature: Any, top_p: Any, top_k: Any, penalty: Any, seed: Any, system: Any
) -> ChatOptions:
    """What the fields say.

    Raises:
        ConfigError: one is empty.
    """
    numbers = {
        "Longest answer": max_new_tokens,
        "Temperature": temperature,
        "Top-p": top_p,
        "Top-k": top_k,
        "Repetition penalty": penalty,
        "Seed": seed,
    }
    for name, value in numbers.items():
        if value is None:
            raise ConfigError(f"{name} is empty", hint="Give it a number in Settings")
    sampling = Sampling(
        max_new_tokens=int(max_new_tokens),
        temperature=float(temperature),
        top_p=float(top_p),
        top_k=int(top_k),
        repetition_penalty=float(penalty),
        seed=int(seed),
    )
    return ChatOptions(sampling=sampling, system=system or "")
