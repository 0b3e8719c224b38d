"""The AWS Lambda function in a process of the real runtime client; runtime API and S3 server are on loopback."""

import base64
import contextlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import soundfile
from speech_requests import make_noise, make_wav

ROOT = Path(__file__).parents[3]
FUNCTION = ROOT / "scripts" / "deploy" / "lambda"
PREFIX = "/2018-06-01/runtime"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="awslambdaric is for Linux")


class RuntimeApi(ThreadingHTTPServer):
    """Lambda's runtime API, as its documentation has it: hands out events, and takes responses and errors."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Routes)
        self.events = queue.Queue[tuple[str, dict[str, Any], float]]()
        self.answers = queue.Queue[tuple[str, dict[str, Any]]]()
        self.count = 0
        self.process: subprocess.Popen[bytes] | None = None

    def invoke(self, event: dict[str, Any], seconds: float = 60) -> tuple[str, dict[str, Any]]:
        """Hand out an event with so much time; the kind of the answer, `response` or `error`, and what it says."""
        self.count += 1
        self.events.put((f"request-{self.count}", event, time.time() + seconds))
        for _ in range(600):
            assert self.process is not None and self.process.poll() is None, "the function has crashed"
            with contextlib.suppress(queue.Empty):
                return self.answers.get(timeout=0.2)
        raise AssertionError("no answer")


class _Routes(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == f"{PREFIX}/invocation/next"
        name, event, deadline = self.server.events.get()
        self._send(200, json.dumps(event).encode(), {"Request-Id": name, "Deadline-Ms": str(int(1000 * deadline))})

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        *_, name, kind = self.path.split("/")
        assert kind == "error" or name == f"request-{self.server.count}"
        self._send(202, b"{}", {})
        self.server.answers.put((kind, content))

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")  # Without it the runtime client crashes.
        self.send_header("Content-Length", str(len(content)))
        arn = {"Invoked-Function-Arn": "arn:aws:lambda:us-east-1:1:function:speech", "Trace-Id": "Root=1"}
        for key, value in ({**headers, **arn} if headers else {}).items():
            self.send_header(f"Lambda-Runtime-{'Aws-' if key == 'Request-Id' else ''}{key}", value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def run_function(folder: Path, bucket: Any, **settings: str) -> Iterator[RuntimeApi]:
    """The function in a process of the real runtime client, and its runtime API."""
    api = RuntimeApi()
    thread = threading.Thread(target=api.serve_forever, daemon=True)
    thread.start()
    environment = os.environ | bucket.environment | settings | {"TMPDIR": str(folder)}
    environment |= {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}", "LAMBDA_TASK_ROOT": str(FUNCTION)}
    environment |= {"PYTHONPATH": f"{FUNCTION}:{ROOT}", "FINETUNE_DEPLOY": str(FUNCTION.parent / "docker")}
    command = [sys.executable, "-m", "awslambdaric", "handler.handle"]
    api.process = process = subprocess.Popen(command, env=environment, cwd=FUNCTION)
    try:
        yield api
    finally:
        process.kill()
        process.wait()
        api.shutdown()


def created(bucket: str, key: str) -> dict[str, Any]:
    """A record of the event that S3 sends for a new object; its key is encoded as in a form."""
    return {"eventSource": "aws:s3", "s3": {"bucket": {"name": bucket}, "object": {"key": key.replace(" ", "+")}}}


def posted(body: bytes, method: str = "POST") -> dict[str, Any]:
    """The event of a function URL."""
    return {
        "version": "2.0",
        "requestContext": {"http": {"method": method, "path": "/"}},
        "isBase64Encoded": True,
        "body": base64.b64encode(body).decode(),
    }


def read_result(bucket: str, name: str) -> dict[str, Any]:
    return json.loads(boto3.resource("s3").Object(bucket, name).get()["Body"].read())


@pytest.mark.long
def test_recordings_of_a_bucket_and_of_a_url_become_text(bucket: Any, tone_folder: Path, tmp_path: Path) -> None:
    bucket.upload(tone_folder, "models/tones")
    bucket.put("calls/first call.wav", make_wav())
    bucket.put("calls/second.wav", make_wav("dad add"))
    bucket.put("calls/damaged.wav", b"RIFF, but no more")
    settings = {"FINETUNE_MODEL": f"s3://{bucket.name}/models/tones", "FINETUNE_OUTPUT": f"s3://{bucket.name}/texts/"}
    with run_function(tmp_path, bucket, **settings) as api:
        records = [created(bucket.name, f"calls/{name}.wav") for name in ("first call", "second", "damaged")]
        kind, answer = api.invoke({"Records": records})
        assert kind == "response", answer
        texts = f"texts/{bucket.name}/calls"
        names = [f"{texts}/first call.wav.json", f"{texts}/second.wav.json", f"{texts}/damaged.wav.error.json"]
        assert answer == {"written": [f"s3://{bucket.name}/{name}" for name in names]}
        first, second, damaged = (read_result(bucket.name, name) for name in names)
        assert first["text"] == "bad cab" and first["source"] == f"s3://{bucket.name}/calls/first call.wav"
        assert second["text"] == "dad add" and len(second["words"]) == 2
        assert set(damaged) == {"source", "error"} and damaged["error"]
        assert api.invoke({"Records": records[:1]})[1] == {"written": answer["written"][:1]}  # the same event again
        assert read_result(bucket.name, names[0]) == first

        # What may be over soon is an error of the function, which Lambda tries again.
        for key in ("calls/none.wav", f"texts/{bucket.name}/calls/second.wav.json"):
            kind, answer = api.invoke({"Records": [created(bucket.name, key)]})
            assert kind == "error" and answer["errorType"] == ("StorageError" if "none" in key else "UserError"), answer
        assert api.invoke({"detail": 1})[1]["errorType"] == "UserError"

        def ask(event: dict[str, Any], seconds: float = 60) -> tuple[int, dict[str, Any]]:
            kind, answer = api.invoke(event, seconds)
            assert kind == "response", answer
            return answer["statusCode"], json.loads(answer["body"])

        assert ask(posted(make_wav()))[1]["text"] == "bad cab"
        assert [ask(each)[0] for each in (posted(b"", "GET"), posted(b""), posted(b"no audio"))] == [405, 400, 422]
        assert ask({**posted(b""), "body": "?"})[0] == 400
        assert ask(posted(make_noise(60)), 4)[0] == 413  # Too little time is left.
        quiet = io.BytesIO()
        soundfile.write(quiet, np.zeros(16000), 16000, format="WAV")
        assert ask(posted(quiet.getvalue()))[1]["text"] == ""


def test_wrong_settings_are_sentences(bucket: Any, tone_folder: Path, tmp_path: Path) -> None:
    with run_function(tmp_path, bucket, FINETUNE_MODEL=str(tone_folder), FINETUNE_OUTPUT="texts") as api:
        kind, answer = api.invoke({"Records": [created(bucket.name, "a.wav")]})
        assert kind == "error" and "expected s3://BUCKET/FOLDER" in answer["errorMessage"]
    with run_function(tmp_path, bucket, FINETUNE_MODEL="/none") as api:
        kind, answer = api.invoke(posted(make_wav()))
        assert kind == "error" and "/none" in answer["errorMessage"]
