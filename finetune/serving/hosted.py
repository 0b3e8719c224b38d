"""POST /models/{name} with the bytes of a recording, as Hugging Face's InferenceClient sends it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from finetune.serving.openapi import ERRORS
from finetune.serving.service import Service
from finetune.serving.transcriptions import drop_with_client, split_segments
from finetune.serving.uploads import read_body
from finetune.text.word_units import join_words


def build_router(service: Service) -> APIRouter:
    """The routes; a client of one address without a model's name sends to the root."""
    router = APIRouter(tags=["Hugging Face"])
    body = {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }

    @router.post("/models/{name}", openapi_extra={"requestBody": body}, responses=ERRORS)
    async def recognise(request: Request, name: str) -> dict[str, Any]:
        """Transcribe the bytes of a recording; the chunks are the speech between pauses with its times."""
        return await _recognise(request, name)

    @router.post("/", openapi_extra={"requestBody": body}, responses=ERRORS)
    async def recognise_by_default(request: Request) -> dict[str, Any]:
        """Transcribe with the default model."""
        return await _recognise(request, None)

    async def _recognise(request: Request, name: str | None) -> dict[str, Any]:
        key = service.admit(request, "transcribe")
        model = service.find_model(name, request)
        async with read_body(request, service.limits) as audio:
            job = service.begin(key, model, audio, hotwords={})
            async with service.keep(job), drop_with_client(request, job):
                transcript = await service.result(job, model)
        chunks = [
            {
                "text": join_words(word.text for word in words),
                "timestamp": [round(words[0].start, 3), round(words[-1].end, 3)],
            }
            for words in split_segments(transcript.words)
        ]
        return {"text": transcript.text, "chunks": chunks}

    return router
