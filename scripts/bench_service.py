"""The service against the command and against a route that calls a pipeline, and live sessions beside a full queue.

    python scripts/bench_service.py MODEL --data FOLDER [--clients 16] [--rounds 3] [--passes 3] [--sessions 4]

FOLDER holds short recordings. In each round, in turn and each in a process of its own: `command` transcribes all of
them with `Transcriber.transcribe_many`, as `finetune transcribe` does; `service` is `finetune serve`, and `route` a
FastAPI route that calls `transformers.pipeline`, both asked by `--clients` threads of this process, which share the
cores with what they measure. Speed is seconds of audio a second; starting is left out. `one client` is the time of a
single request after another, and `overhead` what it takes longer than the same file in `Transcriber.transcribe`.

Then `--sessions` live sessions are fed at the pace of a clock through /v1/realtime, alone and beside clients that keep
the queue full. The delay of a final text is from the moment at which the end of its speech was sent to its arrival; it
includes the pause that ends a segment.

The limit of the service is what its threads compute with one thread of torch each: for a quickstart model and its test
recordings 32 ms a recording of 2.8 s (24 ms the model, 7 ms reading and decoding), so on two cores 174 s of audio a
second without HTTP and clients.

With a quickstart model and the 100 recordings of its test split (4.7 minutes, six sampling rates, Ogg, FLAC and WAV) on
2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni) in bf16, nothing else running, `--rounds 2`: command 83 to 95 s
of audio a second, service 120 to 137 (1.4 to 1.5 times; threads with one thread of torch each use two cores better than
one with two), route 73 (1.6 to 1.9 times; three times would be beyond the limit). 16 clients wait 356, 420 and 437 ms,
those of the route 607, 725 and 770. One request takes 31 ms, 7 to 11 ms more than the file in `Transcriber.transcribe`.
Final texts of 4 live sessions came after 515 ms alone and 521 ms beside 16 clients (p95 1.02 to 1.04 times). Capped to
AVX2, in float32: command 69, service 93, route 73; 8 sessions 534 and 611 ms (p95 671 and 716 ms, 1.07 times), 14
sessions, which alone need most of both cores, 546 and 1470 ms (p95 851 and 2092 ms, 2.5 times; 4.4 times before
recordings waited for them).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from parts import add_precision, report_machine

_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_ROUTE = """
import io, sys, soundfile, torch, uvicorn
from scipy.signal import resample_poly
from fastapi import FastAPI, UploadFile
from transformers import pipeline
recogniser = pipeline("automatic-speech-recognition", model=sys.argv[1])
app = FastAPI()
@app.post("/v1/audio/transcriptions")
def transcribe(file: UploadFile):
    samples, rate = soundfile.read(io.BytesIO(file.file.read()), dtype="float32", always_2d=True)
    mono = resample_poly(samples.mean(1), 16000, rate).astype("float32")
    return {"text": recogniser({"raw": mono, "sampling_rate": 16000})["text"]}
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
_COMMAND = """
import json, sys, time
from finetune.inference.transcriber import Transcriber
transcriber = Transcriber(sys.argv[1], precision=sys.argv[2])
files = json.loads(sys.stdin.read())
list(transcriber.transcribe_many((file, file) for file in files[:8]))
began = time.perf_counter()
texts = [found.text for _, found in transcriber.transcribe_many((file, file) for file in files)]
seconds = time.perf_counter() - began
times = []
for _ in range(30):
    began = time.perf_counter()
    transcriber.transcribe(files[0])
    times.append(time.perf_counter() - began)
print(json.dumps([seconds, sorted(times)[15], texts]))
"""


@dataclass
class Load:
    """What clients found: the seconds of each request, the texts by file, and the whole time."""

    times: list[float] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@contextmanager
def run_server(command: Sequence[str], port: int) -> Iterator[str]:
    """A server in a process of its own, from when it answers."""
    import httpx2

    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                httpx2.get(f"{address}/openapi.json")
                break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def ask(address: str, files: Sequence[Path], num_clients: int) -> Load:
    """Send all files, each once, from clients that share them."""
    import httpx2

    load, waiting, lock = Load(), iter(files), threading.Lock()

    def work() -> None:
        with httpx2.Client(timeout=120) as client:
            while True:
                with lock:
                    file = next(waiting, None)
                if file is None:
                    return
                began = time.perf_counter()
                body = {"file": (file.name, file.read_bytes())}
                answer = client.post(f"{address}/v1/audio/transcriptions", files=body)
                answer.raise_for_status()
                with lock:
                    load.times.append(time.perf_counter() - began)
                    load.texts[str(file)] = answer.json()["text"]

    threads = [threading.Thread(target=work) for _ in range(num_clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - began
    return load


async def speak(address: str, samples: Any, offset: float, delays: list[float]) -> None:
    """One live session at the pace of a clock; adds the delay of each final text."""
    from websockets.asyncio.client import connect

    audio = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    await asyncio.sleep(offset)
    async with connect(f"ws{address[4:]}/v1/realtime?intent=transcription") as socket:
        update = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}
        await socket.send(json.dumps({"type": "session.update", "session": update}))
        began = time.perf_counter()

        async def send() -> None:
            for number, place in enumerate(range(0, len(audio), 3200)):
                block = base64.b64encode(audio[place : place + 3200]).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": block}))
                await asyncio.sleep(max(0.0, began + 0.1 * (number + 1) - time.perf_counter()))
            await socket.close()

        sending, end = asyncio.create_task(send()), 0.0
        async for message in socket:
            event = json.loads(message)
            if event["type"].endswith("speech_stopped"):
                end = event["audio_end_ms"] / 1000
            elif event["type"].endswith(".completed"):
                delays.append(time.perf_counter() - began - end)
        await sending


def measure_live(address: str, samples: Any, num_sessions: int) -> list[float]:
    """The delays of final texts of sessions that begin at different moments and places."""
    delays: list[float] = []

    async def run() -> None:
        parts = [np.roll(samples, -number * len(samples) // num_sessions) for number in range(num_sessions)]
        await asyncio.gather(*(speak(address, part, 0.11 * number, delays) for number, part in enumerate(parts)))

    asyncio.run(run())
    return delays


@contextmanager
def keep_full(address: str, files: Sequence[Path], num_clients: int) -> Iterator[None]:
    """Clients that send one file after another as long as the body runs."""
    import httpx2

    stopped = threading.Event()

    def work(number: int) -> None:
        with httpx2.Client(timeout=120) as client:
            for file in cycle([*files[number:], *files[:number]]):
                if stopped.is_set():
                    return
                answer = client.post(f"{address}/v1/audio/transcriptions", files={"file": ("a", file.read_bytes())})
                if answer.status_code == 429:
                    stopped.wait(float(answer.headers["retry-after"]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def percentiles(times: Sequence[float]) -> str:
    """The median, the 95th and the 99th percentile in milliseconds."""
    return " ".join(f"{1000 * float(np.percentile(times, q)):.0f}" for q in (50, 95, 99))


def read_audio(files: Sequence[Path]) -> tuple[Any, float]:
    """All recordings as one with pauses of 0.8 s at 16 kHz, and the seconds of speech in it."""
    from finetune.audio.recordings import Recording
    from finetune.audio.waveforms import read_waveform

    parts = [read_waveform(Recording(str(file), None), 16000) for file in files]
    pause = 0.001 * np.random.default_rng(0).standard_normal(12800)
    return np.concatenate([each for part in parts for each in (part, pause)]), sum(map(len, parts)) / 16000


def print_live(options: argparse.Namespace, serve: Sequence[str], files: Sequence[Path], samples: Any) -> None:
    """Print the delays of final texts alone and beside clients."""
    heard = samples[: round(16000 * options.live_seconds)]
    with run_server(serve, options.port) as address:
        ask(address, files[:16], 2)
        quiet = measure_live(address, heard, options.sessions)
        with keep_full(address, files, options.clients):
            beside = measure_live(address, heard, options.sessions)
    ratio = float(np.percentile(beside, 95) / np.percentile(quiet, 95))
    print(
        f"{options.sessions} live sessions: final texts after {percentiles(quiet)} ms alone, {percentiles(beside)} ms "
        f"beside {options.clients} clients; p95 {ratio:.2f} times"
    )


def main() -> None:
    """Print a line for each thing that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3, help="how often each recording is sent in a round")
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--live-seconds", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=8765)
    add_precision(parser)
    options = parser.parse_args()
    report_machine(options.precision)
    files = sorted(file for file in options.data.rglob("*") if file.suffix in _SUFFIXES)
    samples, seconds = read_audio(files)
    many, python = files * options.passes, sys.executable
    serve = [python, "-m", "finetune", "serve", options.model, "--port", str(options.port), "--queue", "64"]
    serve += ["--precision", options.precision, "--max-live", str(options.sessions)]
    route = [python, "-c", _ROUTE, options.model, str(options.port)]
    speeds: dict[str, list[float]] = {"command": [], "service": [], "route": []}
    alone, overheads = [], []
    for _ in range(options.rounds):
        done = subprocess.run(
            [python, "-c", _COMMAND, options.model, options.precision],
            input=json.dumps([str(file) for file in many]),
            capture_output=True,
            check=True,
            text=True,
        )
        spent, direct, texts = json.loads(done.stdout.splitlines()[-1])
        speeds["command"].append(seconds * options.passes / spent)
        for name, command in (("service", serve), ("route", route)):
            with run_server(command, options.port) as address:
                ask(address, files[:16], 2)
                load = ask(address, many, options.clients)
                speeds[name].append(seconds * options.passes / load.seconds)
                single = ask(address, files[:1] * 40, 1)
            times = f"{options.clients} clients {percentiles(load.times)} ms, one client {percentiles(single.times)} ms"
            print(f"{name}: {times}")
            if name == "service":
                differing = sum(load.texts[str(file)] != text for file, text in zip(many, texts, strict=True))
                alone.append(statistics.median(single.times))
                overheads.append(alone[-1] - direct)
                print(f"texts that differ from the command's: {differing} of {len(many)}", flush=True)
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    print("seconds of audio a second: " + ", ".join(f"{name} {speed:.0f}" for name, speed in medians.items()))
    print(
        f"service / command {medians['service'] / medians['command']:.2f}, service / route "
        f"{medians['service'] / medians['route']:.2f}, overhead {1000 * statistics.median(overheads):.1f} ms"
    )
    print_live(options, serve, files, samples)


if __name__ == "__main__":
    main()
