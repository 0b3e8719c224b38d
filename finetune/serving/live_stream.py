"""A live session of the engine for a WebSocket: audio in with back-pressure, events out, an end in bounded time."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from finetune.audio.samples import Encoding
from finetune.inference.events import Event, Final
from finetune.inference.live_engine import EngineSession, Overloaded
from finetune.serving.models import Model
from finetune.serving.problems import Problem
from finetune.serving.service import Service

# A client that sends faster than the model computes is read more slowly, as soon as so much audio waits.
_MAX_LAG_SECONDS = 2.0
_LOOK_SECONDS = 0.02
# The rest of a stream is computed for at most so long after its end.
_FINISH_SECONDS = 60.0
_SEND_SECONDS = 20.0


class LiveStream:
    """One session of a model's engine, used by one task."""

    def __init__(self, service: Service, model: Model, sampling_rate: int, encoding: Encoding = "s16le") -> None:
        """Open the session; raises Problem if there are too many, and AudioError as `LiveEngine.open` does."""
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._service, self._model = service, model
        self._rate, self._bytes = sampling_rate, 2 if encoding == "s16le" else 1
        try:
            self._session: EngineSession = model.open_live(sampling_rate, encoding=encoding, on_events=self._notify)
        except Overloaded as error:
            raise Problem(429, str(error), "too_many_sessions", headers={"Retry-After": "10"}) from error

    def _notify(self) -> None:
        with suppress(RuntimeError):  # The server has ended.
            self._loop.call_soon_threadsafe(self._ready.set)

    async def feed(self, audio: bytes) -> None:
        """Take audio, and wait while too much of it is not computed; raises AudioError for audio that is no sound."""
        self._session.feed(audio)
        self._service.metrics.audio(self._model.name, "live", len(audio) / self._bytes / self._rate)
        self._service.metrics.live_lag(self._session.lag_seconds)
        while not self._session.ended and self._session.lag_seconds > _MAX_LAG_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)

    def events(self) -> list[Event]:
        """The events that are ready; raises what ended the session."""
        events = self._session.events()
        for event in events:
            if isinstance(event, Final):
                self._service.count_utterance(self._model, event.confidence, None)
        return events

    async def wait(self) -> list[Event]:
        """The next events, as soon as there are any; none when the session has ended."""
        while not (events := self.events()) and not self._session.ended:
            self._ready.clear()
            if not self._session.ended:
                await self._ready.wait()
        return events or self.events()

    def end(self) -> None:
        """End the stream; `wait` returns its last events."""
        self._session.finish()

    async def finish(self) -> list[Event]:
        """End the stream, and return its last events."""
        self.end()
        events: list[Event] = []
        try:
            async with asyncio.timeout(_FINISH_SECONDS):
                while not self._session.ended:
                    events += await self.wait()
        except TimeoutError as error:
            raise Problem(503, f"The end was not computed within {_FINISH_SECONDS:g} s.", "too_slow") from error
        return events + self.events()

    def close(self) -> None:
        """Close the session; what is not computed is dropped."""
        self._session.close()


async def send_json(socket: WebSocket, value: dict[str, Any]) -> None:
    """Send a message; a client that reads nothing for 20 s is disconnected."""
    # Half a character, which a client may have sent, goes back as its JSON escape.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await socket.send_text(text)
    except TimeoutError as error:
        raise WebSocketDisconnect(1011, "the client does not read") from error
    except RuntimeError as error:  # It was closed meanwhile.
        raise WebSocketDisconnect(1006) from error


async def receive(socket: WebSocket, idle_seconds: float) -> dict[str, Any]:
    """The next message, `text` or `bytes`; raises WebSocketDisconnect at the end or after `idle_seconds`."""
    try:
        async with asyncio.timeout(idle_seconds):
            message = await socket.receive()
    except TimeoutError as error:
        await close(socket, 1001, f"nothing was sent for {idle_seconds:g} s")
        raise WebSocketDisconnect(1001) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    return dict(message)


async def close(socket: WebSocket, code: int, reason: str = "") -> None:
    """Close a connection, if it is open; a reason has at most 123 bytes."""
    short = reason.encode("utf-8", "replace")[:123].decode(errors="ignore")
    if socket.application_state is WebSocketState.CONNECTED and socket.client_state is WebSocketState.CONNECTED:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await socket.close(code, short)
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            return
