"""Utterances of a service as the feedback store keeps them."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from finetune.feedback.records import Hypothesis, NewUtterance, Receipt
from finetune.inference.events import average_confidence
from finetune.inference.transcript import Transcript
from finetune.serving.engine import Job
from finetune.serving.feedback_forms import find_suffix
from finetune.serving.feedback_store import name_reviewer, require_store
from finetune.serving.keys import Key
from finetune.serving.models import Model
from finetune.serving.problems import Problem
from finetune.serving.service import Service
from finetune.serving.uploads import AudioLimits, take_file


async def keep_transcribed(
    service: Service,
    request: Request,
    key: Key,
    model: Model,
    fields: FormData,
    consent: str,
    transcript: Transcript,
    job: Job,
) -> dict[str, str]:
    """Keep a recording that was transcribed if it is an utterance, and return headers that say what became of it.

    Where the store has failed the transcript, which is computed by now, is answered all the same.
    """
    if (windows := job.transcription.num_windows) != 1:
        why = "there is no speech in it" if windows == 0 else "it is longer than an utterance"
        return {"X-Feedback-Note": f"The recording was not kept: {why}."}
    content = await read_content(fields, service.limits)
    new = NewUtterance(
        audio=content,
        suffix=find_suffix(content, name_file(fields)),
        seconds=transcript.seconds,
        source="POST /v1/audio/transcriptions",
        consent=consent,
        hypothesis=make_hypothesis(transcript, model),
        signals=find_signals(service, model),
    )
    try:
        receipt = await require_store(service, key).add(new, name_reviewer(service, key, request))
    except Problem as problem:
        if problem.status != 503:
            raise
        return {"X-Feedback-Note": f"The recording was not kept: {problem.message}"}
    return {"X-Feedback-Id": str(receipt.id)}


def make_hypothesis(transcript: Transcript, model: Model) -> Hypothesis:
    """What a model wrote, as the store keeps it."""
    confidence = average_confidence(transcript.words)
    return Hypothesis(
        text=transcript.text,
        model=model.digest,
        confidence=None if confidence is None else min(max(confidence, 0.0), 1.0),
        words=tuple(
            (word.text, round(word.start, 3), round(word.end, 3), round(word.confidence, 4))
            for word in transcript.words
        ),
    )


def find_signals(service: Service, model: Model) -> dict[str, float]:
    """What makes an utterance of a model worth more of a person's time at present."""
    return {"drift": 1.0} if service.metrics.drifts(model.name) else {}


def describe_receipt(receipt: Receipt) -> dict[str, Any]:
    """A receipt as JSON."""
    return {"id": receipt.id, "status": receipt.status, "is_new": receipt.is_new, "note": receipt.note}


async def read_content(fields: FormData, limits: AudioLimits) -> bytes:
    """The bytes of the file of a form; raises Problem as `take_file` does."""
    audio = take_file(fields, limits)

    def read() -> bytes:
        audio.seek(0)
        return audio.read()

    return await asyncio.to_thread(read)


def name_file(fields: FormData) -> str | None:
    """The name that the file of a form has at its client."""
    file = fields.get("file")
    return file.filename if isinstance(file, UploadFile) else None
