"""What is imported: a text of a recording, or what a model wrote of it, and where both come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from finetune.audio.waveforms import AudioError, Recording
from finetune.feedback.records import Hypothesis

IMPORTED = "imported"
"""The name of a model that an import does not name."""

MAX_NAME = 64


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recording with a text of it, or with a hypothesis alone; `name` is what it is called in messages.

    A recording with times or a channel is cut out of its file. Without a `reviewer` the text is of the one who imports.
    `consent` is None where the source has no place for it, and "" where that place is empty.
    """

    name: str
    recording: Recording
    text: str | None = None
    reviewer: str | None = None
    hypothesis: Hypothesis | None = None
    consent: str | None = None
    speaker: str | None = None
    domain: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """A row that is not imported, and the reason."""

    name: str
    reason: str


class Metadata(TypedDict):
    """What an entry has beside its audio and its text, by the names of `Entry`."""

    consent: str | None
    speaker: str | None
    domain: str | None
    licence: str | None


def take_metadata(cells: Mapping[str, Any], has_consent: bool) -> Metadata:
    """The metadata in the cells of a row; raises AudioError for other than text, and for a name that is too long."""
    return Metadata(
        consent=(take_text(cells, "consent") or "") if has_consent else None,
        speaker=_require_name("speaker", take_text(cells, "speaker", "speaker_id", "client_id")),
        domain=_require_name("domain", take_text(cells, "domain")),
        licence=take_text(cells, "licence", "license"),
    )


def _require_name(what: str, name: str | None) -> str | None:
    if name is not None and (len(name) > MAX_NAME or not name.isprintable()):
        raise AudioError(f"its {what} is {name[:80]!r}; expected a name of up to {MAX_NAME} characters")
    return name


def take_text(cells: Mapping[str, Any], *keys: str) -> str | None:
    """The first cell of these that is not empty; raises AudioError for one that is not text or a number."""
    for key in keys:
        value = cells.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise AudioError(f"its {key} is of type {type(value).__name__}; expected a text")
        return str(value).strip()
    return None


def take_hypothesis(text: str | None, confidence: object, model: str | None) -> Hypothesis | None:
    """A hypothesis from cells, None without a text; raises AudioError for a confidence that is not from 0 to 1."""
    if text is None:
        return None
    number: float | None = None
    if confidence is not None and confidence != "":
        try:
            number = float(confidence)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= 1:
            raise AudioError(f"its confidence is {str(confidence)[:40]}; expected a number from 0 to 1")
    return Hypothesis(text=text, model=(model or IMPORTED)[:MAX_NAME], confidence=number)
