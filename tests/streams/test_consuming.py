"""Recordings and live chunks become results, and what can't be used becomes a dead letter with its reason."""

import json
from pathlib import Path

import numpy as np
from conftest import SAMPLING_RATE, speak
from speech_requests import make_wav

from brokers import MockCluster, consume, wait_for


def test_each_recording_gives_a_result_that_names_its_message(mock: MockCluster, tone_folder: Path) -> None:
    mock.write("speech", [(f"k{i}", make_wav(), []) for i in range(10)] + [(b"\xff\xfe", make_wav("dad"), [])])
    with consume(mock, tone_folder) as run:
        wait_for(lambda: len(mock.results()) >= 11)
        assert run.stop() == 0, run.said()
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
