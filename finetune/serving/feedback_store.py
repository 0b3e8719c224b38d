"""The feedback store of a service: calls in threads, errors as answers, and utterances as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import unquote

from starlette.requests import Request

from finetune.errors import UserError
from finetune.feedback.records import NewUtterance, QueuePlace, Receipt, Review, Utterance
from finetune.feedback.sealing import StaleKey
from finetune.serving.keys import Key
from finetune.serving.metrics import FeedbackFailure
from finetune.serving.problems import Problem

if TYPE_CHECKING:
    from finetune.feedback.store import Store
    from finetune.serving.service import Service

_LOGGER = logging.getLogger(__name__)
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")
_MAX_NAME = 64


class FeedbackStore:
    """A store as routes use it; all methods raise Problem."""

    def __init__(self, store: Store) -> None:
        """Take an open store; `on_failure` is called with `key` or `store` when it can't be used."""
        self._store = store
        self.on_failure: Callable[[FeedbackFailure], object] = lambda _: None

    @classmethod
    def open(cls, folder: Path, key_file: Path | None) -> FeedbackStore:
        """Open a store with the key of a file or of the environment; raises UserError."""
        try:
            from finetune.feedback.sealing import read_master_key
            from finetune.feedback.store import Store
        except ModuleNotFoundError as error:
            raise UserError(
                f"Feedback needs packages that are not here ({error}): pip install 'finetune[feedback]'."
            ) from error
        return cls(Store(folder, read_master_key(key_file), lambda: read_master_key(key_file)))

    def close(self) -> None:
        """Close it."""
        self._store.close()

    async def add(self, new: NewUtterance, who: str, correction: str | None = None) -> Receipt:
        """Add an utterance as `Store.add` does; 422 for a name that can't be used."""
        return await self._call(self._store.add, new, who, correction)

    async def get(self, number: int) -> Utterance:
        """An utterance; 404 for an unknown number, 410 for one that was forgotten."""
        try:
            utterance = await asyncio.to_thread(self._store.get, number)
        except UserError as error:
            if _is_failure(error):
                raise self._unavailable(error) from error
            raise Problem(404, f"There is no utterance {number}.", "utterance_not_found", "id") from error
        if utterance.status == "forgotten":
            message = f"Utterance {number} was forgotten: its audio and texts are deleted."
            raise Problem(410, message, "utterance_forgotten", "id")
        return utterance

    async def read_audio(self, number: int) -> bytes:
        """The bytes of an utterance's file; 503 where the store has lost it."""
        return await self._call(self._store.read_audio, number)

    async def review(self, number: int, review: Review) -> Receipt:
        """Add what a person says; 422 for a text without words."""
        return await self._call(self._store.review, number, review)

    async def queue(self, limit: int, reviewer: str, after: QueuePlace | None) -> list[Utterance]:
        """A page of the queue for a reviewer."""
        return await self._call(self._store.queue, limit, reviewer, after)

    async def measure(self) -> dict[str, Any]:
        """What is in the store, and the agreement of reviewers."""
        return await self._call(self._measure)

    def _measure(self) -> dict[str, Any]:
        from finetune.feedback.agreement import measure_agreement

        agreement = measure_agreement(self._store)
        return {
            "counts": self._store.count(),
            "reviewers_wanted": self._store.reviewers_wanted,
            "agreement": {
                "utterances": agreement.utterances,
                "same": agreement.same,
                "share": agreement.share,
                "word_error_rate": agreement.word_error_rate,
            },
        }

    async def _call(self, function: Callable[_Given, _Found], *given: _Given.args, **named: _Given.kwargs) -> _Found:
        """Call the store in a thread; a failure of the store is 503, a value that it refuses 422."""
        try:
            return await asyncio.to_thread(function, *given, **named)
        except UserError as error:
            if _is_failure(error):
                raise self._unavailable(error) from error
            raise Problem(422, str(error), "invalid_value") from error

    def _unavailable(self, error: UserError) -> Problem:
        _LOGGER.error(f"the feedback store failed: {error}")  # It names folders, which are no matter of a client.
        if isinstance(error, StaleKey):
            self.on_failure("key")
            message = "The feedback store has another key now, and this service the old one; nothing was changed."
            return Problem(503, message, "store_key_changed", headers={"Retry-After": "30"})
        self.on_failure("store")
        return Problem(503, "The feedback store can't be used now, and nothing was changed.", "store_failed")


def _is_failure(error: UserError) -> bool:
    """Whether the store failed, and did not refuse what it was given."""
    return error.__cause__ is not None or isinstance(error, StaleKey)


def require_store(service: Service, key: Key) -> FeedbackStore:
    """The store of a service; raises Problem: 403 for a key without the scope, 404 for a service without a store."""
    if "feedback" not in key.scopes:
        raise Problem(403, f"The key {key.name} has not the scope feedback.", "insufficient_scope")
    if service.feedback is None:
        message = "This service keeps no feedback: it was started without --feedback STORE."
        raise Problem(404, message, "no_feedback_store")
    return service.feedback


def name_reviewer(service: Service, key: Key, request: Request) -> str:
    """Who sends a request: the name of the key or, without keys, the one that is given, else `anyone`.

    It is in the header X-Reviewer, percent-encoded, or in the query as `reviewer`. Raises Problem for one that is no
    name.
    """
    if service.settings.keys is not None:
        return key.name
    given = unquote(request.headers.get("x-reviewer", "")) or request.query_params.get("reviewer", "")
    name = given.strip() or key.name
    if len(name) > _MAX_NAME or not name.isprintable():
        message = f"The reviewer is {name[:80]!r}; expected a name of 1 to {_MAX_NAME} characters."
        raise Problem(422, message, "invalid_value", "reviewer")
    return name


def describe_utterance(utterance: Utterance, reviewer: str) -> dict[str, Any]:
    """An utterance as JSON; a reviewer of an open one does not see what others say, so that they don't influence."""
    given = [each for each in utterance.reviews if each.action != "skip"]
    seen = [each for each in utterance.reviews if utterance.status != "open" or each.reviewer == reviewer]
    names = ("id", "status", "seconds", "source", "domain", "speaker", "consent", "licence", "added_at", "added_by")
    return {name: getattr(utterance, name) for name in (*names, "reviewers_wanted", "text", "priority", "reasons")} | {
        "num_reviewers": len({each.reviewer for each in given}),
        "hypotheses": [
            {
                "text": each.text,
                "model": each.model,
                "confidence": each.confidence,
                "words": [
                    {"word": word, "start": start, "end": end, "confidence": confidence}
                    for word, start, end, confidence in each.words
                ],
            }
            for each in utterance.hypotheses
        ],
        "reviews": [
            {name: getattr(each, name) for name in ("reviewer", "action", "text", "reason", "at")} for each in seen
        ],
    }
