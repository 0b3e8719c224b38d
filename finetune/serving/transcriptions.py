"""POST /v1/audio/transcriptions and GET /v1/models, as OpenAI's client sends and reads them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.datastructures import FormData

from finetune.inference.events import average_confidence
from finetune.inference.formats import format_transcript
from finetune.inference.transcript import Transcript, Word
from finetune.serving.engine import Job
from finetune.serving.feedback_forms import read_consent
from finetune.serving.feedback_store import name_reviewer, require_store
from finetune.serving.keys import Key
from finetune.serving.models import Model
from finetune.serving.openapi import ANSWERS, BODY, ERRORS, FORMATS, GRANULARITIES, MEDIA_TYPES
from finetune.serving.problems import Problem
from finetune.serving.service import Service
from finetune.serving.uploads import read_form, take_file
from finetune.serving.utterances import keep_transcribed
from finetune.text.word_units import join_words

# A longer silence between two words begins a new segment; so does the pause that ends a window.
_PAUSE_SECONDS = 0.6
_BOOST = 10.0  # of a keyword, as of --hotword


@dataclass(frozen=True)
class Options:
    """What a request asks for."""

    model: str | None
    form: str
    granularities: frozenset[str]
    hotwords: dict[str, float]
    streams: bool
    consent: str | None  # to keep the recording as feedback

    @classmethod
    def read(cls, fields: FormData, key: Key) -> Options:
        """Read the fields of a form; raises Problem for those that this service can't do.

        `language`, `prompt`, `temperature` and `chunking_strategy` have no meaning for a CTC model and are ignored.
        """
        form = _text(fields, "response_format") or "json"
        if form not in FORMATS:
            raise _invalid("response_format", form, ", ".join(FORMATS))
        granularities = _list(fields, "timestamp_granularities")
        for each in granularities:
            if each not in GRANULARITIES:
                raise _invalid("timestamp_granularities", each, " or ".join(GRANULARITIES))
        if granularities and form != "verbose_json":
            raise _invalid("timestamp_granularities", form, "the response_format verbose_json")
        if included := _list(fields, "include"):
            raise _invalid("include", included[0], "none: confidences are in the words of verbose_json")
        streams = (_text(fields, "stream") or "false").lower()
        if streams not in ("true", "false", "1", "0"):
            raise _invalid("stream", streams, "true or false")
        consent = read_consent(fields, "feedback_consent", key)
        if consent is not None and streams in ("true", "1"):
            raise _invalid("stream", streams, "false with feedback_consent: X-Feedback-Id is in the header")
        hotwords = {word: _BOOST for word in _list(fields, "keywords") if word}
        return cls(
            _text(fields, "model") or None,
            form,
            frozenset(granularities or (["segment"] if form == "verbose_json" else [])),
            hotwords,
            streams in ("true", "1"),
            consent,
        )


def build_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/audio/transcriptions", openapi_extra={"requestBody": BODY}, responses=ANSWERS)
    async def create_transcription(request: Request) -> Response:
        """Transcribe a recording, as a whole or with `stream=true` while it is computed."""
        key = service.admit(request, "transcribe")
        async with AsyncExitStack() as held:
            fields = await held.enter_async_context(read_form(request, service.limits))
            options = Options.read(fields, key)
            if options.consent is not None:
                require_store(service, key)
                name_reviewer(service, key, request)  # Before the work: it may be no name.
            model = service.find_model(options.model, request)
            audio = take_file(fields, service.limits)
            stream = _Stream() if options.streams else None
            job = service.begin(key, model, audio, hotwords=options.hotwords, on_words=stream.put if stream else None)
            await held.enter_async_context(service.keep(job))
            if stream is not None:
                events = stream.events(service.result(job, model))
                async with drop_with_client(request, job):
                    first = await anext(events)  # Before it there is no status yet.
                return StreamingResponse(_send(first, events, held.pop_all()), media_type="text/event-stream")
            async with drop_with_client(request, job):
                transcript = await service.result(job, model)
            response = format_response(transcript, options)
            if options.consent is not None:
                response.headers.update(
                    await keep_transcribed(service, request, key, model, fields, options.consent, transcript, job)
                )
            return response
        raise AssertionError

    @router.get("/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """The models of this service."""
        service.admit(request, "transcribe")
        return {"object": "list", "data": [_describe_model(model) for model in service.models.all()]}

    @router.get("/models/{name}", responses=ERRORS)
    async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
        """One of the models."""
        service.admit(request, "transcribe")
        return _describe_model(service.find_model(name, request))

    return router


def format_response(transcript: Transcript, options: Options) -> Response:
    """A transcript in the format of a request."""
    if options.form in MEDIA_TYPES:
        text = format_transcript(transcript, options.form)
        return PlainTextResponse(text, media_type=MEDIA_TYPES[options.form])
    usage = {"type": "duration", "seconds": math.ceil(transcript.seconds)}
    if options.form == "json":
        return JSONResponse({"text": transcript.text, "usage": usage})
    described: dict[str, Any] = {
        "task": "transcribe",
        "language": "",
        "duration": round(transcript.seconds, 3),
        "text": transcript.text,
        "usage": usage,
    }
    if "segment" in options.granularities:
        segments = enumerate(split_segments(transcript.words))
        described["segments"] = [_describe_segment(number, words) for number, words in segments]
    if "word" in options.granularities:
        described["words"] = [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in transcript.words
        ]
    return JSONResponse(described)


def split_segments(words: Sequence[Word]) -> list[list[Word]]:
    """The words between pauses."""
    segments: list[list[Word]] = []
    for word in words:
        if not segments or word.start - segments[-1][-1].end >= _PAUSE_SECONDS:
            segments.append([])
        segments[-1].append(word)
    return segments


@asynccontextmanager
async def drop_with_client(request: Request, job: Job) -> AsyncIterator[None]:
    """Drop a job when its client closes the connection; the body must have been read."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.gone.set()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


class _Stream:
    """The server-sent events of a recording while it is computed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._words: asyncio.Queue[Sequence[Word] | None] = asyncio.Queue()

    def put(self, words: Sequence[Word]) -> None:
        """Take words that are final; called in a thread of the engine."""
        self._loop.call_soon_threadsafe(self._words.put_nowait, words)

    async def events(self, result: Coroutine[Any, Any, Transcript]) -> AsyncIterator[dict[str, Any]]:
        """The events; raises Problem where there is no transcript."""
        ending = asyncio.create_task(result)
        ending.add_done_callback(lambda _: self._words.put_nowait(None))
        text, number = "", 0
        try:
            while (words := await self._words.get()) is not None:
                for segment in split_segments(words):
                    spoken = join_words(word.text for word in segment)
                    whole = join_words([text, spoken]) if text else spoken
                    yield {"type": "transcript.text.delta", "delta": whole[len(text) :]}
                    described = _describe_segment(number, segment)
                    kept = {name: described[name] for name in ("start", "end", "text")}
                    yield {"type": "transcript.text.segment", "id": f"seg_{number}", "speaker": "", **kept}
                    text, number = whole, number + 1
            transcript = await ending
            usage = {"type": "duration", "seconds": math.ceil(transcript.seconds)}
            yield {"type": "transcript.text.done", "text": text, "usage": usage}
        finally:
            ending.cancel()


async def _send(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]], held: AsyncExitStack) -> AsyncIterator[str]:
    """Events as server-sent events; an error after the first one is an event, too, and there is no `done` then."""
    async with held:
        try:
            yield _format_event(first)
            async for event in rest:
                yield _format_event(event)
        except Problem as problem:
            yield f"event: error\n{_format_event(problem.describe())}"


def _format_event(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _describe_model(model: Model) -> dict[str, Any]:
    described = {"id": model.name, "object": "model", "created": model.created, "owned_by": "finetune"}
    return described | {"finetune_digest": model.digest}


def _describe_segment(number: int, words: Sequence[Word]) -> dict[str, Any]:
    """A segment in OpenAI's form; what a CTC model does not have is empty or 0."""
    confidence = average_confidence(words) or 0.0
    return {
        "id": number,
        "seek": 0,
        "start": round(words[0].start, 3),
        "end": round(words[-1].end, 3),
        "text": join_words(word.text for word in words),
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(math.log(max(confidence, 1e-6)), 4),
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }


def _text(fields: FormData, name: str) -> str:
    """The text of a field, empty without it; raises Problem for a file."""
    value = fields.get(name) or ""
    if not isinstance(value, str):
        raise Problem(400, f"{name} is a file; expected text.", "invalid_value", name)
    return value.strip()


def _list(fields: FormData, name: str) -> list[str]:
    """The texts of a repeated field, with or without brackets behind its name."""
    values = [*fields.getlist(f"{name}[]"), *fields.getlist(name)]
    return [value.strip() for value in values if isinstance(value, str)]


def _invalid(param: str, found: str, expected: str) -> Problem:
    return Problem(400, f"{param} is {found[:80]!r}; expected {expected}.", "invalid_value", param)
