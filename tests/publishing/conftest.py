"""An empty hub that the client of the tests' own process can reach."""

import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub import Hub, serve


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, and a client that may reach it, without Xet and without long waits."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.05)))
    huggingface_hub.utils.close_session()
    with serve(tmp_path / "hub") as served:
        yield served
    huggingface_hub.utils.close_session()
