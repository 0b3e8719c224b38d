"""The OpenAPI document against the service: schemathesis sends what it allows and what it forbids."""

import subprocess
import sys

import httpx2

# Random bytes are allowed by the document, and are no audio.
EXCLUDED = "positive_data_acceptance,unsupported_method"


def test_answers_are_as_described(address: str) -> None:
    document = httpx2.get(f"{address}/openapi.json").json()
    assert {"/v1/audio/transcriptions", "/models/{name}", "/health/ready", "/metrics"} <= set(document["paths"])
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--max-examples", "15"]
    command += ["--exclude-checks", EXCLUDED, "--generation-deterministic", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Loaded specification" in done.stdout and "passed" in done.stdout
