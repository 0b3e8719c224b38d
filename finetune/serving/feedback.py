"""POST /v1/feedback: an utterance with a correction, or one for the review queue, goes into the store."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import Any

from fastapi import APIRouter, Request

from finetune.feedback.records import Hypothesis, NewUtterance
from finetune.serving.feedback_forms import FeedbackForm, find_suffix, measure_audio, require_letters
from finetune.serving.feedback_store import name_reviewer, require_store
from finetune.serving.keys import Key
from finetune.serving.models import Model
from finetune.serving.openapi import ERRORS, FEEDBACK_BODY
from finetune.serving.service import Service
from finetune.serving.transcriptions import drop_with_client
from finetune.serving.uploads import read_form
from finetune.serving.utterances import describe_receipt, find_signals, make_hypothesis, name_file, read_content


def build_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/feedback", tags=["Feedback"])

    @router.post("", openapi_extra={"requestBody": FEEDBACK_BODY}, responses=ERRORS)
    async def add(request: Request) -> dict[str, Any]:
        """Keep an utterance, with a correction of it or for the review queue; only with consent."""
        key = service.admit(request, "feedback")
        store = require_store(service, key)
        who = name_reviewer(service, key, request)
        async with read_form(request, service.limits) as fields:
            form = FeedbackForm.read(fields, key)
            model = service.find_model(form.model, request)
            if form.text is not None:
                require_letters(form.text, model.recogniser.alphabet, model.name)
            content = await read_content(fields, service.limits)
            seconds, hypothesis = await _measure(service, request, key, model, form, content)
        new = NewUtterance(
            audio=content,
            suffix=find_suffix(content, name_file(fields)),
            seconds=seconds,
            source="POST /v1/feedback",
            consent=form.consent,
            speaker=form.speaker,
            domain=form.domain,
            licence=form.licence,
            hypothesis=hypothesis,
            signals=find_signals(service, model),
        )
        return describe_receipt(await store.add(new, who, form.text))

    return router


async def _measure(
    service: Service, request: Request, key: Key, model: Model, form: FeedbackForm, content: bytes
) -> tuple[float, Hypothesis]:
    """The seconds of a recording, and what was sent as its hypothesis or what the model writes."""
    if form.hypothesis is None:
        job = service.begin(key, model, io.BytesIO(content), hotwords={})
        async with service.keep(job), drop_with_client(request, job):
            transcript = await service.result(job, model)
        return transcript.seconds, make_hypothesis(transcript, model)
    gone, rate = threading.Event(), model.recogniser.sampling_rate
    try:
        seconds = await asyncio.to_thread(measure_audio, content, rate, service.limits, gone.is_set)
    finally:
        gone.set()
    sent = Hypothesis(text=form.hypothesis, model=model.digest, confidence=form.confidence, words=form.words)
    return seconds, sent
