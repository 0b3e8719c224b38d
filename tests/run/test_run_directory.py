"""What a run says of the code that it was made with."""

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
