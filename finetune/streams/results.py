"""The messages that are written: results as JSON, and dead letters with the reason in a header."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.inference.events import Event, Final, Partial
from finetune.inference.formats import describe_event, describe_transcript
from finetune.inference.transcript import Transcript
from finetune.streams.messages import Place, Rejected
from finetune.text.word_units import join_words

SCHEMA = 1
# Of the original headers a dead letter keeps so many bytes.
_MAX_HEADER_BYTES = 32_768
Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, eq=False)
class Record:
    """A message to be written: its topic, key, value and headers, and a smaller value where it is too large.

    `smaller_headers` are those of the smaller value, None for the same.
    """

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    smaller: bytes | None = None
    smaller_headers: Headers | None = None


def write_recording(topic: str, place: Place, transcript: Transcript) -> Record:
    """The result of a recording; without words where it is too large for the topic."""
    described = describe_transcript(transcript)
    for word in described["words"]:
        del word["characters"], word["found"]
    document = {**_begin("recording", place), **described}
    return _record(topic, place, document, {**document, "words": None})


def write_event(topic: str, place: Place, segment: int, event: Final | Partial) -> Record:
    """A partial or final text of a live session that began at `place`; segments count from 0."""
    described = describe_event(event)
    document = {**_begin(described.pop("type"), place), "segment": segment, **described}
    return _record(topic, place, document, {**document, "words": None})


def write_end(topic: str, place: Place, texts: Sequence[str], reason: str, failure: str | None) -> Record:
    """The end of a live session, with the text of all segments; `reason` is end or idle."""
    text = join_words(each for each in texts if each)
    document = {**_begin("end", place), "segments": len(texts), "text": text, "reason": reason, "error": failure}
    return _record(topic, place, document, {**document, "text": None})


def write_dead_letter(topic: str, message: Any, place: Place, rejected: Rejected, max_bytes: int) -> Record:
    """A message that can't be used: its own bytes, or above `max_bytes` only where it stands."""
    value: bytes = message.value() or b""
    reference = json.dumps({"topic": place.topic, "partition": place.partition, "offset": place.offset}).encode()
    fits = len(value) + len(place.key or b"") <= max_bytes
    original: Headers = [
        (name, each if isinstance(each, bytes | None) else str(each).encode()) for name, each in message.headers() or []
    ]
    if sum(len(name) + len(each or b"") for name, each in original) > _MAX_HEADER_BYTES:
        original = []
    common: Headers = [
        *original,
        ("finetune-reason", str(rejected).encode("utf-8", "replace")[:1000]),
        ("finetune-code", rejected.code.encode()),
        ("finetune-topic", place.topic.encode()),
        ("finetune-partition", str(place.partition).encode()),
        ("finetune-offset", str(place.offset).encode()),
    ]
    whole: Headers = [*common, ("finetune-value", b"original")]
    smaller: Headers = [*common, ("finetune-value", b"reference")]
    return Record(topic, place.key, *((value, whole) if fits else (reference, smaller)), reference, smaller)


def is_shown(event: Event, partials: bool) -> bool:
    """Whether an event is written."""
    return isinstance(event, Final) or (partials and isinstance(event, Partial))


def _begin(kind: str, place: Place) -> dict[str, Any]:
    """What each result begins with; a key that is not UTF-8 stands in `key_base64`."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": kind,
        "topic": place.topic,
        "partition": place.partition,
        "offset": place.offset,
        "key": None,
    }
    try:
        document["key"] = None if place.key is None else place.key.decode("utf-8")
    except UnicodeDecodeError:
        document["key_base64"] = base64.b64encode(place.key or b"").decode()
    return document


def _record(topic: str, place: Place, document: dict[str, Any], smaller: dict[str, Any]) -> Record:
    headers: Headers = [("content-type", b"application/json"), ("finetune-kind", document["kind"].encode())]
    return Record(topic, place.key, _encode(document), headers, _encode(smaller))


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
