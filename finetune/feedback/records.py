"""What a store keeps: utterances, what models wrote of them, and what people say of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

Action = Literal["accept", "edit", "reject", "skip"]
Status = Literal["open", "conflict", "corrected", "rejected", "forgotten"]
SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What a model wrote of an utterance; `model` is the digest of its files, `confidence` from 0 to 1.

    `words` are (text, start, end, confidence), with times in seconds.
    """

    text: str
    model: str
    confidence: float | None = None
    words: tuple[tuple[str, float, float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class NewUtterance:
    """An utterance to add: the bytes of its file, the suffix of its name (`.wav`), and where it came from.

    `consent` says who allowed its use for what; an utterance without it is refused. `signals` add to its priority in
    the review queue by name, for example `drift`.
    """

    audio: bytes
    suffix: str
    seconds: float
    source: str
    consent: str
    speaker: str | None = None
    domain: str = "default"
    licence: str | None = None
    hypothesis: Hypothesis | None = None
    signals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a person says of an utterance; `text` of `accept` and `edit`, `reason` of `reject`; `at` is UTC."""

    reviewer: str
    action: Action
    text: str | None = None
    reason: str | None = None
    at: str = ""


QUEUED: tuple[Status, ...] = ("conflict", "open")
"""What waits for a person, in the order of the queue; each is ordered by priority, and equal ones by number."""


class QueuePlace(NamedTuple):
    """Where an utterance is in the review queue."""

    status: Status
    priority: float
    id: int


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """An utterance of a store; all that identifies it is None once it is forgotten.

    `text` is what its reviewers agree on, `reasons` are the parts of its `priority` by name.
    """

    id: int
    digest: str | None
    suffix: str
    seconds: float
    source: str
    domain: str
    speaker: str | None
    split: SplitName
    consent: str
    licence: str | None
    added_at: str
    added_by: str
    reviewers_wanted: int
    status: Status
    text: str | None
    priority: float
    reasons: dict[str, float]
    hypotheses: tuple[Hypothesis, ...] = ()
    reviews: tuple[Review, ...] = ()

    @property
    def place(self) -> QueuePlace:
        """Its place in the review queue."""
        return QueuePlace(self.status, self.priority, self.id)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of something that was added: `is_new` where it was not there before, and the status after it.

    `note` is a sentence where something else was found than expected: a correction twice, or two different ones.
    """

    id: int
    is_new: bool
    status: Status
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was deleted; `snapshots` have a hole now, and files of `unreachable` ones could not be deleted.

    `remains` are what else could not be deleted yet.
    """

    ids: tuple[int, ...]
    snapshots: tuple[str, ...]
    unreachable: tuple[str, ...]
    remains: Remains


@dataclass(frozen=True, kw_only=True)
class Remains:
    """What is forgotten, and could not be deleted yet: files of audio, and texts in the log of SQLite."""

    audio_files: int = 0
    is_in_log: bool = False


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """A step of the audit log: who did what to what, when (UTC)."""

    at: str
    who: str
    action: str
    subject: str
    details: dict[str, object]


def now() -> str:
    """The time in UTC, in a form that sorts."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def decide(reviews: tuple[Review, ...], wanted: int) -> tuple[Status, str | None]:
    """The status of an utterance, and the text agreed on, from all reviews in order; the last of each reviewer counts.

    With enough reviewers the text, or the rejection, that most of them gave stands; without a majority it is a
    `conflict`, until another reviewer decides. Texts that differ in space only are the same.
    """
    last = {review.reviewer: review for review in reviews if review.action != "skip"}
    if len(last) < wanted:
        return "open", None
    votes: dict[str | None, int] = {}
    for review in last.values():
        vote = None if review.action == "reject" else normalize(review.text or "")
        votes[vote] = votes.get(vote, 0) + 1
    (first, most), *others = sorted(votes.items(), key=lambda each: -each[1])
    if most < wanted or (others and others[0][1] == most):
        return "conflict", None
    return ("rejected", None) if first is None else ("corrected", first)


def normalize(text: str) -> str:
    """A text with single spaces."""
    return " ".join(text.split())
