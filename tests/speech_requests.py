"""Requests for the tests of the service: recordings of tones as files, and waiting for what happens elsewhere."""

import io
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import soundfile
from conftest import SAMPLING_RATE, speak
from programs import read_output

ROUTE = "/v1/audio/transcriptions"


def make_wav(transcript: str = "bad cab") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, speak(transcript, np.random.default_rng(0)), SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def make_noise(seconds: float, form: str = "FLAC") -> bytes:
    """Speech-like tones without an end, which take a while."""
    file = io.BytesIO()
    words = speak("bad cab add dab " * 4, np.random.default_rng(0))
    samples = np.tile(words, round(seconds * SAMPLING_RATE / len(words)) + 1)[: round(seconds * SAMPLING_RATE)]
    with soundfile.SoundFile(file, "w", SAMPLING_RATE, 1, format=form) as written:
        for place in range(0, len(samples), SAMPLING_RATE):  # libsndfile's Vorbis fails with long blocks.
            written.write(samples[place : place + SAMPLING_RATE])
    return file.getvalue()


def post(address: str, audio: bytes, **options: Any) -> httpx2.Response:
    headers = options.pop("headers", {})
    return httpx2.post(address + ROUTE, files={"file": ("a", audio)}, data=options, headers=headers, timeout=60)


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


@contextmanager
def run_service(folder: Path, *options: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A service in a process of its own, and its address; nothing that clients do may be a fault of it."""
    command = [sys.executable, "-m", "finetune", "serve", str(folder), "--port", str(port), *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)

        def read() -> str:
            return read_output(log)

        try:
            wait_for(lambda: "serving on " in read() or process.poll() is not None, 60)
            assert process.poll() is None, read()
            yield process, read().split("serving on ")[1].split(": open")[0]
        finally:
            process.kill()
            process.wait()
        assert "Traceback" not in read(), read()[-3000:]
