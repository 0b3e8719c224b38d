"""The application: all routes behind one guard that measures, logs, limits and answers errors in one form."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.websockets import WebSocketDisconnect

from finetune.serving import feedback, hosted, page, realtime, review, status, transcriptions, vosk
from finetune.serving.problems import Problem
from finetune.serving.service import Service

_LOGGER = logging.getLogger(__name__)

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

# A client that takes nothing of an answer for so long is disconnected.
_SEND_SECONDS = 30.0
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    b"content-security-policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob:; "
        b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"permissions-policy": b"microphone=(self)",
}


def build_app(service: Service) -> Any:
    """The ASGI application of a service."""
    app = FastAPI(
        title="finetune", description="Speech to text with fine-tuned wav2vec2 models.", docs_url=None, redoc_url=None
    )
    for module in (transcriptions, feedback, review, hosted, status, page, realtime, vosk):
        app.include_router(module.build_router(service))
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_unknown)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    guarded: Any = _Guard(app, service)
    if service.settings.allowed_origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=service.settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Reviewer"],
            expose_headers=["X-Feedback-Id", "X-Feedback-Note"],
        )
    return guarded


def _answer_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


def _answer_unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: "There is no such route.", 405: f"This route does not take {request.method}."}
    message = messages.get(error.status_code, str(error.detail))
    return Problem(error.status_code, message, "invalid_route", headers=error.headers).response()


def _answer_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return Problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.", "invalid_value").response()


class _Guard:
    """Around all routes: foreign pages are refused, requests are measured and logged, and bugs answered with 500."""

    def __init__(self, app: Any, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        observed = _Observed(send)
        self._service.metrics.active(1)
        try:
            refusal = self._find_refusal(scope)
            if refusal is None:
                await self._app(scope, receive, observed.send)
            elif scope["type"] == "http":
                await refusal.response()(scope, receive, observed.send)
            else:
                await receive()
                await observed.send({"type": "websocket.close", "code": 1008, "reason": refusal.message})
        except (TimeoutError, ConnectionError, WebSocketDisconnect):
            _LOGGER.debug("a client has gone, or did not take its answer")
        except Exception:
            _LOGGER.exception("a request failed by a bug")
            if scope["type"] == "http" and observed.status is None:
                problem = Problem(500, "The request failed by a fault of the service.", "internal_error")
                await problem.response()(scope, receive, observed.send)
        finally:
            self._service.metrics.active(-1)
            self._record(scope, observed)

    def _find_refusal(self, scope: _Message) -> Problem | None:
        """Without keys, a web page of another origin must not use the service of who looks at it.

        The name in Host is checked, too: a page can give a name of its own the address of this machine (DNS rebinding).
        """
        service = self._service
        if service.settings.keys is not None or service.settings.insecure:
            return None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        origin = headers.get("origin")
        allowed = service.settings.allowed_origins
        if _split(f"//{host}").hostname not in (*_LOCAL_NAMES, service.settings.host):
            return Problem(403, "Without keys only localhost is served.", "foreign_host")
        if origin is not None and origin not in allowed and _split(origin).netloc != host:
            return Problem(403, "Without keys pages of other origins are not served.", "foreign_origin")
        return None

    def _record(self, scope: _Message, observed: _Observed) -> None:
        route = getattr(scope.get("route"), "path", None) or "none"
        seconds = time.monotonic() - observed.began
        method = scope.get("method", "GET")  # A WebSocket begins with GET.
        status = observed.status or (101 if scope["type"] == "websocket" else 499)
        self._service.metrics.request(method, route, status, seconds)
        state = scope["state"]
        address = (scope.get("client") or (None,))[0]
        if route not in ("/health/live", "/health/ready", "/metrics"):
            self._service.audit.write(
                key=state.get("key", "none"),
                address=address,
                route=f"{method} {route}",
                status=status,
                seconds=seconds,
                model=state.get("model"),
            )


def _split(url: str) -> SplitResult:
    """The parts of a URL; for what is none, such as half of an IPv6 address, they are empty."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


class _Observed:
    """The sending side of a request: it adds headers, keeps the status, and limits how long a client takes."""

    def __init__(self, send: _Send) -> None:
        self._send = send
        self.status: int | None = None
        self.began = time.monotonic()

    async def send(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            there = {name.lower() for name, _ in message.get("headers", ())}
            added = [(name, value) for name, value in _HEADERS.items() if name not in there]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        elif message["type"] == "websocket.close" and self.status is None:
            self.status = 403 if message.get("code") == 1008 else 101
        async with asyncio.timeout(_SEND_SECONDS):
            await self._send(message)
