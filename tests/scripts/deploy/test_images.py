"""What the images are made of: Dockerfiles, locks, Compose, and the small programs beside the service."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from speech_requests import run_service

from finetune.errors import UserError
from finetune.files import hash_folder

DEPLOY = Path(__file__).parents[3] / "scripts" / "deploy"
IMAGES = DEPLOY / "docker"
DOCKERFILES = sorted(DEPLOY.rglob("Dockerfile"))
EXTRAS = ("serve", "feedback", "s3", "onnx", "kafka")


def read_lock(file: Path) -> dict[str, Version]:
    """The packages of a lock; each has hashes."""
    found: dict[str, Version] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE)):
        name, version = re.match(r"([a-z0-9.-]+)==(\S+) \\\n", entry).groups()  # type: ignore[union-attr]
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)) == len(entry.strip().splitlines()) - 1 >= 1
        found[name] = Version(version)
    return found


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_dockerfiles_are_clean(file: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_linter_finds_a_root_user_and_an_open_version(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN apt-get install curl\nUSER root\n")
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), bad], capture_output=True, text=True)
    assert done.returncode != 0 and "DL3006" in done.stdout and "DL3002" in done.stdout


def test_images_end_as_another_user_than_root() -> None:
    text = (IMAGES / "Dockerfile").read_text()
    for target in ("cpu", "gpu"):
        [stage] = [each for each in re.split(r"(?=^FROM )", text, flags=re.MULTILINE) if f" AS {target}\n" in each]
        assert stage.rstrip().endswith("USER 10001:10001")
    copied = re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
    sources = [source for line in copied for source in line.split()[:-1]]
    assert all((DEPLOY.parents[1] / source).exists() for source in sources), sources
    let = [line[1:] for line in (IMAGES / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all(any(source == each or source.startswith(f"{each}/") for each in let) for source in sources)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_locks_have_what_the_package_wants(kind: str) -> None:
    locked = read_lock(IMAGES / f"requirements.{kind}.lock")
    project = tomllib.loads((DEPLOY.parents[1] / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [each for extra in EXTRAS for each in project["optional-dependencies"][extra]]
    for each in map(Requirement, wanted):
        name = each.name.lower().replace("_", "-")
        assert each.specifier.contains(locked[name], prereleases=True), f"{each}: run renew_locks.sh"
    assert ("nvidia-cublas" in locked) == (kind == "gpu")
    assert str(locked["torch"]).endswith("+cpu") == (kind == "cpu")
    assert f"--extra {' --extra '.join(EXTRAS)} " in (IMAGES / "renew_locks.sh").read_text()


def test_compose_opens_nothing_and_gives_each_container_a_limit() -> None:
    whole = yaml.safe_load((IMAGES / "compose.yaml").read_text())
    assert set(yaml.safe_load((IMAGES / "compose.gpu.yaml").read_text())["services"]) == {"finetune"}
    assert set(whole["services"]) == {"finetune", "consume", "prometheus", "grafana"}
    for service in whole["services"].values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and volume["source"].startswith("."):
                assert (IMAGES / volume["source"]).is_file() and volume["read_only"]
        assert set(service.get("secrets", [])) <= set(whole["secrets"])
    build = whole["services"]["finetune"]["build"]
    assert (IMAGES / build["context"] / build["dockerfile"]).resolve() == (IMAGES / "Dockerfile").resolve()


def test_prometheus_takes_its_configuration_with_our_rules(promtool: Any, tmp_path: Path) -> None:
    for file in (IMAGES / "prometheus.yaml", DEPLOY / "alerts.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0 and "11 rules" in done.stdout, done.stdout + done.stderr
    source = yaml.safe_load((IMAGES / "grafana" / "datasources.yaml").read_text())["datasources"][0]
    assert source["type"] == "prometheus" and source["isDefault"]


@pytest.mark.long
def test_health_check_knows_a_service_that_is_ready(tone_folder: Path) -> None:
    command = [sys.executable, str(IMAGES / "check_health.py")]
    with run_service(tone_folder) as (_, address):
        environment = os.environ | {"FINETUNE_SERVE_PORT": address.rsplit(":", 1)[1]}
        assert subprocess.run(command, env=environment, timeout=60).returncode == 0
    assert subprocess.run(command, env=environment, timeout=60).returncode == 1


def test_model_comes_from_a_bucket_whole_or_not_at_all(tone_folder: Path, bucket: Any, tmp_path: Path) -> None:
    from deploy.docker.fetch_model import fetch_model

    digest = hash_folder(tone_folder)
    bucket.upload(tone_folder, "models/tones")
    url = f"s3://{bucket.name}/models/tones"
    with pytest.raises(UserError, match="digest"):
        fetch_model(url, tmp_path / "models" / "tones", "0" * 16)
    assert not list((tmp_path / "models").iterdir())
    assert hash_folder(fetch_model(url, tmp_path / "models" / "tones", digest)) == digest
    assert fetch_model(url, tmp_path / "models" / "tones", digest).is_dir()  # again, as after a restart
    with pytest.raises(UserError, match=r"no config\.json"):
        fetch_model(f"s3://{bucket.name}/models", tmp_path / "all")
    with pytest.raises(UserError, match="no folder"):
        fetch_model(f"s3://{bucket.name}/none", tmp_path / "none")
    with pytest.raises(UserError, match="no folder"):
        fetch_model("s3://another-bucket/none", tmp_path / "other")


def test_storage_that_does_not_answer_is_a_sentence(bucket: Any, tmp_path: Path) -> None:
    environment = os.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    command = [sys.executable, IMAGES / "fetch_model.py", "s3://speech/models/tones", tmp_path / "tones"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "can't be fetched" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
