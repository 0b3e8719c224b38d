"""The OpenAPI document against the service: schemathesis sends what it allows and what it forbids."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from finetune.feedback.store import Store

# Random bytes are allowed by the document, and are no audio.
EXCLUDED = "positive_data_acceptance,unsupported_method"


@pytest.fixture
def address(serve: Callable[..., Any], tmp_path: Path) -> Iterator[str]:
    """A service with a feedback store, so that all routes answer."""
    Store.create(tmp_path / "store").close()
    with serve(feedback=tmp_path / "store") as where:
        yield where


@pytest.mark.long
def test_answers_are_as_described(address: str) -> None:
    document = httpx2.get(f"{address}/openapi.json").json()
    assert {"/v1/audio/transcriptions", "/models/{name}", "/health/ready", "/metrics"} <= set(document["paths"])
    assert {"/v1/feedback", "/v1/feedback/queue", "/v1/feedback/{number}/review"} <= set(document["paths"])
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--max-examples", "15"]
    command += ["--exclude-checks", EXCLUDED, "--generation-deterministic", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Loaded specification" in done.stdout and "passed" in done.stdout
