"""What the user can repair is one sentence and exit code 2, within bounded time, and nothing is lost."""

import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brokers import BrokerProcess, MockCluster, refusing_broker, wait_for
from members import joined, make_chunks
from speech_requests import make_noise, make_wav

from finetune.cli import main
from finetune.errors import UserError
from finetune.inference.live import LiveTranscriber
from finetune.streams import output


def consume(brokers: str, model: str, capsys: pytest.CaptureFixture[str], *options: str, topic: str = "speech") -> str:
    """The one sentence with which `finetune consume` ends."""
    command = ["consume", model, "--brokers", brokers, "--topic", topic, "--to", "texts", "--group", "g"]
    assert main([*command, "--retry-seconds", "2", *options]) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "ResourceWarning" not in line]
    assert "--verbose" in options or len(lines) == 1, lines
    assert "hunter2" not in printed.err + printed.out
    return lines[-1]


def write_credentials(folder: Path) -> Path:
    """A file for --config with a user and a password."""
    file = folder / "config.yaml"
    file.write_text(
        "security.protocol: SASL_PLAINTEXT\nsasl.mechanism: PLAIN\nsasl.username: anna\nsasl.password: hunter2\n"
    )
    return file


def test_brokers_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    said = consume(f"127.0.0.1:{port}", "no-model", capsys)
    assert f"The brokers 127.0.0.1:{port} can't be used" in said and "Connection refused" in said
    assert time.monotonic() - began < 20


def test_brokers_that_refuse_us(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that speaks no Kafka ends the connection at our first request, as one does that wants TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopped = threading.Event()

        def refuse() -> None:
            server.settimeout(0.1)
            while not stopped.is_set():
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=refuse)
        thread.start()
        config = write_credentials(tmp_path)
        said = consume(f"127.0.0.1:{server.getsockname()[1]}", "no-model", capsys, "--config", str(config), "--verbose")
        stopped.set()
        thread.join()
    assert "can't be used" in said


@pytest.mark.parametrize("verbose", [False, True])
def test_credentials_that_are_refused(verbose: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The broker's own reason is told, without the password that this one repeats in it."""
    config = write_credentials(tmp_path)
    options = ["--config", str(config), *(["--verbose"] if verbose else [])]
    with refusing_broker("PLAIN", "no user anna with hunter2") as broker:
        began = time.monotonic()
        said = consume(broker.address, "no-model", capsys, *options)
        assert time.monotonic() - began < 10
        assert set(broker.credentials) == {b"\0anna\0hunter2"}
    assert f"The brokers {broker.address} can't be used" in said and "no user anna with ***" in said
    assert said.endswith("check the user, the password and TLS of --config.")


def test_a_mechanism_that_the_broker_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_credentials(tmp_path)
    with refusing_broker("SCRAM-SHA-512", "") as broker:
        said = consume(broker.address, "no-model", capsys, "--config", str(config))
        assert not broker.credentials
    assert "Unsupported SASL mechanism" in said and "SCRAM-SHA-512" in said


def test_a_topic_that_is_not_there(mock: MockCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert "have no topic speeches: create it" in consume(mock.address, "no-model", capsys, topic="speeches")
    assert "have no topic lost: create it" in consume(mock.address, "no-model", capsys, "--dead-letter", "lost")
    assert "speeches" not in mock.producer().list_topics(timeout=10).topics


def test_a_model_that_can_not_be_loaded(mock: MockCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = consume(mock.address, str(tmp_path), capsys)
    assert str(tmp_path) in said
    assert mock.committed("speech") == {}


def test_options_that_make_no_sense(mock: MockCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected other topics than --topic" in consume(mock.address, "m", capsys, topic="texts")
    assert "--max-live is 0" in consume(mock.address, "m", capsys, "--max-live", "0")


@pytest.mark.long
@pytest.mark.parametrize("transactions", [False, True])
def test_a_broker_that_stays_away_ends_the_consumer_and_loses_nothing(
    transactions: bool, broker: BrokerProcess, live: LiveTranscriber
) -> None:
    broker.write("speech", [(str(number), make_wav(), []) for number in range(4)])
    broker.write("speech", make_chunks("talk", np.zeros(16000), ends=False))
    options: dict[str, Any] = {"transactions": transactions, "retry_seconds": 3.0}
    with joined(broker, live, **options) as member:
        wait_for(lambda: len(broker.results()) == 4)
        broker.stop()
        began = time.monotonic()
        with pytest.raises(UserError, match=r"can't be used|can't be written|has failed|don't do"):
            member.join(90)
        assert time.monotonic() - began < 60
    broker.start()
    broker.write("speech", [("new", make_wav(), [])])
    with joined(broker, live, **options):
        wait_for(lambda: any(each["key"] == "new" for each in broker.results()), 60)
    assert {each["key"] for each in broker.results()} == {"0", "1", "2", "3", "new"}


def test_a_message_of_100_mb_becomes_a_reference(broker: BrokerProcess, live: LiveTranscriber) -> None:
    broker.make_topics("large", partitions=1, max_bytes=200_000_000)
    broker.write("large", [("big", bytes(100_000_000), []), ("small", make_wav(), [])])
    with joined(broker, live, topics=("large",)):
        wait_for(lambda: len(broker.results()) == 1 and broker.committed("large") == {0: 2}, 60)
    [letter] = broker.read("texts.dead")
    headers = {name: value.decode() for name, value in letter.headers()}
    assert headers["finetune-code"] == "too_large" and "100000000 bytes" in headers["finetune-reason"]
    assert letter.value() == b'{"topic": "large", "partition": 0, "offset": 0}'


def test_a_result_that_is_too_large_loses_its_words_first(broker: BrokerProcess, live: LiveTranscriber) -> None:
    broker.make_topics("small", max_bytes=2000)
    broker.make_topics("smaller", max_bytes=500)
    broker.write("speech", [("long", make_noise(30), []), ("short", make_wav(), [])])
    # On a busy machine a broker may be silent for longer than the other tests allow.
    patient = {"compression.type": "none", "session.timeout.ms": 45_000, "max.poll.interval.ms": 300_000}
    for transactions in (False, True):
        for topic, group in (("small", f"a{transactions}"), ("smaller", f"b{transactions}")):
            dead = f"dead.{group}"
            broker.make_topics(dead)
            with joined(
                broker,
                live,
                results=topic,
                group=group,
                dead_letters=dead,
                transactions=transactions,
                properties=patient,
            ) as member:
                member.wait_for(lambda group=group: sum(broker.committed("speech", group).values()) == 2, 120)
            found = {each["key"]: each["words"] for each in broker.results(topic)}
            letters = {each.key(): dict(each.headers())["finetune-code"] for each in broker.read(dead)}
            if topic == "small":
                assert found["long"] is None and len(found["short"]) == 2 and not letters
            else:
                assert letters[b"long"] == b"result_too_large"


def test_a_result_may_follow_a_refused_one_in_its_transaction(
    broker: BrokerProcess, live: LiveTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_TRANSACTION_SECONDS", 2.0)
    broker.make_topics("small", max_bytes=2000)
    with joined(broker, live, results="small", transactions=True, properties={"compression.type": "none"}) as member:
        for number, audio in enumerate((make_noise(30), make_wav())):
            broker.write("speech", [(str(number), audio, [])])
            member.wait_for(
                lambda number=number: member.count("messages_total", kind="recording", outcome="result") > number
            )
            time.sleep(0.3)
        member.wait_for(lambda: sum(broker.committed("speech").values()) == 2)
    assert {each["key"]: each["words"] is None for each in broker.results("small")} == {"0": True, "1": False}


@pytest.mark.parametrize("transactions", [False, True])
def test_small_results_do_not_become_too_large_together(
    transactions: bool, broker: BrokerProcess, live: LiveTranscriber
) -> None:
    broker.make_topics("small", partitions=1, max_bytes=2000)
    broker.write("speech", [(str(number), make_wav(), []) for number in range(40)])
    with joined(
        broker, live, results="small", transactions=transactions, properties={"compression.type": "none"}
    ) as member:
        member.wait_for(lambda: sum(broker.committed("speech").values()) == 40, 60)
    assert all(len(each["words"]) == 2 for each in broker.results("small")) and not broker.read("texts.dead")


@pytest.mark.parametrize("transactions", [False, True])
def test_what_is_too_large_in_any_form_is_committed_without_a_record(
    transactions: bool, broker: BrokerProcess, live: LiveTranscriber
) -> None:
    broker.make_topics("tiny", max_bytes=100)
    broker.write("speech", [("a", b"no audio", [])])
    with joined(broker, live, dead_letters="tiny", transactions=transactions) as member:
        member.wait_for(lambda: sum(broker.committed("speech").values()) == 1)
        assert not broker.read("tiny")


@pytest.mark.long
def test_messages_that_are_deleted_before_they_were_done_are_told(
    mock: MockCluster, live: LiveTranscriber, caplog: pytest.LogCaptureFixture
) -> None:
    mock.write("speech", [("a", make_wav(), [])], partition=0)
    with joined(mock, live) as member:
        member.wait_for(lambda: mock.committed("speech") == {0: 1})
    assert not member.count("errors_total", reason="deleted")
    large = [(str(number), bytes(900_000), []) for number in range(8)]  # The mock cluster keeps 5 MB.
    mock.write("speech", large, partition=0)
    with joined(mock, live) as member:
        member.wait_for(lambda: mock.committed("speech") == {0: 9})
    assert member.count("errors_total", reason="deleted") == 1
    told = next(each for each in caplog.messages if "deleted" in each)
    left = {each.key() for each in mock.read("texts.dead")}
    assert told.startswith(f"speech/0: the broker has deleted the messages 1 to {8 - len(left)}, of which not all")


def test_sigterm_finishes_what_is_begun(broker: BrokerProcess, live: LiveTranscriber) -> None:
    broker.write("speech", [(str(number), make_wav(), []) for number in range(300)])
    with joined(broker, live) as member:
        wait_for(lambda: member.count("messages_total", kind="recording", outcome="result") > 5)
        began = time.monotonic()
        member.stop()
        assert time.monotonic() - began < 30
    done = len(broker.results())
    assert done == member.count("messages_total", kind="recording", outcome="result")
    with joined(broker, live) as member:
        wait_for(lambda: sum(broker.committed("speech").values()) == 300, 60)
    assert len(broker.results()) == 300


def test_a_broker_that_dies_at_sigterm_does_not_hold_us_long(broker: BrokerProcess, live: LiveTranscriber) -> None:
    broker.write("speech", [("a", make_wav(), [])])
    with joined(broker, live, retry_seconds=5.0) as member:
        wait_for(lambda: len(broker.results()) == 1)
        broker.stop(signal.SIGKILL)
        member.consumer.stop()
        member._thread.join(90)
        assert not member._thread.is_alive()
