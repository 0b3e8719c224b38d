"""Clients that become more and more against one and then several replicas of the service behind a proxy.

    apt-get install haproxy
    python scripts/bench_replicas.py MODEL --data FOLDER [--replicas 1 2] [--most-clients 64] [--seconds 20]
        [--cores-each 1]

FOLDER holds short recordings. HAProxy (2.6 of Debian 12) on loopback gives requests to the replicas in turn and knows
by `/health/ready` which ones there are. Each replica is `finetune serve` in a process that may use `--cores-each`
cores, its own ones as long as the machine has them. 1, 2, 4 ... `--most-clients` threads of this process send one
recording after another, `--seconds` for each number; then, while `--most-clients` send, the next replica is started,
and the clients begin at one again. Clients, proxy and replicas share the machine. No measurement begins that would end
after `--limit-seconds`.

A line has the answers a second, seconds of audio a second, the median and the 95th percentile of an answer's time,
answers that are no text by their status (0: the connection failed), and the share of each replica. `while one is added`
is from the start of a process until the proxy has used it for `--seconds`.

The limit: a recording of 2.8 s costs a quickstart model 32 ms of one core (24 ms the model, 7 ms reading and decoding,
`bench_service.py`), without HTTP, proxy and clients. So one replica on one core answers at most 31 a second, and two
on two cores at most 62, less what clients and proxy need of the same cores. With 64 clients an answer then takes at
least 64 / 31 = 2.0 s from one replica, and 1.0 s from two. A second replica on the same cores adds nothing but memory.

Measured on 2 cores of an Intel Xeon (avx512_bf16, amx_bf16) in bf16, nothing else running, a quickstart model and 300
recordings of AN4 (2.4 s each, clients and proxy on the same cores); no request failed:

    clients                1       2       4       8      16      32      64
    1 replica, answers/s  30.1    33.6    36.2    31.2    31.2    30.8    24.2
      median, p95 (ms)   29, 67  50, 114 85, 340 187, 837 332, 1636 675, 3614 1690, 8535
    2 replicas            22.9    42.5    51.9    60.3    62.0    53.4    63.3
      median, p95 (ms)   39, 81  41, 97  52, 241 81, 491 179, 882 333, 2396 723, 2654

While the second was added with 64 clients: 45.1 answers a second, 56 % and 44 % of them by each replica. The 95th
percentile is of recordings with two windows, whose second one lets the first ones of others pass for a while.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_service import run_server
from parts import add_precision, report_machine

_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_PROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 120s
  timeout server 120s
  retries 3
  option redispatch
frontend clients
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance roundrobin
  option httpchk
  http-check send meth GET uri /health/ready ver HTTP/1.1 hdr Host 127.0.0.1 hdr Connection close
  http-response set-header x-replica %s
  timeout check 5s
  default-server check inter 200ms fall 2 rise 1
"""


@dataclass(frozen=True)
class Answer:
    """When an answer came, how long it took, its status (0 where the connection failed), and who gave it."""

    time: float
    seconds: float
    status: int
    replica: str


class Load:
    """Clients that send recordings to an address, each one after another; their number can be changed."""

    def __init__(self, address: str, recordings: Sequence[bytes]) -> None:
        self.answers: list[Answer] = []
        self._address, self._recordings, self._wanted = address, recordings, 0
        self._threads: list[threading.Thread] = []

    def set_clients(self, number: int) -> None:
        """Have so many clients; those above it end after the answer that they wait for."""
        self._wanted = number
        for thread in self._threads[number:]:
            thread.join()
        del self._threads[number:]
        while len(self._threads) < number:
            self._threads.append(threading.Thread(target=self._work, args=(len(self._threads),), daemon=True))
            self._threads[-1].start()

    def _work(self, client_number: int) -> None:
        import httpx2

        place = client_number
        with httpx2.Client(timeout=120) as client:
            while client_number < self._wanted:
                body = {"file": ("speech", self._recordings[place % len(self._recordings)])}
                place += 1
                began = time.perf_counter()
                try:
                    answer = client.post(f"{self._address}/v1/audio/transcriptions", files=body)
                    status, replica = answer.status_code, answer.headers.get("x-replica", "")
                except httpx2.TransportError:
                    status, replica = 0, ""
                now = time.perf_counter()
                self.answers.append(Answer(now, now - began, status, replica))
                if status != 200:
                    time.sleep(0.1)

    def measure(self, seconds: float) -> list[Answer]:
        """The answers of the next seconds."""
        began = time.perf_counter()
        time.sleep(seconds)
        return self.since(began)

    def since(self, began: float) -> list[Answer]:
        """The answers from a moment on."""
        return [answer for answer in self.answers if answer.time >= began]


def list_steps(most_clients: int) -> list[int]:
    """1, 2, 4 and so on, and the largest number."""
    steps = [1 << power for power in range(most_clients.bit_length()) if 1 << power < most_clients]
    return [*steps, most_clients]


def describe(answers: Sequence[Answer], seconds: float, mean_audio: float) -> str:
    """Throughput, waits, failures and the share of each replica."""
    good = [answer for answer in answers if answer.status == 200]
    shares = Counter(answer.replica for answer in good)
    failures = dict(Counter(answer.status for answer in answers if answer.status != 200))
    median, late = (1000 * np.percentile([each.seconds for each in good], [50, 95])) if good else (np.nan, np.nan)
    return (
        f"{len(good) / seconds:7.1f}/s {mean_audio * len(good) / seconds:7.1f} s of audio/s  median {median:6.0f} ms  "
        f"p95 {late:6.0f} ms  failed {len(answers) - len(good)} {failures or ''}  "
        + " ".join(f"{name} {count / len(good):.0%}" for name, count in sorted(shares.items()))
    )


@contextmanager
def run_proxy(folder: Path, port: int, replica_ports: Sequence[int]) -> Iterator[str]:
    """HAProxy before replicas, of which those that answer are used."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        sys.exit("haproxy is not installed: apt-get install haproxy")
    file = folder / "haproxy.cfg"
    servers = [f"  server replica-{number} 127.0.0.1:{each}" for number, each in enumerate(replica_ports, 1)]
    file.write_text("\n".join([_PROXY.format(port=port).strip(), *servers, ""]))
    process = subprocess.Popen([program, "-db", "-f", str(file)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def start_command(options: argparse.Namespace, number: int) -> list[str]:
    """The command of a replica (from 0) on cores of its own, as long as there are some."""
    cores = sorted(os.sched_getaffinity(0))
    own = {cores[(number * options.cores_each + each) % len(cores)] for each in range(options.cores_each)}
    serve = [sys.executable, "-m", "finetune", "serve", options.model, "--port", str(options.port + 1 + number)]
    serve += ["--queue", str(max(64, options.most_clients)), "--precision", options.precision]
    return ["taskset", "-c", ",".join(map(str, sorted(own))), *serve]


def run(options: argparse.Namespace, load: Load, mean_audio: float, replicas: ExitStack) -> None:
    """Print a line for each number of clients and replicas."""
    deadline, running = time.monotonic() + options.limit_seconds, 0
    for wanted in sorted(set(options.replicas)):
        began = time.perf_counter()
        load.set_clients(options.most_clients if running else 0)
        for number in range(running, wanted):
            replicas.enter_context(run_server(start_command(options, number), options.port + 1 + number))
        time.sleep(1.0)  # The proxy asks five times a second.
        if running:
            load.measure(options.seconds)
            line = describe(load.since(began), time.perf_counter() - began, mean_audio)
            print(f"{running} to {wanted} replicas, {options.most_clients:3} clients {line}  while one is added")
        running = wanted
        load.set_clients(running)
        load.measure(2.0)  # The first requests of a process take longer.
        load.set_clients(0)
        for clients in list_steps(options.most_clients):
            if time.monotonic() + options.seconds > deadline:
                print(f"stopped after {options.limit_seconds:g} s (--limit-seconds)")
                return
            load.set_clients(clients)
            line = describe(load.measure(options.seconds), options.seconds, mean_audio)
            print(f"{running} replicas, {clients:3} clients {line}", flush=True)


def main() -> None:
    """Start proxy, replicas and clients, and print what they do."""
    import soundfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--most-clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of clients")
    parser.add_argument("--limit-seconds", type=float, default=900.0)
    parser.add_argument("--cores-each", type=int, default=1, help="of a replica")
    parser.add_argument("--port", type=int, default=8770, help="of the proxy; replicas have the ports behind it")
    add_precision(parser)
    options = parser.parse_args()
    if not 1 <= options.most_clients <= 256 or not all(1 <= each <= 16 for each in options.replicas):
        parser.error("expected 1 to 256 clients and 1 to 16 replicas")
    report_machine(options.precision)
    files = sorted(file for file in options.data.rglob("*") if file.suffix in _SUFFIXES)
    mean_audio = float(np.mean([soundfile.info(file).duration for file in files]))
    ports = [options.port + 1 + number for number in range(max(options.replicas))]
    with (
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as replicas,
        run_proxy(Path(folder), options.port, ports) as address,
    ):
        load = Load(address, [file.read_bytes() for file in files])
        try:
            run(options, load, mean_audio, replicas)
        finally:
            load.set_clients(0)


if __name__ == "__main__":
    main()
