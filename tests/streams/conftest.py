"""Brokers and a model of tones for the tests of consumers."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tone_folders import write_tone_folder

from brokers import BrokerProcess, MockCluster


@pytest.fixture(scope="session")
def tone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as `finetune export` writes it."""
    return write_tone_folder(tmp_path_factory.mktemp("models") / "tones")


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
