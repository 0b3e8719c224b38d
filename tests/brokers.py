"""Brokers for tests: librdkafka's mock cluster in a client of this process, and noida-db as a process of its own."""

import importlib.util
import json
import os
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from programs import read_output

# Groups of tests change quickly; the defaults are for machines that are far away.
QUICK = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 300, "max.poll.interval.ms": 6000}
Headers = list[tuple[str, bytes | str | None]]


class Cluster:
    """Brokers by their address, and what a test does with their topics."""

    def __init__(self, address: str) -> None:
        self.address = address

    def producer(self, **properties: Any) -> Producer:
        return Producer({"bootstrap.servers": self.address, "message.max.bytes": 200_000_000, **properties})

    def write(
        self, topic: str, messages: Sequence[tuple[str | bytes | None, bytes | None, Headers]], **options: Any
    ) -> None:
        """Messages, each with key, value and headers."""
        producer = self.producer()
        failed: list[Any] = []
        for key, value, headers in messages:
            producer.produce(
                topic,
                value,
                key,
                headers=headers,
                on_delivery=lambda error, _: error and failed.append(error),
                **options,
            )
        assert producer.flush(60) == 0 and not failed, failed

    def read(self, topic: str, isolation: str = "read_committed") -> list[Any]:
        """All messages of a topic that can be read now."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "reader",
                "enable.partition.eof": True,
                "isolation.level": isolation,
                "receive.message.max.bytes": 500_000_000,
            }
        )
        try:
            numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
            found, left = [], set(numbers)
            while left:
                message = consumer.poll(20)
                assert message is not None, "the broker is silent"
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
            return found
        finally:
            consumer.close()

    def results(self, topic: str = "texts") -> list[dict[str, Any]]:
        """The results so far."""
        return [json.loads(message.value()) for message in self.read(topic)]

    def committed(self, topic: str, group: str = "g") -> dict[int, int]:
        """The committed offset of each partition that has one."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": group})
        try:
            numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            found = consumer.committed([TopicPartition(topic, number) for number in numbers], timeout=20)
            return {each.partition: each.offset for each in found if each.offset >= 0}
        finally:
            consumer.close()


class MockCluster(Cluster):
    """Topics are made when they are named first; it knows neither transactions nor large messages."""

    def __init__(self) -> None:
        self._owner = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
        brokers = self._owner.list_topics(timeout=10).brokers.values()
        super().__init__(",".join(f"{broker.host}:{broker.port}" for broker in brokers))

    def make_topics(self, *topics: str) -> None:
        """Topics of four partitions."""
        producer = self.producer()
        for topic in topics:
            producer.list_topics(topic, timeout=10)


class BrokerProcess(Cluster):
    """A real broker that can be stopped, and keeps what was written.

    It never takes a member that was killed for dead: give those a `group.instance.id`, which the next one takes over.
    """

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        super().__init__(f"127.0.0.1:{self.port}")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        spec = importlib.util.find_spec("noida_db")
        assert spec and spec.origin
        program = (
            Path(spec.origin).parent / "noida-db"
        )  # The one on the PATH only starts it, and would leave it behind.
        options = ["--only", "kafka", "--kafka-port", str(self.port), "--data-dir", str(self._folder)]
        self._process = subprocess.Popen(
            [program, "start", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert time.monotonic() < deadline and self._process.poll() is None
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def make_topics(self, *topics: str, partitions: int = 4, max_bytes: int = 1_048_588) -> None:
        client = AdminClient({"bootstrap.servers": self.address})
        wanted = [NewTopic(topic, partitions, 1, config={"max.message.bytes": str(max_bytes)}) for topic in topics]
        for made in client.create_topics(wanted).values():
            made.result(20)


class RefusingBroker(socketserver.ThreadingTCPServer):
    """Speaks as much of Kafka's protocol as comes before a refusal by SASL; keeps the credentials that it was sent."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, mechanism: str, message: str) -> None:
        super().__init__(("127.0.0.1", 0), _RefusingHandler)
        self.mechanism, self.message = mechanism, message
        self.address = "{}:{}".format(*self.server_address)
        self.credentials: list[bytes] = []


class _RefusingHandler(socketserver.StreamRequestHandler):
    server: RefusingBroker

    def handle(self) -> None:
        while size := self.rfile.read(4):
            request = self.rfile.read(int.from_bytes(size))
            interface, version, correlation, name_bytes = struct.unpack(">hhih", request[:10])
            answer = struct.pack(">i", correlation) + self._answer(interface, version, request[10 + name_bytes :])
            self.wfile.write(struct.pack(">i", len(answer)) + answer)

    def _answer(self, interface: int, version: int, body: bytes) -> bytes:
        if interface == 18:  # ApiVersions: its oldest version, SaslHandshake and SaslAuthenticate.
            error = 35 if version else 0  # UNSUPPORTED_VERSION
            return struct.pack(">hi9h", error, 3, *(18, 0, 0), *(17, 0, 1), *(36, 0, 0))
        if interface == 17:
            known = self.server.mechanism.encode()
            error = 0 if body[2:] == known else 33  # UNSUPPORTED_SASL_MECHANISM
            return struct.pack(">hih", error, 1, len(known)) + known
        assert interface == 36, interface
        self.server.credentials.append(body[4:])
        message = self.server.message.encode()
        return struct.pack(">hh", 58, len(message)) + message + struct.pack(">i", 0)  # SASL_AUTHENTICATION_FAILED


@contextmanager
def refusing_broker(mechanism: str, message: str) -> Iterator[RefusingBroker]:
    """A broker that demands SASL by a mechanism and refuses everybody with a message."""
    with RefusingBroker(mechanism, message) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Run:
    """A process of `finetune consume`, and its log."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Any) -> None:
        self.process, self._log = process, log

    def said(self) -> str:
        return read_output(self._log)

    def stop(self, seconds: float = 60) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def wait_until_ready(self) -> None:
        wait_for(lambda: "consuming " in self.said() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.said()


@contextmanager
def consume(cluster: Cluster, model: Path, *options: str, quick: bool = True, **topics: str) -> Iterator[Run]:
    """`finetune consume` in a process of its own, from `speech` to `texts`; killed at the end if it still runs."""
    names = {"topic": "speech", "to": "texts", "group": "g", **topics}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config, tempfile.TemporaryFile("w+") as log:
        json.dump(QUICK, config)
        config.flush()
        command = [sys.executable, "-m", "finetune", "consume", str(model), "--brokers", cluster.address]
        for name, value in names.items():
            command += [f"--{name.replace('_', '-')}", value]
        command += ["--config", config.name] if quick else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen([*command, *options], stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            yield Run(process, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def wait_for(condition: Callable[[], Any], seconds: float = 30.0, state: Callable[[], object] = str) -> None:
    """Wait until a condition holds; a broker that is away meanwhile is asked again. A failure tells the `state`."""
    deadline, last = time.monotonic() + seconds, ""
    while True:
        try:
            if condition():
                return
        except KafkaException as error:
            last = str(error)
        assert time.monotonic() < deadline, f"nothing came of it {last} {state()}"
        time.sleep(0.05)
