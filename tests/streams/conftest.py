"""Brokers and a model of tones for the tests of consumers."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import BrokerProcess, MockCluster
from tones import build_tone_recogniser

from finetune.inference.live import LiveTranscriber


@pytest.fixture(scope="session")
def live() -> LiveTranscriber:
    """The model of tones."""
    return LiveTranscriber(build_tone_recogniser())


@pytest.fixture
def mock() -> MockCluster:
    """An empty mock cluster."""
    cluster = MockCluster()
    cluster.make_topics("speech", "texts", "texts.dead")
    return cluster


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker process with empty topics."""
    process = BrokerProcess(tmp_path / "broker")
    process.make_topics("speech", "texts", "texts.dead")
    yield process
    process.stop(signal.SIGKILL)
