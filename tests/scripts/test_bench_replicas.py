"""The load of clients against replicas: its steps, what it counts, and a proxy whose second server comes later."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server

import pytest
from bench_replicas import Answer, Load, describe, list_steps, run_proxy

HAPROXY = Path("/usr/sbin/haproxy")


class Handler(BaseHTTPRequestHandler):
    """A service that is ready and answers each request at once; as ours without keys, for its own address only."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200 if self.headers.get("host", "").startswith("127.0.0.1") else 403)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serve(port: int) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        return [stack.enter_context(create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def test_clients_are_doubled_up_to_the_most() -> None:
    assert list_steps(64) == [1, 2, 4, 8, 16, 32, 64]
    assert list_steps(5) == [1, 2, 4, 5] and list_steps(1) == [1]


def test_a_line_has_what_was_answered_with_a_text_only() -> None:
    answers = [Answer(0.0, 0.1 * number, 200, f"replica-{1 + number % 2}") for number in range(1, 21)]
    line = describe([*answers, Answer(0.0, 9.0, 503, ""), Answer(0.0, 9.0, 0, "")], 10.0, 3.0)
    assert " ".join(line.split()) == (
        "2.0/s 6.0 s of audio/s median 1050 ms p95 1905 ms failed 2 {503: 1, 0: 1} replica-1 50% replica-2 50%"
    )
    assert "failed 0" in describe([], 10.0, 3.0)


def wait_for_answers(load: Load, *expected: tuple[int, str]) -> None:
    """Wait until the status and the replica of the next answers are all of the expected ones, and no others."""
    began, deadline, found = time.perf_counter(), time.monotonic() + 20, set[tuple[int, str]]()
    while found != set(expected):
        assert found <= set(expected) and time.monotonic() < deadline, found
        time.sleep(0.05)
        found = {(answer.status, answer.replica) for answer in load.since(began)}


def test_the_number_of_clients_can_change_while_they_send() -> None:
    with serve(0) as address:
        load = Load(address, [b"audio"])
        for number in (3, 1, 2):
            load.set_clients(number)
            wait_for_answers(load, (200, ""))
        load.set_clients(0)
        assert not load.measure(0.1)
    load.set_clients(1)
    wait_for_answers(load, (0, ""))  # Nobody is there any more.
    load.set_clients(0)


@pytest.mark.skipif(not HAPROXY.exists(), reason="haproxy is not installed (Debian: apt-get install haproxy)")
def test_a_replica_that_comes_while_clients_send_is_used(tmp_path: Path) -> None:
    port, first, second = free_ports(3)
    with serve(first), run_proxy(tmp_path, port, [first, second]) as address:
        time.sleep(1.0)  # Until the proxy knows that the second one is not there.
        load = Load(address, [b"audio"])
        try:
            load.set_clients(2)
            wait_for_answers(load, (200, "replica-1"))
            with serve(second):
                wait_for_answers(load, (200, "replica-1"), (200, "replica-2"))
                load.set_clients(0)
        finally:
            load.set_clients(0)
