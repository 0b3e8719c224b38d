"""Many mixed requests with faults among them: no wrong text, no lost request, and nothing left behind."""

import io
import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
import soundfile
from conftest import SAMPLING_RATE, WORDS, speak
from speech_requests import ROUTE, connect, run_service, wait_for
from websockets.sync.client import connect as open_socket

pytestmark = pytest.mark.slow

REQUESTS, CLIENTS, FAULTS = 10_000, 8, 0.05
WARM_UP = 1_500


class Campaign:
    """The requests of all clients, and what came of them."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lock = threading.Lock()
        self.left, self.answered, self.faults = REQUESTS, 0, 0
        self.wrong: list[str] = []
        rng = np.random.default_rng(0)
        self.recordings = []
        for number in range(60):
            text = " ".join(rng.choice(WORDS, size=1 + number % 6))
            file = io.BytesIO()
            form = ("WAV", "FLAC", "OGG")[number % 3]
            samples = speak(text, rng)
            soundfile.write(file, samples, SAMPLING_RATE, format=form)
            pcm = (samples * 32767).astype("<i2").tobytes()
            self.recordings.append((text, file.getvalue(), pcm))

    def run(self, seed: int) -> None:
        draw = random.Random(seed)
        with httpx2.Client(timeout=60) as client:
            while self._take():
                text, audio, pcm = draw.choice(self.recordings)
                if draw.random() < FAULTS:
                    draw.choice((self.break_off, self.leave_early, self.send_garbage, self.leave_live))(client, audio)
                    with self.lock:
                        self.faults += 1
                    continue
                kind = draw.choice((self.ask_file, self.ask_file, self.ask_stream, self.ask_bytes, self.ask_live))
                found = kind(client, audio, pcm)
                with self.lock:
                    self.answered += 1
                    if found != text:
                        self.wrong.append(f"{kind.__name__}: {found!r}, expected {text!r}")

    def _take(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def ask_file(self, client: httpx2.Client, audio: bytes, _: bytes) -> Any:
        return client.post(self.address + ROUTE, files={"file": ("a", audio)}).json().get("text")

    def ask_stream(self, client: httpx2.Client, audio: bytes, _: bytes) -> Any:
        body: dict[str, Any] = {"files": {"file": ("a", audio)}, "data": {"stream": "true"}}
        with client.stream("POST", self.address + ROUTE, **body) as answer:
            lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
        return "".join(line["delta"] for line in lines if line["type"].endswith("delta"))

    def ask_bytes(self, client: httpx2.Client, audio: bytes, _: bytes) -> Any:
        return client.post(f"{self.address}/models/tones", content=audio).json().get("text")

    def ask_live(self, client: httpx2.Client, _: bytes, pcm: bytes) -> Any:
        texts = []
        with open_socket(f"ws{self.address[4:]}/") as socket:
            socket.send('{"config": {"sample_rate": 16000}}')
            for place in range(0, len(pcm), 16000):
                socket.send(pcm[place : place + 16000])
                texts.append(json.loads(socket.recv()).get("text"))
            socket.send('{"eof": 1}')
            texts.append(json.loads(socket.recv()).get("text"))
        return " ".join(text for text in texts if text)

    def break_off(self, _: httpx2.Client, audio: bytes) -> None:
        """An upload that ends in the middle."""
        with connect(self.address) as socket:
            head = f"POST /models/tones HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(audio)}\r\n\r\n"
            socket.sendall(head.encode() + audio[: len(audio) // 2])

    def leave_early(self, _: httpx2.Client, audio: bytes) -> None:
        """A client that does not wait for its answer."""
        with connect(self.address) as socket:
            head = f"POST /models/tones HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(audio)}\r\n\r\n"
            socket.sendall(head.encode() + audio)

    def send_garbage(self, client: httpx2.Client, audio: bytes) -> None:
        answer = client.post(f"{self.address}/models/tones", content=audio[: len(audio) // 3][::-1])
        if answer.status_code != 422 or "error" not in answer.json():
            with self.lock:
                self.wrong.append(f"garbage was answered with {answer.status_code}")

    def leave_live(self, _: httpx2.Client, audio: bytes) -> None:
        with open_socket(f"ws{self.address[4:]}/") as socket:
            socket.send(audio[: len(audio) // 2 * 2])
            socket.socket.close()


def test_ten_thousand_requests_with_faults(tone_folder: Path) -> None:
    with run_service(tone_folder, "--max-live", "16", "--queue", "64") as (process, address):
        campaign = Campaign(address)
        own = psutil.Process(process.pid)
        threads = [threading.Thread(target=campaign.run, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while campaign.left > REQUESTS - WARM_UP:
            time.sleep(0.1)
        memory, count = own.memory_info().rss, own.num_threads()
        for thread in threads:
            thread.join()
        assert campaign.answered + campaign.faults == REQUESTS and campaign.wrong == []
        assert httpx2.get(f"{address}/health/ready").status_code == 200
        grown = (own.memory_info().rss - memory) / 2**20
        print(f"memory grew by {grown:.0f} MB, {own.num_fds()} handles, {own.num_threads()} threads, before {count}")
        assert grown < 50
        wait_for(lambda: own.num_threads() <= count and own.num_fds() < 60)
