"""The settings of a session of OpenAI's realtime protocol: defaults, updates, and what this service can't do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune.audio.samples import Encoding
from finetune.serving.problems import Problem

# A client that asks for it gets the whole text of a segment with each change, and the words of its final text with
# times, which the protocol does not have.
PARTIALS = "item.input_audio_transcription.partial"
_RATES = 24_000, 16_000  # of PCM; the first is OpenAI's only one
_FORMATS: dict[str, tuple[Encoding, tuple[int, ...]]] = {
    "audio/pcm": ("s16le", _RATES),
    "audio/pcmu": ("mulaw", (8000,)),
    "audio/pcma": ("alaw", (8000,)),
}


@dataclass(frozen=True)
class SessionSettings:
    """What a client has set: the format of its audio, the model, and whether the service finds the turns."""

    form: str = "audio/pcm"
    sampling_rate: int = _RATES[0]
    model: str | None = None
    finds_turns: bool = True
    partials: bool = False

    @property
    def encoding(self) -> Encoding:
        """The encoding of the audio."""
        return _FORMATS[self.form][0]

    def describe(self, identity: str) -> dict[str, Any]:
        """The session as the protocol has it."""
        return {
            "id": identity,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": {
                "input": {
                    "format": {"type": self.form, "rate": self.sampling_rate},
                    "transcription": {"model": self.model},
                    "turn_detection": {"type": "server_vad"} if self.finds_turns else None,
                    "noise_reduction": None,
                }
            },
            "include": [PARTIALS] if self.partials else [],
        }

    def update(self, session: object) -> SessionSettings:
        """The settings after a `session.update`; keys that are not given stay.

        The numbers of `server_vad`, `noise_reduction`, `language` and `prompt` are ignored. Raises Problem for what the
        service can't do.
        """
        given = _section(session, "session")
        if given.get("type", "transcription") != "transcription":
            raise _invalid("session.type", given["type"], "transcription")
        audio = _section(given.get("audio"), "session.audio").get("input")
        changed = self._update_input(_section(audio, "session.audio.input"))
        if "include" in given:
            included = given["include"] or []
            if not isinstance(included, list) or not set(map(str, included)) <= {PARTIALS}:
                raise _invalid("session.include", included, f"[] or [{PARTIALS!r}]")
            changed = replace(changed, partials=bool(included))
        return changed

    def _update_input(self, given: Mapping[str, Any]) -> SessionSettings:
        changed = self
        if given.get("format") is not None:
            form = _section(given["format"], "session.audio.input.format")
            kind = form.get("type", "audio/pcm")
            if not isinstance(kind, str) or kind not in _FORMATS:
                raise _invalid("session.audio.input.format.type", kind, ", ".join(_FORMATS))
            rates = _FORMATS[kind][1]
            rate = form.get("rate") or rates[0]
            if rate not in rates:
                raise _invalid("session.audio.input.format.rate", rate, " or ".join(map(str, rates)))
            changed = replace(changed, form=kind, sampling_rate=int(rate))
        if given.get("transcription") is not None:
            transcription = _section(given["transcription"], "session.audio.input.transcription")
            model = transcription.get("model", self.model)
            changed = replace(changed, model=None if model is None else str(model))
        if "turn_detection" in given:
            detection = given["turn_detection"]
            kind = None if detection is None else _section(detection, "turn_detection").get("type", "server_vad")
            if kind not in (None, "server_vad"):
                raise _invalid("session.audio.input.turn_detection.type", kind, "server_vad or null")
            changed = replace(changed, finds_turns=kind is not None)
        return changed


def _section(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _invalid(name, value, "an object")
    return value


def _invalid(param: str, found: object, expected: str) -> Problem:
    return Problem(400, f"{param} is {str(found)[:80]!r}; expected {expected}.", "invalid_value", param)
