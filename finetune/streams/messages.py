"""What a message is by its headers: a recording, a link to one, or a chunk of a live session."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from finetune.audio.samples import ENCODINGS, Encoding
from finetune.resources.storage import is_url

_TRUTHS = {"1": True, "true": True, "0": False, "false": False}
_MAX_REFERENCE_BYTES = 8192


class Rejected(Exception):
    """A message that can't be used; `code` is one word for metrics, and the text the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Place:
    """Where a message stands, with its key and its time in milliseconds (0 if unknown)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    milliseconds: int = 0


@dataclass(frozen=True, eq=False)
class Recording:
    """A whole recording: its bytes, or a path or URL to read."""

    audio: bytes | str

    @property
    def num_bytes(self) -> int:
        """Bytes that are held for it."""
        return len(self.audio)


@dataclass(frozen=True, eq=False)
class Chunk:
    """The next audio of the live session that has the message's key; `ends` says that it is the last."""

    audio: bytes
    sampling_rate: int
    encoding: Encoding
    sequence: int | None
    ends: bool
    message: Any

    @property
    def seconds(self) -> float:
        """How long its audio is."""
        return len(self.audio) / {"s16le": 2, "f32le": 4}.get(self.encoding, 1) / self.sampling_rate


def locate(message: Any) -> Place:
    """The place of a message of confluent_kafka."""
    kind, milliseconds = message.timestamp()
    return Place(message.topic(), message.partition(), message.offset(), message.key(), milliseconds if kind else 0)


def read_message(message: Any, max_bytes: int, references: Sequence[str]) -> Recording | Chunk:
    """Parse a message of confluent_kafka; raises Rejected.

    `references` are the beginnings of paths and URLs that may be read.
    """
    value: bytes = message.value() or b""
    if len(value) > max_bytes:
        raise Rejected(
            "too_large", f"the message has {len(value)} bytes; expected up to {max_bytes} (--max-message-mb)"
        )
    headers = _read_headers(message.headers() or [])
    if "sampling_rate" in headers:
        return _read_chunk(message, headers)
    for name in ("encoding", "sequence", "end"):
        if name in headers:
            raise Rejected("headers", f"the header {name} belongs to a live chunk, but there is no sampling_rate")
    if not value:
        raise Rejected("empty", "the message is empty; expected the bytes of a recording")
    if _read_truth(headers, "reference"):
        return Recording(_read_reference(value, references))
    return Recording(value)


def _read_headers(pairs: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """The headers that we know, as text; the last of a name counts."""
    known = ("sampling_rate", "encoding", "sequence", "end", "reference")
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in known:
            try:
                found[name] = (value if isinstance(value, str) else bytes(value or b"").decode("ascii")).strip()
            except UnicodeDecodeError as error:
                raise Rejected("headers", f"the header {name} is not text") from error
    return found


def _read_chunk(message: Any, headers: dict[str, str]) -> Chunk:
    if not message.key():
        raise Rejected("headers", "a live chunk has no key; expected the name of its session as the message's key")
    rate = _read_number(headers, "sampling_rate")
    assert rate is not None
    if not 1000 <= rate <= 192_000:
        raise Rejected("headers", f"the header sampling_rate is {rate}; expected 1000 to 192000")
    encoding: Any = headers.get("encoding", "s16le")
    if encoding not in ENCODINGS:
        raise Rejected("headers", f"the header encoding is {encoding[:40]!r}; expected one of {', '.join(ENCODINGS)}")
    sequence, ends = _read_number(headers, "sequence"), _read_truth(headers, "end")
    return Chunk(message.value() or b"", rate, encoding, sequence, ends, message)


def _read_number(headers: dict[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Rejected("headers", f"the header {name} is {text[:40]!r}; expected a whole number")
    return int(text)


def _read_truth(headers: dict[str, str], name: str) -> bool:
    text = headers.get(name, "0").lower()
    if text not in _TRUTHS:
        raise Rejected("headers", f"the header {name} is {text[:40]!r}; expected 1 or 0")
    return _TRUTHS[text]


def _read_reference(value: bytes, allowed: Sequence[str]) -> str:
    """The path or URL in a message, if it begins with one that is allowed."""
    try:
        place = value.decode("utf-8").strip() if len(value) <= _MAX_REFERENCE_BYTES else ""
    except UnicodeDecodeError:
        place = ""
    if not place or "\0" in place or "\n" in place:
        raise Rejected("reference", "the message is no reference; expected one path or URL in UTF-8")
    if not any(_is_within(place, prefix) for prefix in allowed):
        raise Rejected("reference", "the reference is outside of what --references allows")
    return place


def _is_within(place: str, prefix: str) -> bool:
    """Whether a path or URL is at or below a prefix, whatever dots and links are in it."""
    if is_url(place) != is_url(prefix):
        return False
    if not is_url(place):
        return Path(place).is_absolute() and Path(place).resolve().is_relative_to(Path(prefix).resolve())
    try:
        asked, given = urlsplit(place), urlsplit(prefix)
        same = (asked.scheme.lower(), asked.netloc) == (given.scheme.lower(), given.netloc)
    except ValueError:
        return False
    path, root = unquote(asked.path), unquote(given.path).rstrip("/") + "/"
    plain = "\\" not in place and "::" not in place and posixpath.normpath(path) == path
    return same and plain and path.startswith(root)
