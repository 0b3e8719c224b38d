"""Recordings and live chunks become results, and what can't be used becomes a dead letter with its reason."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from brokers import MockCluster, wait_for
from conftest import speak
from members import hear, joined, make_chunks
from speech_requests import make_wav

from finetune.inference.live import LiveTranscriber

SPEECH = speak("bad cab       dad add       cab", np.random.default_rng(1))


def test_each_recording_gives_a_result_that_names_its_message(mock: MockCluster, live: LiveTranscriber) -> None:
    mock.write("speech", [(f"k{i}", make_wav(), []) for i in range(10)] + [(b"\xff\xfe", make_wav("dad"), [])])
    with joined(mock, live) as member:
        wait_for(lambda: len(mock.results()) >= 11)
        member.stop()
    results = mock.results()
    assert len(results) == 11
    places = {(each["topic"], each["partition"], each["offset"]) for each in results}
    assert places == {(each.topic(), each.partition(), each.offset()) for each in mock.read("speech")}
    texts = {each["key"]: each["text"] for each in results}
    assert texts == {**{f"k{i}": "bad cab" for i in range(10)}, None: "dad"}
    one = next(each for each in results if each["key"] == "k3")
    assert one["schema"] == 1 and one["kind"] == "recording" and one["seconds"] > 0.5
    assert [word["text"] for word in one["words"]] == ["bad", "cab"]
    assert next(each for each in results if each["key"] is None)["key_base64"] == "//4="
    ends = {each.partition(): each.offset() + 1 for each in sorted(mock.read("speech"), key=lambda each: each.offset())}
    assert mock.committed("speech") == ends
    assert member.count("messages_total", kind="recording", outcome="result") == 11
    assert member.count("audio_seconds_total", kind="recording") == pytest.approx(sum(r["seconds"] for r in results))


RATE = ("sampling_rate", "16000")
POISON = [
    (b"no audio at all", [], "audio", "unreadable audio"),
    (b"", [], "empty", "the message is empty"),
    (None, [], "empty", "the message is empty"),
    (bytes(2_100_000), [], "too_large", "the message has 2100000 bytes"),
    (bytes(3200), [("sampling_rate", "fast")], "headers", "expected a whole number"),
    (bytes(3200), [("sampling_rate", "10")], "headers", "expected 1000 to 192000"),
    (bytes(3200), [RATE, ("encoding", "mp3")], "headers", "encoding is 'mp3'"),
    (bytes(3200), [RATE, ("end", "maybe")], "headers", "expected 1 or 0"),
    (bytes(3200), [("sequence", "0")], "headers", "there is no sampling_rate"),
    (bytes(3200), [RATE, ("sequence", "7")], "sequence", "expected chunk 0"),
    (b"\xff" * 400, [RATE, ("encoding", "f32le"), ("end", "1")], "audio", "can't be used"),
    (b"/etc/hostname", [("reference", "1")], "reference", "outside of what --references allows"),
]


def test_what_can_not_be_used_becomes_a_dead_letter_with_the_reason(mock: MockCluster, live: LiveTranscriber) -> None:
    mock.write("speech", [(f"k{i}", value, headers) for i, (value, headers, *_) in enumerate(POISON)])
    mock.write("speech", [(None, bytes(3200), [RATE]), ("good", make_wav(), [])])
    with joined(mock, live, max_message_bytes=2_000_000, idle_seconds=1) as member:
        wait_for(lambda: len(mock.read("texts.dead")) > len(POISON) and any(r["key"] == "good" for r in mock.results()))
        wait_for(lambda: sum(each["kind"] == "end" for each in mock.results()) == 2)
        member.stop()
    dead = {(each.key() or b"").decode(): each for each in mock.read("texts.dead")}
    sent = {(each.key() or b"").decode(): each for each in mock.read("speech")}
    assert len(dead) == len(POISON) + 1
    for number, (value, headers, code, reason) in enumerate(POISON):
        letter, source = dead[f"k{number}"], sent[f"k{number}"]
        found = {name: each.decode() for name, each in letter.headers()}
        assert found["finetune-code"] == code and reason in found["finetune-reason"], found
        assert (int(found["finetune-partition"]), int(found["finetune-offset"])) == (
            source.partition(),
            source.offset(),
        )
        assert set(dict(headers)) <= set(found) and found["finetune-topic"] == "speech"
        if code == "too_large":
            assert json.loads(letter.value())["offset"] == source.offset() and found["finetune-value"] == "reference"
        else:
            assert (letter.value() or b"") == (value or b"") and found["finetune-value"] == "original"
    assert "no key" in dict(dead[""].headers())["finetune-reason"].decode()
    ends = {each["key"]: each["error"] for each in mock.results() if each["kind"] == "end"}
    assert "expected chunk 0" in ends["k9"] and "can't be used" in ends["k10"]
    assert member.count("errors_total", reason="headers") == 6
    assert member.count("audio_seconds_total", kind="live") == 0
    positions = {each.partition(): each.offset() + 1 for each in sorted(sent.values(), key=lambda each: each.offset())}
    assert mock.committed("speech") == positions


def test_a_reference_is_read_below_an_allowed_prefix_only(
    mock: MockCluster, live: LiveTranscriber, tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "a.wav").write_bytes(make_wav())
    (tmp_path / "b.wav").write_bytes(make_wav())
    (allowed / "link.wav").symlink_to(tmp_path / "b.wav")
    places = [
        allowed / "a.wav",
        tmp_path / "b.wav",
        allowed / ".." / "b.wav",
        allowed / "link.wav",
        allowed / "none.wav",
    ]
    mock.write("speech", [(str(i), str(place).encode(), [("reference", "1")]) for i, place in enumerate(places)])
    with joined(mock, live, references=(str(allowed),)):
        wait_for(lambda: len(mock.read("texts.dead")) == 4 and len(mock.results()) == 1)
    assert [(each["key"], each["text"]) for each in mock.results()] == [("0", "bad cab")]
    codes = {each.key().decode(): dict(each.headers())["finetune-code"].decode() for each in mock.read("texts.dead")}
    assert codes == {"1": "reference", "2": "reference", "3": "reference", "4": "audio"}


def test_interleaved_sessions_give_the_texts_of_direct_sessions(mock: MockCluster, live: LiveTranscriber) -> None:
    other = speak("dad       bad add", np.random.default_rng(2))
    chunks = [make_chunks("one", SPEECH), make_chunks("two", other)]
    mixed = [each for pair in zip(chunks[0], chunks[1], strict=False) for each in pair] + chunks[0][len(chunks[1]) :]
    mock.write("speech", mixed, partition=2)
    with joined(mock, live, partials=True) as member:
        wait_for(lambda: Counter(each["kind"] for each in mock.results())["end"] == 2)
        member.stop()
    results = mock.results()
    for key, samples in (("one", SPEECH), ("two", other)):
        mine = [each for each in results if each["key"] == key]
        finals = [each for each in mine if each["kind"] == "final"]
        expected = hear(live, samples)
        assert [each["segment"] for each in finals] == list(range(len(expected))) and len(expected) > 1
        for found, event in zip(finals, expected, strict=True):
            assert {name: found[name] for name in ("start", "end", "text", "words")} == {
                name: event[name] for name in ("start", "end", "text", "words")
            }
        end = mine[-1]
        assert end["kind"] == "end" and end["reason"] == "end" and end["error"] is None
        assert end["text"] == " ".join(each["text"] for each in expected) and end["segments"] == len(expected)
        assert any(each["kind"] == "partial" for each in mine)
        assert {each["offset"] for each in mine} == {0 if key == "one" else 1}
    assert mock.committed("speech") == {2: len(mixed)}
    assert member.count("audio_seconds_total", kind="live") == pytest.approx(
        (len(SPEECH) + len(other)) / 16000, abs=0.01
    )


def test_a_silent_session_ends_and_its_key_begins_another(mock: MockCluster, live: LiveTranscriber) -> None:
    chunks = [(key, value, [RATE]) for key, value, _ in make_chunks("talk", SPEECH)]
    mock.write("speech", chunks, partition=1)
    with joined(mock, live, idle_seconds=1.5):
        wait_for(lambda: any(each["kind"] == "end" for each in mock.results()))
        mock.write("speech", chunks, partition=1)
        wait_for(lambda: sum(each["kind"] == "end" for each in mock.results()) == 2)
    ends = [each for each in mock.results() if each["kind"] == "end"]
    assert [each["reason"] for each in ends] == ["idle", "idle"] and ends[0]["text"] == ends[1]["text"] != ""
    assert [each["offset"] for each in ends] == [0, len(chunks)]


def test_a_session_over_the_limit_is_refused_whole(mock: MockCluster, live: LiveTranscriber) -> None:
    first = make_chunks("one", SPEECH, ends=False)
    second = make_chunks("two", SPEECH)
    mock.write("speech", [*first, *second], partition=0)
    with joined(mock, live, max_live=1) as member:
        wait_for(lambda: len(mock.read("texts.dead")) == len(second))
        wait_for(lambda: any(each["kind"] == "end" for each in mock.results()))
    assert {dict(each.headers())["finetune-code"] for each in mock.read("texts.dead")} == {b"too_many_sessions"}
    assert [each.value() for each in mock.read("texts.dead")] == [each[1] for each in second]
    taken = sum(len(each[1] or b"") for each in first) / 2 / 16000
    assert member.count("audio_seconds_total", kind="live") == pytest.approx(taken)
