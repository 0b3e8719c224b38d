"""Runs the application: sockets with limits, TLS, signals, and an end that finishes what has begun."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from finetune.errors import UserError
from finetune.serving.app import build_app
from finetune.serving.model_links import watch_links
from finetune.serving.service import Service

_LOGGER = logging.getLogger(__name__)

# A connection must send a request's header within this time.
_HEADER_SECONDS = 10.0
_PING_SECONDS = 20.0
_MAX_MESSAGE_BYTES = 16 * 2**20


def serve(service: Service, on_ready: Callable[[str], object]) -> None:
    """Serve until SIGTERM or Ctrl-C; `on_ready` gets the address when connections are accepted.

    Raises UserError where the address or the certificate can't be used.
    """
    settings = service.settings
    config = uvicorn.Config(
        build_app(service),
        host=settings.host,
        port=settings.port,
        http=_limit_connections(settings.max_connections),
        ws="websockets-sansio",
        ws_max_size=_MAX_MESSAGE_BYTES,
        ws_ping_interval=_PING_SECONDS,
        ws_ping_timeout=_PING_SECONDS,
        timeout_keep_alive=round(_HEADER_SECONDS),
        timeout_graceful_shutdown=round(settings.grace_seconds) + 1,
        server_header=False,
        access_log=False,
        log_config=None,
        proxy_headers=settings.behind_tls_proxy,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:
        raise UserError(f"The certificate or its key can't be used: {error}.") from error
    server = _Server(config, service, on_ready)
    try:
        with watch_links(service.models.all(), service.reload):
            server.run()
    except SystemExit as error:  # uvicorn's, after it has logged why.
        raise UserError(f"The service can't listen on {settings.host}:{settings.port}.") from error
    finally:
        service.engine.close(0)
        service.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which also reloads models at SIGHUP and refuses new work before it ends."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[str], object]) -> None:
        super().__init__(config)
        self._service, self._on_ready = service, on_ready
        service.on_stop = self._stop

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        if self.servers:
            port = self.servers[0].sockets[0].getsockname()[1]
            kind = "https" if self.config.is_ssl else "http"
            host = self._service.settings.host
            self._on_ready(f"{kind}://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Refuse new work, and finish what has begun within the grace time; a second signal ends it at once."""
        self.force_exit = self.should_exit
        self._stop()

    def _stop(self) -> None:
        self._service.draining.set()
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        """Wait for what has begun, then end."""
        deadline = time.monotonic() + self._service.settings.grace_seconds
        while self._service.is_working and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    def _reload(self) -> None:
        threading.Thread(target=_reload_models, args=(self._service,), daemon=True).start()


def _reload_models(service: Service) -> None:
    try:
        changed = service.reload()
    except UserError as error:
        _LOGGER.error(f"The models stay as they were: {error}")
    else:
        _LOGGER.info(f"models that were loaded again: {', '.join(changed) or 'none has changed'}")


def _limit_connections(most: int) -> type[H11Protocol]:
    """A protocol that refuses more than `most` connections and closes those that send no request in time."""

    class LimitedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _upgraded = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                self.transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watching()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._stop_watching()
            self._upgraded = True
            super().handle_websocket_upgrade(event)

        def _watch(self) -> None:
            """Begin to wait for a header where no request is answered; stop where one is."""
            if self._upgraded or (self.cycle is not None and not self.cycle.response_complete):
                self._stop_watching()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(_HEADER_SECONDS, self._close_idle)

        def _stop_watching(self) -> None:
            if self._deadline:
                self._deadline.cancel()
            self._deadline = None

        def _close_idle(self) -> None:
            self._deadline = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return LimitedProtocol
