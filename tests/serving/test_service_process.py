"""A real process: it is ready soon, ends as it should, survives kill -9, and takes a new model while it works."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from speech_requests import make_noise, make_wav, post, run_service, wait_for

from finetune.serving.models import read_sources

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.mark.long
def test_sigterm_finishes_what_has_begun_and_refuses_the_rest(tone_folder: Path) -> None:
    with run_service(tone_folder) as (process, address):
        answers: list[httpx2.Response] = []
        body = make_noise(900, "OGG")
        thread = threading.Thread(target=lambda: answers.append(post(address, body)))
        thread.start()
        metrics = f"{address}/metrics"
        wait_for(lambda: "finetune_queue_length 1.0" in httpx2.get(metrics).text)
        process.send_signal(signal.SIGTERM)
        try:
            late = post(address, make_wav()).status_code
        except httpx2.TransportError:
            late = 503
        thread.join(60)
        assert process.wait(30) == 0
        assert answers[0].status_code == 200 and answers[0].json()["text"] and late == 503


@pytest.mark.long
def test_a_model_is_replaced_without_dropping_a_request(tone_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tones"
    shutil.copytree(tone_folder, folder)
    with run_service(folder) as (process, address):
        answers: list[httpx2.Response] = []
        stopped = threading.Event()

        def ask() -> None:
            while not stopped.is_set():
                answers.append(post(address, make_wav()))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        before = _model(address)
        shutil.copytree(tone_folder, tmp_path / "new")
        (tmp_path / "new" / "utterance_lengths.json").write_text('{"mean_seconds": 1.0, "longest_seconds": 3.0}')
        folder.rename(tmp_path / "old")
        (tmp_path / "new").rename(folder)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: _model(address) != before, 30)
        stopped.set()
        for thread in threads:
            thread.join()
        (folder / "model.onnx").write_bytes(b"damaged")
        assert httpx2.post(f"{address}/admin/models/tones/reload").status_code == 503
        answers.append(post(address, make_wav()))
    assert len(answers) > 3 and all(answer.json() == answers[0].json() for answer in answers)


def _model(address: str) -> Any:
    [model] = httpx2.get(f"{address}/v1/models").json()["data"]
    return model["created"], model["finetune_digest"]


@pytest.mark.long
def test_after_kill_9_it_starts_again_on_the_same_port(tone_folder: Path) -> None:
    with run_service(tone_folder) as (process, address):
        outcomes: list[int] = []

        def ask() -> None:
            try:
                outcomes.append(post(address, make_noise(300, "OGG")).status_code)
            except httpx2.TransportError:
                outcomes.append(0)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        process.kill()
        for thread in threads:
            thread.join(30)
        assert 0 in outcomes and set(outcomes) <= {0, 200}
        with run_service(tone_folder, port=int(address.rsplit(":", 1)[1])) as (_, again):
            assert again == address and post(again, make_wav()).json()["text"] == "bad cab"


@pytest.mark.long
def test_what_cannot_start_says_why(tone_folder: Path, tmp_path: Path, address: str) -> None:
    def fail(*arguments: str) -> str:
        command = [sys.executable, "-m", "finetune", "serve", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert "can't listen" in fail(str(tone_folder), "--port", address.rsplit(":", 1)[1])
    assert "models" in fail()
    assert "none.yaml can't be read" in fail("keys", "list", "--keys", str(tmp_path / "none.yaml"))


def test_a_model_without_a_name_has_that_of_its_folder_or_run(tmp_path: Path) -> None:
    run = tmp_path / "mine" / "model"
    run.mkdir(parents=True)
    assert read_sources([str(run), "/model"]) == {"mine": str(run), "model": "/model"}
    assert list(read_sources(["facebook/wav2vec2-base@abc", "a=/model"])) == ["wav2vec2-base", "a"]
