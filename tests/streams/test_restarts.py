"""Consumers that are killed, joined by others or stopped: each message has its result, and doubles are equal."""

import io
import os
import random
import signal
import time
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import soundfile
from brokers import BrokerProcess, MockCluster, wait_for
from conftest import speak
from members import hear, joined, make_chunks, start_process
from speech_requests import make_wav

from finetune.inference.live import LiveTranscriber

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
WORDS = ("bad cab", "dad", "add", "cab dab", "ab", "bad add dad")
SPEECH = speak("bad cab       dad add       cab", np.random.default_rng(1))
RATE = ("sampling_rate", "16000")


def make_short(transcript: str) -> bytes:
    """A recording of 2 kB at most: the mock cluster forgets what is older than 5 MB in a partition."""
    file = io.BytesIO()
    speech = speak(transcript, np.random.default_rng(0))
    soundfile.write(file, speech, 16000, format="OGG", subtype="OPUS", compression_level=1.0)
    return file.getvalue()


def recognise(live: LiveTranscriber, file: bytes) -> str:
    """The text of a recording by itself."""
    return live.recogniser.recognise([soundfile.read(io.BytesIO(file), dtype="float32")[0]])[0]


def ends_of(results: list[dict[str, Any]]) -> int:
    return sum(each["kind"] == "end" for each in results)


def test_the_same_group_reads_on_where_it_stopped(broker: BrokerProcess, live: LiveTranscriber) -> None:
    broker.write("speech", [("a", make_wav(), [])])
    with joined(broker, live):
        wait_for(lambda: len(broker.results()) == 1)
    broker.write("speech", [("b", make_wav("dad"), [])])
    with joined(broker, live):
        wait_for(lambda: len(broker.results()) == 2)
    assert sorted(each["key"] for each in broker.results()) == ["a", "b"]


@pytest.mark.parametrize("transactions", [False, True])
def test_an_open_session_is_heard_again_by_the_next_owner(
    transactions: bool, broker: BrokerProcess, live: LiveTranscriber
) -> None:
    done = make_chunks("done", SPEECH)
    chunks = make_chunks("talk", SPEECH, ends=False)
    mixed = [each for pair in zip(done, chunks, strict=False) for each in pair] + done[len(chunks) :]
    broker.write("speech", [("before", make_wav(), [])], partition=0)
    broker.write("speech", mixed, partition=0)
    broker.write("speech", [("after", make_wav(), [])], partition=0)
    with joined(broker, live, transactions=transactions):
        wait_for(lambda: {each["key"] for each in broker.results()} >= {"before", "after", "talk", "done"})
        wait_for(lambda: ends_of(broker.results()) == 1 and broker.committed("speech") == {0: 2})
    first = [each for each in broker.results() if each["key"] == "talk" and each["kind"] == "final"]
    last = ("talk", b"", [RATE, ("sequence", str(len(chunks))), ("end", "1")])
    broker.write("speech", [last], partition=0)
    with joined(broker, live, transactions=transactions) as member:
        wait_for(lambda: ends_of(broker.results()) == 2)
        wait_for(lambda: broker.committed("speech") == {0: len(mixed) + 3})
        assert member.count("messages_total", kind="recording", outcome="repeated") == 1
        assert member.count("messages_total", kind="chunk", outcome="repeated") == len(done) - 1
    results = broker.results()
    assert sorted(each["key"] for each in results if each["kind"] == "recording") == ["after", "before"]
    for key in ("done", "talk"):
        finals = [each for each in results if each["key"] == key and each["kind"] == "final"]
        assert [(each["segment"], each["text"]) for each in finals] == [
            (number, each["text"]) for number, each in enumerate(hear(live, SPEECH))
        ]
        end = next(each for each in results if each["key"] == key and each["kind"] == "end")
        assert end["text"] == " ".join(each["text"] for each in finals)
    assert 0 < len(first) < len(hear(live, SPEECH))


@pytest.mark.long
def test_a_rebalance_hands_a_session_over_while_it_is_spoken(mock: MockCluster, live: LiveTranscriber) -> None:
    chunks = {str(number): make_chunks(str(number), SPEECH, seconds=0.25) for number in range(4)}
    half = len(chunks["0"]) // 2

    def write(first: int, last: int | None) -> None:
        for number in range(4):
            mock.write("speech", chunks[str(number)][first:last], partition=number)

    with joined(mock, live) as one:
        write(0, half)
        wait_for(lambda: one.count("audio_seconds_total", kind="live") > 3.9)
        with joined(mock, live) as two:
            wait_for(lambda: two.count("rebalances_total", change="given") == 2)
            write(half, None)
            wait_for(lambda: ends_of(mock.results()) == 4)
        # A broker that is slow to hear of it says that they are lost.
        assert sum(one.count("rebalances_total", change=change) for change in ("revoked", "lost")) >= 2
    texts = [each["text"] for each in hear(live, SPEECH)]
    for number in range(4):
        mine = [each for each in mock.results() if each["partition"] == number]
        finals = {(each["segment"], each["text"]) for each in mine if each["kind"] == "final"}
        assert sorted(finals) == list(enumerate(texts))
        assert {each["offset"] for each in mine} == {0}


@pytest.mark.long
def test_transactions_leave_no_double_after_a_kill(broker: BrokerProcess, live: LiveTranscriber) -> None:
    keys = [f"k{number}" for number in range(120)]
    broker.write("speech", [(key, make_wav(), []) for key in keys])
    options: dict[str, Any] = {"transactions": True, "properties": {"group.instance.id": "one"}}
    for _ in range(2):
        process = start_process(broker, delay_seconds=0.05, **options)
        before = len(broker.results())
        wait_for(lambda before=before: len(broker.results()) >= before + 10, 90)
        process.kill()
        process.join()
    with joined(broker, live, **options):
        wait_for(lambda: len({each["key"] for each in broker.results()}) == len(keys), 90)
        wait_for(lambda: sum(broker.committed("speech").values()) == len(keys))
    assert sorted(each["key"] for each in broker.results()) == sorted(keys)


def test_a_broker_that_was_away_is_used_again(broker: BrokerProcess, live: LiveTranscriber) -> None:
    broker.write("speech", [("a", make_wav(), [])])
    with joined(broker, live):
        wait_for(lambda: len(broker.results()) == 1)
        broker.stop()
        time.sleep(1)
        broker.start()
        broker.write("speech", [("b", make_wav(), [])])
        wait_for(lambda: {each["key"] for each in broker.results()} == {"a", "b"}, 60)


@pytest.mark.slow
def test_twenty_restarts_and_rebalances_lose_nothing(mock: MockCluster, live: LiveTranscriber) -> None:
    rng = random.Random(7)
    texts = {f"r{number}": WORDS[number % len(WORDS)] for number in range(9800)}
    audio = {word: make_short(word) for word in WORDS}
    messages = [[(key, audio[text], [])] for key, text in texts.items()]
    sessions = [make_chunks(f"s{number}", SPEECH, seconds=len(SPEECH) / 16000 / 20 + 0.001) for number in range(10)]
    assert sum(map(len, messages)) + sum(map(len, sessions)) == 10_000
    places = sorted(rng.sample(range(len(messages)), 10 * 20))
    for number, place in enumerate(places):  # Chunks in their order, five sessions at a time among recordings.
        group, within = divmod(number, 100)
        messages[place].append(sessions[group * 5 + within % 5][within // 5])
    ordered = [each for group in messages for each in group]
    members = [start_process(mock, delay_seconds=0.02) for _ in range(2)]
    for round_ in range(20):
        mock.write("speech", ordered[500 * round_ : 500 * round_ + 500])
        time.sleep(rng.uniform(1.0, 15.0))
        chosen = members.pop(rng.randrange(len(members)))
        if round_ % 4 == 3:  # One leaves by itself, and one more comes than there was.
            os.kill(chosen.pid, signal.SIGTERM)
            chosen.join(60)
            assert chosen.exitcode == 0
        else:
            chosen.kill()
        members.append(start_process(mock, delay_seconds=0.02))
        if rng.random() < 0.3 and len(members) < 4:
            members.append(start_process(mock, delay_seconds=0.02))
    before = len(mock.results())
    print(f"{before} results after 20 restarts")
    wait_for(lambda: sum(mock.committed("speech").values()) == 10_000, 1200)
    for member in members:
        os.kill(member.pid, signal.SIGTERM)
        member.join(60)
    results = mock.results()
    found = defaultdict(list)
    for each in results:
        found[each["topic"], each["partition"], each["offset"], each["kind"], each.get("segment")].append(each)
    print(f"{len(results)} results, {len(results) - len(found)} doubles")
    for same in found.values():
        assert len({(each["key"], each["text"]) for each in same}) == 1
    assert not mock.read("texts.dead")
    heard = {each: recognise(live, audio[each]) for each in WORDS}
    found_texts = {each["key"]: each["text"] for each in results if each["kind"] == "recording"}
    assert found_texts == {key: heard[text] for key, text in texts.items()}
    expected = [each["text"] for each in hear(live, SPEECH)]
    for number in range(10):
        mine = {each["segment"]: each["text"] for each in results if each["key"] == f"s{number}" and "segment" in each}
        assert mine == dict(enumerate(expected))
    ends = {each["key"]: each["text"] for each in results if each["kind"] == "end"}
    assert ends == {f"s{number}": " ".join(expected) for number in range(10)}
