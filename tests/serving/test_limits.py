"""Clients that send too much, too slowly or nothing, that go away or may not come in; and a service that is full."""

import base64
import io
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from conftest import SAMPLING_RATE, speak
from speech_requests import ROUTE, connect, make_noise, make_wav, post, run_service, wait_for

from finetune.errors import UserError
from finetune.serving import server, uploads
from finetune.serving.keys import add_key, read_keys, revoke_key
from finetune.serving.settings import load_settings


@pytest.fixture(scope="module")
def small(serve: Any) -> Iterator[str]:
    """A service with small limits."""
    with serve(max_file_mb=0.2, max_audio_seconds=30, queue=2, max_connections=20, idle_seconds=1) as where:
        yield where


def test_a_large_file_is_refused_before_it_is_read(small: str) -> None:
    with connect(small) as client:
        client.sendall(
            f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        )
        assert b" 413 " in client.recv(4096).split(b"\r\n")[0]  # Nothing of the body was sent.


def test_a_large_file_of_unknown_size_is_refused_while_it_comes(small: str) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(2000):
            sent += 10_000
            yield bytes(10_000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx2.post(small + ROUTE, content=body(), headers=headers, timeout=20)
        found = answer.status_code, answer.json()["error"]["code"]
    except httpx2.TransportError:  # The connection was closed while it was sent.
        found = 413, "file_too_large"
    assert found == (413, "file_too_large")
    assert sent < 15_000_000
    raw = httpx2.post(f"{small}/models/tones", content=bytes(300_000))
    assert raw.status_code == 413


@pytest.mark.parametrize("form", ["FLAC", "OGG"])
def test_long_audio_is_refused_by_what_is_decoded(small: str, form: str) -> None:
    silence = io.BytesIO()
    options = {"subtype": "OPUS"} if form == "OGG" else {}
    soundfile.write(silence, np.zeros(3 * 60 * SAMPLING_RATE), SAMPLING_RATE, format=form, **options)
    assert len(silence.getvalue()) < 200_000
    answer = post(small, silence.getvalue())
    assert answer.status_code == 413 and "30 s" in answer.json()["error"]["message"]


def test_a_forged_header_is_not_believed(small: str) -> None:
    wav = bytearray(make_wav())
    wav[40:44] = (2**31).to_bytes(4, "little")
    answer = post(small, bytes(wav))
    assert answer.status_code == 200 and answer.json()["text"] == "bad cab"


@pytest.mark.parametrize("content", [b"", b"no audio", b"#EXTM3U\nhttp://127.0.0.1/x", b"RIFF" + bytes(100)])
def test_what_is_no_audio_is_answered_with_a_sentence(small: str, content: bytes) -> None:
    answer = post(small, content)
    error = answer.json()["error"]
    assert answer.status_code == 422 and error["message"].startswith("The audio can't be transcribed: ")
    assert "Traceback" not in answer.text and "/" not in error["message"]


def test_forms_with_faults_are_refused(small: str) -> None:
    assert httpx2.post(small + ROUTE, json={"file": "x"}).status_code == 415
    assert httpx2.post(small + ROUTE, data={"model": "tones"}, files={"other": b"x"}).status_code == 400
    assert httpx2.post(small + ROUTE, files={"file": ("a", b"x"), "model": ("b", b"y")}).status_code == 400
    headers = {"Content-Type": "multipart/form-data"}
    assert httpx2.post(small + ROUTE, content=b"x", headers=headers).status_code == 400
    assert httpx2.get(small + ROUTE).status_code == 405 and httpx2.get(f"{small}/x").status_code == 404
    assert post(small, make_wav(), model="x").json()["error"]["code"] == "model_not_found"


def test_a_slow_sender_is_disconnected(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_GRACE_SECONDS", 0.3)
    with connect(small) as client:
        client.sendall(
            f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
        )
        client.settimeout(0.05)
        answer, deadline = b"", time.monotonic() + 10
        while not answer and time.monotonic() < deadline:
            client.sendall(b"a")
            try:
                answer = client.recv(4096)
            except TimeoutError:
                continue
    assert b" 408 " in answer.split(b"\r\n")[0]


def test_idle_connections_are_closed_and_their_number_is_limited(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.5)
    opened = [connect(small) for _ in range(30)]
    try:
        opened[0].sendall(b"GET / HTTP/1.1\r\nX: ")  # A header that never ends.
        began = time.monotonic()
        assert all(_is_closed(client) for client in opened)
        assert time.monotonic() - began < 10
    finally:
        for client in opened:
            client.close()
    assert httpx2.get(f"{small}/health/ready").status_code == 200


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(10)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_websocket_outlives_the_time_for_a_header(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from websockets.sync.client import connect as open_socket

    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.2)
    with open_socket(f"ws{small[4:]}/") as client:
        for _ in range(5):
            time.sleep(0.1)
            client.send(bytes(1600))
            assert json.loads(client.recv()) == {"partial": ""}
        began = time.monotonic()
        with pytest.raises(Exception, match="nothing was sent"):  # After idle_seconds.
            client.recv(timeout=10)
        assert time.monotonic() - began < 5


def test_a_full_queue_says_when_to_come_back(small: str) -> None:
    long = make_noise(25, "OGG")
    answers: list[httpx2.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(post(small, long))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = sorted(answer.status_code for answer in answers)
    assert codes.count(200) >= 2 and set(codes) <= {200, 429}
    for answer in answers:
        assert answer.status_code == 200 or 1 <= int(answer.headers["retry-after"]) <= 120
    assert len({answer.json()["text"] for answer in answers if answer.status_code == 200}) == 1


def test_the_work_of_a_client_that_goes_is_dropped(serve: Any) -> None:
    with serve() as address:
        engine = serve.services[-1].engine
        body = make_noise(600, "FLAC")
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{address}/models/tones", content=body, timeout=0.3)
        wait_for(lambda: engine.num_jobs == 0)
        with httpx2.stream("POST", address + ROUTE, files={"file": ("a", body)}, data={"stream": "true"}) as answer:
            next(answer.iter_lines())
        wait_for(lambda: engine.num_jobs == 0)
        wait_for(lambda: b"finetune_queue_length 0.0" in serve.services[-1].metrics.render())


def test_a_stream_is_dropped_before_its_first_event(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as address:
        engine = serve.services[-1].engine
        monkeypatch.setattr("finetune.serving.engine._MAX_HELD_SECONDS", 60)
        monkeypatch.setattr(engine, "_must_wait", lambda: True)
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(address + ROUTE, files={"file": ("a", make_wav())}, data={"stream": "true"}, timeout=0.5)
        (job,) = engine._open
        wait_for(job.gone.is_set)
        monkeypatch.undo()
        wait_for(lambda: engine.num_jobs == 0)
        assert job.computed_seconds == 0


def test_keys_open_what_their_scope_says(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    full = add_key(file, "full", ["transcribe", "live", "admin"])
    live = add_key(file, "live", ["live"])
    slow = add_key(file, "slow", ["transcribe"], requests_per_minute=6)
    past = add_key(file, "past", ["transcribe"], expires=datetime.now(UTC) - timedelta(days=1))
    assert len({full, live, slow, past}) == 4 and all(len(text) >= 43 for text in (full, live))
    assert full not in file.read_text() and file.stat().st_mode & 0o077 == 0
    audit = tmp_path / "audit.jsonl"

    def ask(text: str | None, where: str = ROUTE) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        if where != ROUTE:
            return httpx2.post(address + where, headers=headers)
        return post(address, make_wav(), headers=headers)

    with serve(keys=str(file), audit=str(audit)) as address:
        assert [ask(text).status_code for text in (full, live, past, "ft-wrong", None)] == [200, 403, 401, 401, 401]
        assert ask(None).headers["www-authenticate"] == "Bearer"
        assert ask(slow).status_code == 200 and ask(slow).status_code == 429
        reload = "/admin/models/tones/reload"
        assert ask(full, reload).json() == {"model": "tones", "changed": False} and ask(slow, reload).status_code == 403
        assert httpx2.get(f"{address}/v1/models").status_code == 401
        assert httpx2.get(f"{address}/health/ready").status_code == 200
        revoke_key(file, "full")
        wait_for(lambda: ask(full).status_code == 401)
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert {line["key"] for line in lines} == {"full", "live", "slow", "none"}
    assert {"time", "key", "network", "route", "status", "seconds", "model"} == set(lines[0])
    assert lines[0]["network"] == "127.0.0.0/24" and lines[0]["route"] == f"POST {ROUTE}" and lines[0]["model"]
    whole = audit.read_text()
    assert not any(secret in whole for secret in (full, live, slow, "bad cab", "127.0.0.1"))


def test_pages_of_others_cannot_use_a_service_without_keys(address: str) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        answer = post(address, make_wav(), headers=headers)
        assert answer.status_code == 403 and answer.json()["error"]["code"].startswith("foreign")
        assert "access-control-allow-origin" not in answer.headers
    assert post(address, make_wav(), headers={"Origin": address}).status_code == 200


def test_beyond_this_machine_it_wants_keys_and_tls(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.yaml", "me", ["live"])
    beyond = {"models": ["m"], "host": "0.0.0.0"}
    with pytest.raises(UserError, match="no keys"):
        load_settings(beyond, None, {})
    keys = {**beyond, "keys": str(tmp_path / "keys.yaml")}
    with pytest.raises(UserError, match="nothing is encrypted"):
        load_settings(keys, None, {})
    assert load_settings(keys, None, {"FINETUNE_SERVE_BEHIND_TLS_PROXY": "true"}).behind_tls_proxy
    assert load_settings({**beyond, "insecure": True}, None, {}).insecure


def test_settings_come_from_file_environment_and_command_line(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("models: [a, b=c]\nport: 1\nqueue: 2\nmax-live: 3\n")
    found = load_settings({"port": 5}, file, {"FINETUNE_SERVE_QUEUE": "4", "FINETUNE_SERVE_MAX_LIVE": "9"})
    assert (found.models, found.port, found.queue, found.max_live) == (["a", "b=c"], 5, 4, 9)
    with pytest.raises(UserError, match=r"port: .*que: ") as caught:
        load_settings({"port": -1, "models": ["m"]}, None, {"FINETUNE_SERVE_QUE": "4"})
    assert "\n" not in str(caught.value)
    file.write_text("keys:\n- name: x\n")
    with pytest.raises(UserError, match="sha256"):
        read_keys(file)


@pytest.mark.parametrize("name", ["max_file_mb", "grace_seconds"])
def test_a_limit_that_is_a_size_or_a_deadline_is_finite(name: str) -> None:
    """Infinity has no number of bytes and no time: with it each upload, or the start, was a fault of the service."""
    with pytest.raises(UserError, match=f"can't be started: {name}: Input should be a finite number"):
        load_settings({"models": ["m"]}, None, {f"FINETUNE_SERVE_{name.upper()}": "inf"})


def test_it_speaks_tls(serve: Any, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    trusted = ssl.create_default_context(cafile=str(certificate))
    with serve(tls_certificate=str(certificate), tls_key=str(key)) as address:
        assert address.startswith("https://")
        answer = httpx2.post(address + ROUTE, files={"file": ("a", make_wav())}, verify=trusted)
        assert answer.json()["text"] == "bad cab"


def test_many_sessions_leave_nothing_behind(serve: Any) -> None:
    import psutil

    with serve(max_live=4) as address:
        own = psutil.Process()
        for number in range(60):
            if number == 10:
                before = own.num_fds(), threading.active_count()
            _open_and_leave(address)
        engine = serve.services[-1].models.find("tones").engine
        wait_for(lambda: engine.num_sessions == 0)
        wait_for(lambda: own.num_fds() <= before[0] + 2 and threading.active_count() <= before[1])
        assert post(address, make_wav()).json()["text"] == "bad cab"


def _open_and_leave(address: str) -> None:
    """A Vosk client that sends half a second of audio, reads nothing, and goes without a word."""
    from websockets.sync.client import connect as open_socket

    with open_socket(f"ws{address[4:]}/") as client:
        client.send('{"config": {"sample_rate": 16000}}')
        client.send(os.urandom(16000))
        client.socket.close()


def test_silence_keeps_a_session_open_and_its_last_word_is_not_lost(small: str) -> None:
    from websockets.sync.client import connect as open_socket

    words = speak("bad cab", np.random.default_rng(0))[: -int(0.1 * SAMPLING_RATE)]  # It ends in speech.
    audio = [np.zeros(SAMPLING_RATE // 5)] * 12 + np.array_split(words, 4)
    texts = []
    with open_socket(f"ws{small[4:]}/") as client:
        client.send('{"config": {"sample_rate": 16000}}')
        for number, block in enumerate(audio):
            client.send((block * 32767).astype("<i2").tobytes())
            texts.append(json.loads(client.recv()).get("text"))
            time.sleep(0.12 if number < 12 else 0)  # Longer than idle_seconds in all.
        client.send('{"eof": 1}')
        texts.append(json.loads(client.recv()).get("text"))
    assert " ".join(text for text in texts if text) == "bad cab"


def test_an_end_that_takes_too_long_is_told(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from websockets.sync.client import connect as open_socket

    monkeypatch.setattr("finetune.serving.live_stream._FINISH_SECONDS", 0.5)
    with serve() as address:
        monkeypatch.setattr(serve.services[-1].models.find("tones").engine, "step", lambda: False)
        with open_socket(f"ws{address[4:]}/") as client:
            client.send(bytes(6400))
            assert json.loads(client.recv()) == {"partial": ""}
            client.send('{"eof": 1}')
            assert json.loads(client.recv()) == {"error": "The end was not computed within 0.5 s."}


def test_sessions_are_limited_and_not_computed_one_after_another(serve: Any) -> None:
    from websockets.sync.client import connect as open_socket

    with serve(max_live=3) as address:
        clients = [open_socket(f"ws{address[4:]}/v1/realtime?intent=transcription") for _ in range(4)]
        append = {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(4800)).decode()}
        for client in clients:
            json.loads(client.recv())
            client.send(json.dumps(append))
        refused = json.loads(clients[3].recv())
        assert refused["error"]["code"] == "too_many_sessions"
        for client in clients[:3]:  # Each goes on while the others are open.
            client.send('{"type": "input_audio_buffer.commit"}')
            client.send('{"type": "input_audio_buffer.clear"}')
            assert json.loads(client.recv())["type"] == "input_audio_buffer.cleared"
        for client in clients:
            client.close()


def test_pages_of_listed_origins_may_use_it(serve: Any) -> None:
    with serve(allowed_origins=["https://app.example"]) as address:
        allowed = httpx2.get(f"{address}/v1/models", headers={"Origin": "https://app.example"})
        other = httpx2.get(f"{address}/v1/models", headers={"Origin": "https://evil.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://app.example" and allowed.status_code == 200
    assert "access-control-allow-origin" not in other.headers and other.status_code == 403


@pytest.mark.slow
def test_a_thousand_sessions_and_hours_of_silence(tone_folder: Path) -> None:
    import psutil

    silence = io.BytesIO()
    with soundfile.SoundFile(silence, "w", SAMPLING_RATE, 1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(60 * SAMPLING_RATE))
    with run_service(tone_folder) as (process, address):
        assert post(address, silence.getvalue()).status_code == 413  # Three hours in a small file.
        service = psutil.Process(process.pid)
        for number in range(1100):
            if number == 100:
                before = service.num_fds(), service.num_threads(), service.memory_info().rss
            _open_and_leave(address)
        wait_for(lambda: service.num_fds() <= before[0] + 2 and service.num_threads() <= before[1])
        grown = (service.memory_info().rss - before[2]) / 2**20
        print(f"memory grew by {grown:.0f} MB")
        assert grown < 50
