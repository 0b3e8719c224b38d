"""The price of a broker: seconds from live audio to its text, with and without Kafka between.

    python scripts/bench_streams.py [MODEL] [--seconds 60] [--chunk 0.1] [--transactions] [--brokers HOST:PORT]

Without MODEL it is a small model of random weights, whose texts mean nothing. Speech-like noise with pauses is sent at
the pace of a clock, in chunks of `--chunk` seconds: first to a session of `LiveEngine` in this process, as the service
has it (`direct`), then as messages to a topic that `StreamConsumer` reads in a thread of this process, until results
are read from another topic by a third client (`kafka`). The time of an event is that from the end of its audio, which
a partial text has at the last frame with its full context, to the event; events without a text are left out. Printed
are median, 95th percentile and largest of each way, and of the differences of equal events, which are the price; then
the processor seconds of this process for each second of audio. Without --brokers the broker is noida-db, a process of
its own with a temporary folder.

Clients, consumer and broker share the machine: run it with nothing else. The results stand in scripts/docs/streams.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import add_precision, report_machine, write_shape

from finetune.inference.events import Event, Final, Partial
from finetune.inference.live import LiveTranscriber
from finetune.inference.live_engine import LiveEngine
from finetune.streams.consumer import StreamConsumer
from finetune.streams.metrics import StreamMetrics
from finetune.streams.settings import StreamSettings

_RATE = 16000
_SMALL = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}


@dataclass(frozen=True)
class Seen:
    """An event with a text: what identifies it, and when it was there (seconds of the monotonic clock)."""

    name: tuple[str, str, float]
    moment: float


def make_speech(seconds: float) -> bytes:
    """Harmonic noise in bursts of 2 s with pauses of 1 s, as 16-bit PCM."""
    rng = np.random.default_rng(0)
    times = np.arange(round(seconds * _RATE)) / _RATE
    voiced = sum(np.sin(2 * np.pi * 140 * number * times) / number for number in range(1, 12))
    sound = (0.1 * voiced + 0.05 * rng.standard_normal(len(times))) * (times % 3 < 2)
    return np.round(np.clip(sound + 0.001 * rng.standard_normal(len(times)), -1, 1) * 32767).astype("<i2").tobytes()


def cut(pcm: bytes, seconds: float) -> list[bytes]:
    """Chunks of so many seconds."""
    size = 2 * round(seconds * _RATE)
    return [pcm[first : first + size] for first in range(0, len(pcm), size)]


def send_at_pace(chunks: Sequence[bytes], seconds: float, send: Any) -> list[float]:
    """Call `send(number, chunk)` when the chunk's audio is over; returns the moment of each call."""
    began, sent = time.monotonic(), []
    for number, chunk in enumerate(chunks):
        time.sleep(max(0.0, began + (number + 1) * seconds - time.monotonic()))
        sent.append(time.monotonic())
        send(number, chunk)
    return sent


def measure_direct(live: LiveTranscriber, chunks: Sequence[bytes], seconds: float) -> tuple[list[float], list[Seen]]:
    """Send chunks to a session of an engine; returns when each was sent, and the events."""
    engine, stopped, ready = LiveEngine(live), threading.Event(), threading.Event()
    seen: list[Seen] = []
    session = engine.open(_RATE, on_events=ready.set)
    thread = threading.Thread(target=engine.run, args=(stopped.is_set,))

    def read() -> None:
        while not session.ended:
            ready.wait(0.1)
            ready.clear()
            seen.extend(name_event(event) for event in session.events() if isinstance(event, Partial | Final))

    reader = threading.Thread(target=read)
    thread.start()
    reader.start()
    sent = send_at_pace(chunks, seconds, lambda _, chunk: session.feed(chunk))
    session.finish()
    reader.join()
    stopped.set()
    thread.join()
    return sent, seen


def name_event(event: Event) -> Seen:
    """An event of a direct session."""
    assert isinstance(event, Partial | Final)
    kind, end = ("partial", event.stable_until) if isinstance(event, Partial) else ("final", event.end)
    return Seen((kind, event.text, round(end, 3)), time.monotonic())


def measure_kafka(
    live: LiveTranscriber, chunks: Sequence[bytes], seconds: float, brokers: str, transactions: bool
) -> tuple[list[float], list[Seen]]:
    """Send chunks to a topic; returns when each was sent, and the events that were read from another topic."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    settings = StreamSettings(
        brokers=brokers,
        topics=("bench-speech",),
        results="bench-texts",
        group="bench",
        dead_letters="bench-dead",
        partials=True,
        transactions=transactions,
    )
    consumer = StreamConsumer(live, settings, StreamMetrics())
    worker = threading.Thread(target=consumer.run, daemon=True)
    worker.start()
    results = Consumer({"bootstrap.servers": brokers, "group.id": "bench-reader"})
    results.assign([TopicPartition("bench-texts", 0, 0)])
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 0})
    seen: list[Seen] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            message = results.poll(0.1)
            if message is None or message.error():
                continue
            found = json.loads(message.value() or b"{}")
            if found["key"] == "warm-up" or found["kind"] == "end":
                if found["key"] != "warm-up":
                    ended.set()
                warm.set()
                continue
            seen.append(Seen((found["kind"], found["text"], found["end"]), time.monotonic()))

    warm = threading.Event()
    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def send(number: int, chunk: bytes, key: str = "bench", last: int = len(chunks) - 1) -> None:
        headers: dict[str, str | bytes | None] = {
            "sampling_rate": str(_RATE),
            "sequence": str(number),
            "end": str(int(number == last)),
        }
        producer.produce("bench-speech", chunk, key, headers=headers)
        producer.poll(0)

    send(0, bytes(2 * _RATE), "warm-up", 0)
    if not warm.wait(60):
        raise SystemExit("the consumer has not begun within 60 s")
    sent = send_at_pace(chunks, seconds, send)
    ended.wait(120)
    consumer.stop()
    worker.join(60)
    results.close()
    return sent, seen


def compare(direct: tuple[list[float], list[Seen]], kafka: tuple[list[float], list[Seen]]) -> None:
    """Print the times of the events that both ways have, and their differences."""
    moments = []
    for sent, seen in (direct, kafka):
        first: dict[tuple[str, str, float], float] = {}
        for event in seen:
            if event.name[1]:
                first.setdefault(event.name, event.moment - sent[0])
        moments.append(first)
    both = [name for name in moments[0] if name in moments[1]]
    if not both:
        raise SystemExit("no event has a text in both ways: give another model")
    print(f"events with a text: direct {len(moments[0])}, kafka {len(moments[1])}, in both {len(both)}")
    for name, found in zip(("direct", "kafka"), moments, strict=True):
        print(describe(f"{name}, after the audio of the event", [found[each] - each[2] for each in both]))
    print(describe("kafka after direct", [moments[1][each] - moments[0][each] for each in both]))


@contextmanager
def run_broker() -> Iterator[str]:
    """A broker in a process of its own; yields its address."""
    spec = importlib.util.find_spec("noida_db")
    if spec is None or spec.origin is None:
        raise SystemExit("noida-db is not installed: pip install noida-db, or give --brokers")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(spec.origin).parent / "noida-db", "start", "--only", "kafka", "--kafka-port", str(port)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([*command, "--data-dir", folder], **quiet)  # type: ignore[call-overload]
        try:
            for _ in range(200):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def make_topics(brokers: str) -> None:
    """Topics of one partition each."""
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    names = ("bench-speech", "bench-texts", "bench-dead")
    client = AdminClient({"bootstrap.servers": brokers})
    for made in client.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        made.result(20)


def describe(name: str, values: Sequence[float]) -> str:
    """Median, 95th percentile and largest value, in milliseconds."""
    median, high, largest = statistics.median(values), np.quantile(values, 0.95), max(values)
    return f"{name}: median {1000 * median:.0f} ms, p95 {1000 * high:.0f} ms, largest {1000 * largest:.0f} ms"


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--chunk", type=float, default=0.1)
    parser.add_argument("--transactions", action="store_true")
    parser.add_argument("--brokers")
    add_precision(parser)
    options = parser.parse_args()
    precision = report_machine(options.precision, "cpu")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or str(write_shape(Path(folder), _SMALL))
        live = LiveTranscriber(model, device="cpu", precision=precision)
    chunks = cut(make_speech(options.seconds), options.chunk)
    measure_direct(live, chunks[:30], 0.001)  # Compiles what is compiled.
    began = time.process_time()
    direct = measure_direct(live, chunks, options.chunk)
    used = [time.process_time() - began]
    with nullcontext(options.brokers) if options.brokers else run_broker() as brokers:
        make_topics(brokers)
        began = time.process_time()
        kafka = measure_kafka(live, chunks, options.chunk, brokers, options.transactions)
        used.append(time.process_time() - began)
    compare(direct, kafka)
    loads = [seconds / options.seconds for seconds in used]
    print(f"processor seconds for each second of audio: direct {loads[0]:.2f}, kafka {loads[1]:.2f}")


if __name__ == "__main__":
    main()
