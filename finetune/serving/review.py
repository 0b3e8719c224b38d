"""The review of feedback: the queue, an utterance and its audio, what a person says of it, and how far people agree."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, ValidationError

from finetune.feedback.records import QUEUED, QueuePlace, Review, Utterance
from finetune.serving.feedback_forms import MEDIA_TYPES, require_letters, require_printable
from finetune.serving.feedback_store import (
    FeedbackStore,
    describe_utterance,
    name_reviewer,
    require_store,
)
from finetune.serving.openapi import AUDIO_ANSWERS, ERRORS
from finetune.serving.problems import Problem
from finetune.serving.service import Service
from finetune.serving.uploads import AudioLimits, read_body
from finetune.serving.utterances import describe_receipt

_MAX_BODY_BYTES = 2**16
# What SQLite and PostgreSQL can count.
_Number = Annotated[int, Path(ge=1, lt=2**63, description="The id of an utterance")]
# Read by `name_reviewer`; here they are documented.
_Reviewer = Annotated[str | None, Query(description="Who reviews, on a service without keys", max_length=64)]
_Header = Annotated[str | None, Header(alias="X-Reviewer", description="The same, percent-encoded", max_length=600)]


class _Verdict(BaseModel):
    """What a person says: `text` of accept and edit, `reason` of reject."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["accept", "edit", "skip", "reject"]
    text: str | None = None
    reason: str | None = None


_BODY = {"required": True, "content": {"application/json": {"schema": _Verdict.model_json_schema()}}}


def build_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/feedback", tags=["Feedback"], responses=ERRORS)

    @router.get("/queue")
    async def queue(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[str | None, Query(description="`after` of the page before", max_length=100)] = None,
        reviewer: _Reviewer = None,
        x_reviewer: _Header = None,
    ) -> dict[str, Any]:
        """The utterances that most deserve a person's time: conflicts first, then those of which nothing was said."""
        store, name = _admit(service, request)
        found = await store.queue(limit, name, _read_cursor(after))
        return {
            "object": "list",
            "reviewer": name,
            "has_keys": service.settings.keys is not None,
            "data": [describe_utterance(each, name) for each in found],
            "after": _format_cursor(found[-1]) if len(found) == limit else None,
        }

    @router.get("/stats")
    async def stats(request: Request) -> dict[str, Any]:
        """What the store has, and the agreement of reviewers of the same utterances."""
        store, _ = _admit(service, request)
        return await store.measure()

    _add_utterances(router, service)
    return router


def _admit(service: Service, request: Request) -> tuple[FeedbackStore, str]:
    """The store, and the name of the reviewer."""
    key = service.admit(request, "feedback")
    return require_store(service, key), name_reviewer(service, key, request)


def _add_utterances(router: APIRouter, service: Service) -> None:
    """Add the routes of one utterance."""

    @router.get("/{number}")
    async def get(
        request: Request, number: _Number, reviewer: _Reviewer = None, x_reviewer: _Header = None
    ) -> dict[str, Any]:
        """An utterance with what models wrote and people said of it."""
        store, name = _admit(service, request)
        return describe_utterance(await store.get(number), name)

    @router.get("/{number}/audio", response_class=Response, responses=AUDIO_ANSWERS)
    async def audio(request: Request, number: _Number) -> Response:
        """The file of an utterance as it was sent."""
        store, _ = _admit(service, request)
        utterance = await store.get(number)
        content = await store.read_audio(number)
        kind = MEDIA_TYPES.get(utterance.suffix, "application/octet-stream")
        name = f'inline; filename="utterance-{number}{utterance.suffix if kind in MEDIA_TYPES.values() else ""}"'
        return Response(content, media_type=kind, headers={"Content-Disposition": name})

    @router.post("/{number}/review", openapi_extra={"requestBody": _BODY})
    async def review(
        request: Request, number: _Number, reviewer: _Reviewer = None, x_reviewer: _Header = None
    ) -> dict[str, Any]:
        """Accept, edit, skip or reject an utterance; a `note` says where others see it differently."""
        store, name = _admit(service, request)
        verdict = await _read_verdict(request)
        utterance = await store.get(number)
        text = verdict.text
        if verdict.action == "accept" and text is None and utterance.hypotheses:
            text = utterance.hypotheses[-1].text
        if verdict.action == "edit" and text is not None:
            _require_writable(service, utterance, text)
        given = Review(
            reviewer=name,
            action=verdict.action,
            text=text if verdict.action in ("accept", "edit") else None,
            reason=verdict.reason if verdict.action == "reject" else None,
        )
        return describe_receipt(await store.review(number, given))


async def _read_verdict(request: Request) -> _Verdict:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Problem(415, "Expected JSON: Content-Type application/json.", "unsupported_media_type")
    async with read_body(request, AudioLimits(_MAX_BODY_BYTES, 0)) as body:
        content = body.read()
    try:
        verdict = _Verdict.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise Problem(422, f"{place}: {first['msg']}.", "invalid_value") from error
    for name, text in (("text", verdict.text), ("reason", verdict.reason)):
        require_printable(text or "", name)
    if verdict.action == "reject" and not (verdict.reason or "").strip():
        raise Problem(422, "There is no reason: expected why the utterance is rejected.", "invalid_value", "reason")
    return verdict


def _require_writable(service: Service, utterance: Utterance, text: str) -> None:
    """Raise Problem for letters that the model of an utterance can't write, if it is served, or else the first one."""
    wrote = {each.model for each in utterance.hypotheses}
    models = service.models.all()
    model = next((each for each in models if each.digest in wrote), models[0])
    require_letters(text, model.recogniser.alphabet, model.name)


def _format_cursor(last: Utterance) -> str:
    return ":".join((last.place.status, repr(last.place.priority), str(last.place.id)))


def _read_cursor(text: str | None) -> QueuePlace | None:
    if not text:
        return None
    try:
        name, priority, number = text.split(":")
        place = QueuePlace(next(each for each in QUEUED if each == name), float(priority), int(number))
    except (ValueError, StopIteration):
        place = None
    if place is None or not 0 <= place.id < 2**63:
        raise Problem(400, f"after is {text[:80]!r}; expected `after` of the page before.", "invalid_value", "after")
    return place
