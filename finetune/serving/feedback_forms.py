"""What clients send as feedback: the fields of a form, the kind of its audio, and letters that a model lacks."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile

from finetune.audio.stream import open_stream
from finetune.audio.waveforms import CONTAINERS, SUFFIXES, AudioError, fault_as_reason
from finetune.decoding.alphabet import Alphabet
from finetune.serving.keys import Key
from finetune.serving.problems import Problem
from finetune.serving.uploads import AudioLimits, AudioTooLong

_YES, _NO = ("true", "1", "yes"), ("", "false", "0", "no")
# The first bytes of files of the common kinds, from a place on.
_KINDS = (
    (0, b"RIFF", ".wav"),
    (0, b"fLaC", ".flac"),
    (0, b"OggS", ".ogg"),
    (0, b"ID3", ".mp3"),
    (0, b"FORM", ".aiff"),
    (0, b".snd", ".au"),
    (4, b"ftyp", ".m4a"),
    (0, b"\x1aE\xdf\xa3", ".webm"),
)
_OTHER_KIND = ".mka"  # ffmpeg reads any kind by its content.
MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
    ".au": "audio/basic",
    ".m4a": "audio/mp4",
    ".mp4": "audio/mp4",
    ".webm": "audio/webm",
}
_MAX_LISTED = 10
# Turkish İ in lower case is an i with this dot.
_DOT_ABOVE = "\u0307"


class _Word(BaseModel):
    word: str
    start: FiniteFloat
    end: FiniteFloat
    confidence: FiniteFloat = 1.0


Words = tuple[tuple[str, float, float, float], ...]
_WORDS = TypeAdapter(list[_Word | tuple[str, FiniteFloat, FiniteFloat, FiniteFloat]])


@dataclass(frozen=True, kw_only=True)
class FeedbackForm:
    """The fields of a form of feedback; `hypothesis` is None where the model is to write it."""

    consent: str
    text: str | None
    hypothesis: str | None
    confidence: float | None
    words: Words
    model: str | None
    speaker: str | None
    domain: str
    licence: str | None

    @classmethod
    def read(cls, fields: FormData, key: Key) -> FeedbackForm:
        """Read the fields; raises Problem: 422 without consent, and for values that can't be used."""
        consent = read_consent(fields, "consent", key)
        if consent is None:
            message = "There is no consent: expected consent=true, or a text of who allowed what; nothing was stored."
            raise Problem(422, message, "consent", "consent")
        return cls(
            consent=consent,
            text=_text(fields, "text") or None,
            hypothesis=_text(fields, "hypothesis") if "hypothesis" in fields else None,
            confidence=_read_confidence(_text(fields, "confidence")),
            words=_read_words(_text(fields, "words")),
            model=_text(fields, "model") or None,
            speaker=_text(fields, "speaker") or None,
            domain=_text(fields, "domain") or "default",
            licence=_text(fields, "licence") or None,
        )


def read_consent(fields: FormData, name: str, key: Key) -> str | None:
    """The consent in a field: its text, or for `true` who sent it; None without any. Raises Problem for a file."""
    text = _text(fields, name)
    if text.lower() in _NO:
        return None
    return f"given by {key.name} with the recording" if text.lower() in _YES else text


def find_suffix(content: bytes, file_name: str | None) -> str:
    """The suffix of a file's kind, from its first bytes or else from its name."""
    for place, mark, suffix in _KINDS:
        if content[place : place + len(mark)] == mark:
            return suffix
    named = PurePath(file_name or "").suffix.lower()
    return named if named in SUFFIXES | CONTAINERS else _OTHER_KIND


def measure_audio(content: bytes, sampling_rate: int, limits: AudioLimits, is_gone: Callable[[], bool]) -> float:
    """The seconds of a recording, all of which is decoded; raises Problem: 422 where it can't be, 413 if too long."""
    check, samples = limits.guard(is_gone), 0
    try:
        with fault_as_reason(), open_stream(io.BytesIO(content), sampling_rate) as stream:
            for block in stream.blocks():
                samples += block.shape[1]
                check(samples / sampling_rate)
    except AudioTooLong as error:
        raise Problem(413, f"The audio is {error}.", "audio_too_long", "file") from error
    except AudioError as error:
        raise Problem(422, f"The audio can't be read: {error}.", "unreadable_audio", "file") from error
    return samples / sampling_rate


def require_letters(text: str, alphabet: Alphabet, model: str) -> None:
    """Raise Problem for letters and digits that a model can't write; case and punctuation do not count."""
    known = {character for symbol in alphabet.letters for form in _cases(symbol) for character in form}
    found = dict.fromkeys(
        character
        for character in unicodedata.normalize("NFC", text)
        if character.isalnum() and not any(set(form) <= known for form in _forms(character))
    )
    if found:
        listed = " ".join(list(found)[:_MAX_LISTED]) + (" …" if len(found) > _MAX_LISTED else "")
        message = f"The model {model} can't write these characters of the text: {listed}. Write the words as it can."
        raise Problem(422, message, "unwritable_text", "text")


def _forms(text: str) -> set[str]:
    """The cases of a text, also with its accents as characters of their own."""
    cased = _cases(text)
    return cased | {unicodedata.normalize("NFD", each) for each in cased}


def _cases(text: str) -> set[str]:
    cased = {text, text.casefold(), text.lower(), text.upper()}
    return cased | {each.replace(_DOT_ABOVE, "") for each in cased}


def _text(fields: FormData, name: str) -> str:
    """The text of a field, empty without it; raises Problem for a file, and for characters that no text has."""
    value = fields.get(name) or ""
    if isinstance(value, UploadFile):
        raise Problem(400, f"{name} is a file; expected text.", "invalid_value", name)
    require_printable(value, name)
    return value.strip()


def require_printable(text: str, name: str) -> None:
    """Raise Problem for a text with control characters or half characters."""
    if any(unicodedata.category(each) in ("Cc", "Cs") and not each.isspace() for each in text):
        raise Problem(422, f"{name} has control characters; expected text.", "invalid_value", name)


def _read_confidence(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        message = f"confidence is {text[:80]!r}; expected a number from 0 to 1."
        raise Problem(422, message, "invalid_value", "confidence")
    return value


def _read_words(text: str) -> Words:
    if not text:
        return ()
    try:
        found = _WORDS.validate_json(text)
    except ValidationError as error:
        message = "words can't be read; expected JSON such as [{word, start, end, confidence}], as verbose_json has it."
        raise Problem(422, message, "invalid_value", "words") from error
    return tuple(
        (each.word, each.start, each.end, each.confidence) if isinstance(each, _Word) else each for each in found
    )
