"""The WebSocket protocol of vosk-server, for the clients that exist for it.

One JSON answer for each message: `{"partial": text}` while a segment is spoken, `{"text": …, "result": words}` when it
is final, and after `{"eof": 1}` the rest (github.com/alphacep/vosk-server).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket

from finetune.audio.recordings import AudioError
from finetune.inference.events import Event, Final, Partial
from finetune.inference.live_engine import Overloaded
from finetune.serving.live_stream import LiveStream, close, receive, send_json
from finetune.serving.problems import Problem
from finetune.serving.service import Service
from finetune.text.word_units import join_words

_DEFAULT_RATE = 8000  # vosk-server's


def build_router(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.websocket("/")
    async def speak(socket: WebSocket) -> None:
        """The protocol of vosk-server: a session for each connection."""
        await socket.accept()
        try:
            service.admit(socket, "live")
            await _Connection(service, socket).run()
        except Problem as problem:
            await send_json(socket, {"error": problem.message})
            await close(socket, 1008 if problem.status in (401, 403) else 1013, problem.message)
        except (AudioError, Overloaded) as error:
            await send_json(socket, {"error": str(error)})
            await close(socket, 1007, str(error))

    return router


class _Connection:
    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket = service, socket
        self._rate = _DEFAULT_RATE
        self._words = True
        self._partial = ""
        self._finals: deque[Final] = deque()

    async def run(self) -> None:
        """Answer messages until the end of the stream."""
        stream: LiveStream | None = None
        model = self._service.find_model(None, self._socket)
        try:
            while True:
                message = await receive(self._socket, self._service.settings.idle_seconds)
                if (audio := message.get("bytes")) is not None:
                    stream = stream or LiveStream(self._service, model, self._rate)
                    await stream.feed(audio)
                    self._take(stream.events())
                    await send_json(self._socket, self._answer())
                elif self._read(message.get("text") or "", begun=stream is not None):
                    self._take(await stream.finish() if stream else [])
                    await send_json(self._socket, self._describe(self._finals))
                    await close(self._socket, 1000)
                    return
        finally:
            if stream:
                stream.close()

    def _read(self, text: str, *, begun: bool) -> bool:
        """Read a message of text; returns whether it ends the stream."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise Problem(400, "Expected binary audio, or JSON with config or eof.", "invalid_message")
        config = message.get("config")
        if isinstance(config, dict):
            rate = config.get("sample_rate", self._rate)
            if begun or isinstance(rate, bool) or not isinstance(rate, int | float) or not 1000 <= rate <= 192_000:
                raise Problem(400, "config needs a sample_rate of 1000 to 192000, before the audio.", "invalid_config")
            self._rate = int(rate)
            self._words = bool(config.get("words", True))
        return bool(message.get("eof"))

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Partial):
                self._partial = event.text
            elif isinstance(event, Final):
                self._partial = ""
                self._finals.append(event)

    def _answer(self) -> dict[str, Any]:
        """The oldest result that was not sent, or the partial text."""
        return self._describe([self._finals.popleft()]) if self._finals else {"partial": self._partial}

    def _describe(self, finals: Iterable[Final]) -> dict[str, Any]:
        finals = list(finals)
        words = [word for final in finals for word in final.words]
        text = join_words(final.text for final in finals if final.text)
        if not self._words or not words:
            return {"text": text}
        result = [
            {
                "conf": round(word.confidence, 6),
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "word": word.text,
            }
            for word in words
        ]
        return {"result": result, "text": text}
