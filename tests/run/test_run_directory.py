"""What a run says of the code that it was made with, and its log after a change of its data."""

import json
import subprocess
from pathlib import Path

import pytest

from finetune.run import run_directory
from finetune.training.plots import build_figure


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


def test_the_best_evaluation_is_one_of_the_validation_split_as_it_is_now(tmp_path: Path):
    """The plot marks no error rate that was measured before the split was changed."""
    file = tmp_path / "metrics.jsonl"
    scores = {2: (0.1, 0.05, 0.8), 4: (0.05, 0.02, 0.8), 6: (0.2, 0.1, 0.8)}
    lines = [{"step": step, **dict(zip(run_directory.SCORES, values, strict=True))} for step, values in scores.items()]
    lines.insert(1, {"step": 3, "loss": 1.0, "learning_rate": 0.1})
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 7, "lo')
    again = {4: {"validation_wer": 0.5, "validation_cer": 0.3, "blank_ratio": 0.7}}
    run_directory.cut_metrics(file, 4, again)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    first, training, last = found
    assert first == {"step": 2, **{f"earlier_{name}": value for name, value in list(lines[0].items())[1:]}}
    assert training == lines[1]
    assert last["validation_wer"] == 0.5 and last["earlier_validation_wer"] == 0.05
    figure = build_figure([*found, {"step": 8, **again[4], "validation_wer": 0.6}])
    assert "best: WER 50.0 % at step 4" in [line.get_label() for line in figure.axes[2].lines]
