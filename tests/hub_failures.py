"""What can go wrong between a client and the tests' hub: refusals, cut connections, slow links."""

import io
import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import sleep  # Bound now: tests shorten the client's.
from typing import Any, Literal


class Dropped(ConnectionError):
    """The connection ends here, without another byte."""


@dataclass
class Rule:
    """How the next `times` requests (None: all) of a method whose path matches go wrong; `hits` counts them.

    With `status` they are answered by it. With `drop` they get no answer: "before" they are done, "after" that.
    With `drop_after_bytes` the connection ends once so many bytes of the request's body have come.
    """

    method: str
    pattern: str
    status: int | None = None
    times: int | None = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    message: str = ""
    drop: Literal["before", "after"] | None = None
    drop_after_bytes: int | None = None
    hits: int = 0

    def __post_init__(self) -> None:
        assert self.status or self.drop or self.drop_after_bytes is not None, "a rule that says nothing"


class Failures:
    """The rules of one hub, and what its lines let through."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.bytes_per_second: float | None = None  # Of each connection, in either direction.
        self.traffic = 0  # Bytes in both directions, headers included.
        self._cut_at: int | None = None
        self._for_good = False
        self._dead = False
        self._lock = threading.Lock()

    def fail(self, method: str, pattern: str, **how: Any) -> Rule:
        """Add a Rule for requests whose path has the regular expression in it."""
        rule = Rule(method, pattern, **how)
        self.rules.append(rule)
        return rule

    def cut_after(self, count: int, for_good: bool = False) -> None:
        """Cut the connection that would carry one byte more than the next `count`; `for_good`: all others too."""
        with self._lock:
            self._cut_at, self._for_good = self.traffic + count, for_good

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self.rules.clear()
            self.bytes_per_second = self._cut_at = None
            self._dead = False

    def match(self, method: str, path: str) -> Rule | None:
        """The first rule for a request, which counts as one of its times."""
        with self._lock:
            for rule in self.rules:
                if rule.method == method and rule.times != 0 and re.search(rule.pattern, path):
                    rule.hits += 1
                    rule.times = None if rule.times is None else rule.times - 1
                    return rule
        return None

    def allow(self, count: int) -> int:
        """How many of `count` bytes may pass now; raises Dropped when none may."""
        with self._lock:
            if self._cut_at is not None and self.traffic >= self._cut_at:
                self._cut_at, self._dead = None, self._for_good
                raise Dropped
            if self._dead:
                raise Dropped
            return count if self._cut_at is None else min(count, self._cut_at - self.traffic)

    def pass_on(self, count: int) -> None:
        """Count what has passed, and take the time that it takes."""
        with self._lock:
            self.traffic += count
            rate = self.bytes_per_second
        if rate:
            sleep(count / rate)

    def piece(self) -> int:
        """How many bytes pass at once: a twentieth of a second's worth."""
        return 65536 if self.bytes_per_second is None else max(1, int(self.bytes_per_second / 20))


class Line(io.RawIOBase):
    """One connection, each byte of which the failures may stop."""

    def __init__(self, connection: socket.socket, failures: Failures) -> None:
        super().__init__()
        self._connection, self._failures = connection, failures

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        allowed = self._failures.allow(min(len(buffer), self._failures.piece()))
        count = self._connection.recv_into(memoryview(buffer)[:allowed])
        self._failures.pass_on(count)
        return count

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        sent = 0
        while sent < len(view):
            allowed = self._failures.allow(min(len(view) - sent, self._failures.piece()))
            self._connection.sendall(view[sent : sent + allowed])
            self._failures.pass_on(allowed)
            sent += allowed
        return sent


def cut(connection: socket.socket) -> None:
    """End a connection by a reset, as a broken network does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
