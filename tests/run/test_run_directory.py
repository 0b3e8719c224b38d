"""What a run says of the code that it was made with."""

import subprocess
from pathlib import Path

import pytest

from finetune.run import run_directory


@pytest.fixture(autouse=True)
def _measure_anew():
    run_directory.describe_provenance.cache_clear()
    yield
    run_directory.describe_provenance.cache_clear()


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = run_directory.describe_provenance()
    assert found["commit"] is None
    assert found["packages"]["torch"]


def test_the_commit_is_that_of_this_package_and_not_of_a_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own, other = (tmp_path / folder / "run_directory.py" for folder in ("finetune/run", ".venv/finetune/run"))
    for file in (own, other):
        file.parent.mkdir(parents=True)
        file.touch()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", str(own)], ["commit", "-q", "-m", "own"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for file, commit in ((own, head), (other, None)):
        monkeypatch.setattr(run_directory, "__file__", str(file))
        run_directory.describe_provenance.cache_clear()
        assert run_directory.describe_provenance()["commit"] == commit
