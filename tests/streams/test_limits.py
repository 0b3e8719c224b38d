"""What a consumer holds is bounded while its model is slow, and what it reports is what happened."""

import socket
import time
import urllib.request

import psutil
import pytest
from brokers import BrokerProcess, wait_for
from members import joined, start_process
from speech_requests import make_noise, make_wav

from finetune.errors import UserError
from finetune.inference.live import LiveTranscriber
from finetune.streams.metrics import StreamMetrics, serve_metrics


@pytest.mark.slow
def test_a_blocked_consumer_pauses_and_its_memory_is_bounded(broker: BrokerProcess) -> None:
    broker.make_topics("large", max_bytes=4_000_000)
    audio = make_noise(62, "WAV")
    process = start_process(
        broker, delay_seconds=1000.0, topics=("large",), buffer_bytes=20_000_000, grace_seconds=1.0, retry_seconds=5.0
    )
    broker.write("large", [(str(number), audio, []) for number in range(4)])
    watched = psutil.Process(process.pid)
    time.sleep(10)
    before = watched.memory_info().rss
    for _ in range(5):  # 400 MB
        broker.write("large", [(str(number), audio, []) for number in range(40)])
    time.sleep(8)
    grown = watched.memory_info().rss - before
    print(f"{grown / 1e6:.0f} MB more while 400 MB wait")
    # The buffer, what librdkafka has fetched before it is asked (16 MB, and a response), and the allocator's rest.
    assert process.is_alive() and grown < 120e6
    assert sum(broker.committed("large").values()) == 0
    process.kill()
    process.join()


@pytest.mark.long
def test_partitions_are_paused_and_resumed(
    broker: BrokerProcess, live: LiveTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser, compute = live.recogniser, live.recogniser.logits
    monkeypatch.setattr(recogniser, "logits", lambda *given: (time.sleep(0.05), compute(*given))[1], raising=False)
    broker.write("speech", [(str(number), make_wav(), []) for number in range(100)])
    seen = set()
    with joined(broker, live, buffer_bytes=300_000) as member:

        def done() -> bool:
            seen.add(member.consumer._paused)
            assert member.count("held_bytes") < 600_000
            return member.count("messages_total", kind="recording", outcome="result") == 100

        wait_for(done, 90)
        wait_for(lambda: member.count("paused") == 0 and member.count("held_bytes") == 0)
    assert seen == {False, True}


def test_metrics_are_served_and_a_used_port_is_one_sentence() -> None:
    metrics = StreamMetrics()
    metrics.message("recording", "result")
    metrics.lag({("speech", 3): 7})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        with pytest.raises(UserError, match="give another --metrics-port"):
            serve_metrics(metrics, "127.0.0.1", port)
    stop = serve_metrics(metrics, "127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    finally:
        stop()
    assert 'finetune_stream_messages_total{kind="recording",outcome="result"} 1.0' in text
    assert 'finetune_stream_lag_messages{partition="3",topic="speech"} 7.0' in text
