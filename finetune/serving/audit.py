"""The audit log: who asked for what and when, as JSON lines without text, audio, tokens or full addresses."""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

from finetune.errors import UserError

_LOGGER = logging.getLogger(__name__)


class AuditLog:
    """Appends a line for each request to a file, or drops it without one."""

    def __init__(self, file: Path | None) -> None:
        """Open the file; raises UserError if it can't be written."""
        self._lock = threading.Lock()
        try:
            self._file = file.open("ab", buffering=0) if file else None
        except OSError as error:
            raise UserError(f"{file} can't be written: {error.strerror}.") from error
        self._is_failing = self._is_cut = False

    def write(
        self, *, key: str, address: str | None, route: str, status: int, seconds: float, model: str | None = None
    ) -> None:
        """Append a request: the name of its key, its route as a template, its status, and the hash of the model.

        Where that fails, as on a full disk, the request is left out, and the first one of these is logged.
        """
        if self._file is None:
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "key": key,
            "network": shorten_address(address),
            "route": route,
            "status": status,
            "seconds": round(seconds, 3),
            "model": model,
        }
        with self._lock:
            content = (b"\n" if self._is_cut else b"") + json.dumps(line).encode() + b"\n"
            try:
                self._is_cut = self._file.write(content) < len(content)  # The disk is full from there on.
                self._is_failing = False
            except OSError as error:
                if not self._is_failing:
                    _LOGGER.error(f"the audit log {self._file.name} lacks requests from now on: {error.strerror}")
                self._is_failing = True

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def shorten_address(address: str | None) -> str | None:
    """The network of an address: the first three bytes of an IPv4 address, six of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    return str(ipaddress.ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))
