"""The three addresses."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from jobs.service import Asked, Served, Service
from ui.api.answering import Answers, read_body
from ui.api.forms import Choice, Completion
from ui.api.schemas import Ask, ChatAsk, CompletionAsk
from ui.api.streaming import streamed

OWNER = "lora-workbench"


def routes(service: Service) -> APIRouter:
    """`/v1/models`, `/v1/chat/completions` and `/v1/completions`, answered by `service`."""
    router, answers = APIRouter(prefix="/v1"), Answers(service)

    @router.get("/models")
    async def models() -> dict[str, Any]:
        found = await anyio.to_thread.run_sync(service.serving.models)
        return {"object": "list", "data": [_model(served) for served in found]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(await answers.find(name))

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        ask = await read_body(request, ChatAsk)
        messages = tuple(message.as_message() for message in ask.messages)
        asked = [
            Asked(messages=messages, sampling=sampling, stop=tuple(ask.stop))
            for sampling in ask.samplings(ask.most_tokens)
        ]
        return await _answer(request, answers, ask, asked, is_chat=True)

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        ask = await read_body(request, CompletionAsk)
        asked = [
            Asked(text=text, sampling=sampling, stop=tuple(ask.stop))
            for text in ask.prompt
            for sampling in ask.samplings(ask.most_tokens)
        ]
        return await _answer(request, answers, ask, asked, is_chat=False)

    return router


async def _answer(request: Request, answers: Answers, ask: Ask, asked: list[Asked], *, is_chat: bool) -> Response:
    served = await answers.find(ask.model)
    choices = tuple(Choice() for _ in asked)
    completion = Completion(served=served, per_prompt=ask.choices, choices=choices, is_chat=is_chat)
    if ask.stream:
        return await streamed(answers.stream(served, asked), completion, ask.tells_usage)
    completion.take([delta async for delta in answers.stream(served, asked, request.is_disconnected)])
    return JSONResponse(completion.whole())


def _model(served: Served) -> dict[str, Any]:
    created = int(served.created_at.timestamp()) if served.created_at else 0
    described = {"id": served.id, "object": "model", "created": created, "owned_by": OWNER}
    return {**described, "fingerprint": served.fingerprint, "base_model": _without_folders(served.base_model)}


def _without_folders(ref: str) -> str:
    """A base model as a program elsewhere may read of it: where a folder lies here is no affair of others."""
    return PurePath(ref).name if os.path.isabs(ref) else ref
