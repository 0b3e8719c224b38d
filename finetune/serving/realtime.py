"""WS /v1/realtime: live transcription as OpenAI's client speaks it; the service or the client ends turns."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from finetune.audio.recordings import AudioError
from finetune.inference.events import Event, Final, Partial, SpeechEnded, SpeechStarted
from finetune.inference.live_engine import Overloaded
from finetune.inference.transcript import Word
from finetune.serving.live_stream import LiveStream, close, receive, send_json
from finetune.serving.problems import Problem
from finetune.serving.realtime_session import SessionSettings
from finetune.serving.service import Service
from finetune.text.word_units import join_words

_TRANSCRIPTION = "conversation.item.input_audio_transcription"


def build_router(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.websocket("/v1/realtime")
    async def speak(socket: WebSocket) -> None:
        """OpenAI's realtime transcription: a session for each connection."""
        offered = [each.strip() for each in socket.headers.get("sec-websocket-protocol", "").split(",")]
        await socket.accept("realtime" if "realtime" in offered else None)
        connection = _Connection(service, socket)
        try:
            service.admit(socket, "live")
            if socket.query_params.get("intent", "transcription") != "transcription":
                raise Problem(400, "intent must be transcription.", "invalid_value", "intent")
            await connection.run()
        except Problem as problem:
            await connection.send_error(problem)
            await close(socket, 1008 if problem.status in (401, 403) else 1013, problem.message)
        except (AudioError, Overloaded) as error:
            await connection.send_error(Problem(422, f"{error}", "unreadable_audio"))
            await close(socket, 1007, f"{error}")

    return router


class _Connection:
    """One client: its settings and its current turn."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket = service, socket
        self._settings = SessionSettings(model=socket.query_params.get("model"))
        self._identity = f"sess_{secrets.token_hex(8)}"
        self._turn: _Turn | None = None
        self.past_seconds = 0.0  # of audio before the current turn
        self.last_item: str | None = None

    async def run(self) -> None:
        """Answer messages until the client goes."""
        await self.send({"type": "session.created", "session": self._settings.describe(self._identity)})
        try:
            while True:
                received = asyncio.create_task(receive(self._socket, self._service.settings.idle_seconds))
                pump = self._turn.pump if self._turn else None
                await asyncio.wait({received, pump} if pump else {received}, return_when=asyncio.FIRST_COMPLETED)
                if pump and pump.done() and not received.done():
                    received.cancel()
                    with suppress(asyncio.CancelledError, WebSocketDisconnect):
                        await received
                    pump.result()  # It ends before its turn only by an error.
                message = await received
                await self._take(message.get("text"))
        finally:
            if self._turn:
                self._turn.close()

    async def _take(self, text: str | None) -> None:
        """Handle a message; what is wrong with it is an event, and the session goes on."""
        event: object = None
        try:
            try:
                event = json.loads(text or "")
            except (ValueError, RecursionError):
                event = None
            if not isinstance(event, dict):
                raise Problem(400, "Expected a JSON object with a type.", "invalid_event")
            await self._handle(event)
        except Problem as problem:
            if problem.status != 400:
                raise
            identity = event.get("event_id") if isinstance(event, dict) else None
            await self.send_error(problem, identity if isinstance(identity, str) else None)

    async def _handle(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "session.update":
                changed = self._settings.update(event.get("session"))
                if self._service.models.find(changed.model) is None:
                    known = ", ".join(self._service.models.names)
                    raise Problem(400, f"There is no such model; expected {known}.", "model_not_found", "model")
                if self._turn and changed != self._settings:
                    raise Problem(400, "Commit or clear the audio before the session is changed.", "audio_in_buffer")
                self._settings = changed
                await self.send({"type": "session.updated", "session": changed.describe(self._identity)})
            case "input_audio_buffer.append":
                audio = _decode(event.get("audio"))
                if self._turn is None:
                    self._turn = self._open()
                await self._turn.stream.feed(audio)
                self._turn.num_bytes += len(audio)
            case "input_audio_buffer.commit":
                if self._turn is None:
                    raise Problem(400, "There is no audio to commit.", "input_audio_buffer_commit_empty")
                await self._end(self._turn)
            case "input_audio_buffer.clear":
                if self._turn:
                    self._forget(self._turn)
                await self.send({"type": "input_audio_buffer.cleared"})
            case other:
                raise Problem(400, f"The type {str(other)[:80]!r} is not known.", "invalid_event", "type")

    def _open(self) -> _Turn:
        settings = self._settings
        model = self._service.find_model(settings.model, self._socket)
        stream = LiveStream(self._service, model, settings.sampling_rate, settings.encoding)
        return _Turn(self, stream, settings)

    async def _end(self, turn: _Turn) -> None:
        """Compute the rest of the audio, and send its events."""
        turn.stream.end()
        await turn.pump
        if not turn.settings.finds_turns:
            await turn.send_committed()
        self._forget(turn)

    def _forget(self, turn: _Turn) -> None:
        self.past_seconds += turn.seconds
        turn.close()
        self._turn = None

    async def send(self, event: dict[str, Any]) -> None:
        """Send an event."""
        await send_json(self._socket, {"event_id": f"event_{secrets.token_hex(8)}", **event})

    async def send_error(self, problem: Problem, event_id: str | None = None) -> None:
        """Send an error; `event_id` is of the client's event that it is about."""
        error = problem.describe()["error"]
        assert isinstance(error, dict)
        with suppress(WebSocketDisconnect):
            await self.send({"type": "error", "error": {**error, "event_id": event_id}})


class _Turn:
    """The audio since the last commit, which is one session of the engine, and its items.

    With server VAD each segment of speech is an item; without it the whole audio is one, and its text is sent when the
    client commits it.
    """

    def __init__(self, connection: _Connection, stream: LiveStream, settings: SessionSettings) -> None:
        self.stream, self.settings = stream, settings
        self.num_bytes = 0
        self._connection = connection
        self._past_milliseconds = round(1000 * connection.past_seconds)
        self._item, self._sent = _new_item(), ""
        self._finals: list[Final] = []
        self.pump = asyncio.create_task(self._run())

    @property
    def seconds(self) -> float:
        """The audio that was received."""
        return self.num_bytes / (2 if self.settings.encoding == "s16le" else 1) / self.settings.sampling_rate

    def close(self) -> None:
        """Close the session of the engine."""
        self.pump.cancel()
        self.stream.close()

    async def send_committed(self) -> None:
        """Send the item of a turn that the client has committed."""
        text = join_words(final.text for final in self._finals if final.text)
        await self._send("input_audio_buffer.committed", previous_item_id=self._connection.last_item)
        await self._complete(text, self.seconds, [word for final in self._finals for word in final.words])

    async def _run(self) -> None:
        while events := await self.stream.wait():
            if self.settings.finds_turns:
                await self._send_events(events)
            else:
                self._finals += [event for event in events if isinstance(event, Final)]

    async def _send_events(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case SpeechStarted():
                    await self._send("input_audio_buffer.speech_started", audio_start_ms=self._place(event.start))
                case Partial():
                    if event.stable.startswith(self._sent) and len(event.stable) > len(self._sent):
                        await self._delta(event.stable)
                    if self.settings.partials:
                        await self._send(f"{_TRANSCRIPTION}.partial", text=event.text, stable=event.stable)
                case SpeechEnded():
                    await self._send("input_audio_buffer.speech_stopped", audio_end_ms=self._place(event.end))
                    await self._send("input_audio_buffer.committed", previous_item_id=self._connection.last_item)
                case Final():
                    await self._complete(event.text, event.end - event.start, event.words)

    async def _delta(self, text: str) -> None:
        """Send what a text adds to what was sent."""
        await self._send(f"{_TRANSCRIPTION}.delta", content_index=0, delta=text[len(self._sent) :])
        self._sent = text

    async def _complete(self, text: str, seconds: float, words: Iterable[Word]) -> None:
        """Send the final text of the item, which may differ from the deltas, and begin the next item."""
        if text.startswith(self._sent) and len(text) > len(self._sent):
            await self._delta(text)
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        timed = {"words": [self._describe(word) for word in words]} if self.settings.partials else {}
        await self._send(f"{_TRANSCRIPTION}.completed", content_index=0, transcript=text, usage=usage, **timed)
        self._connection.last_item = self._item
        self._item, self._sent = _new_item(), ""

    async def _send(self, kind: str, **values: Any) -> None:
        await self._connection.send({"type": kind, "item_id": self._item, **values})

    def _describe(self, word: Word) -> dict[str, Any]:
        """A word as in verbose_json; its times are those of the connection."""
        times = {"start": self._place(word.start) / 1000, "end": self._place(word.end) / 1000}
        return {"word": word.text, **times, "confidence": round(word.confidence, 4)}

    def _place(self, seconds: float) -> int:
        """A time of the stream in milliseconds since the first audio of the connection."""
        return self._past_milliseconds + round(1000 * seconds)


def _new_item() -> str:
    return f"item_{secrets.token_hex(8)}"


def _decode(audio: object) -> bytes:
    try:
        return base64.b64decode(audio if isinstance(audio, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(400, "audio is not base64.", "invalid_value", "audio") from error
