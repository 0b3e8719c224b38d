"""A run to a hub by the command, and from there to anybody's `pipeline`."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import TOKEN, Hub
from huggingface_hub import HfApi, ModelCard, constants
from programs import execute, started

from finetune.cli import main
from finetune.inference.recogniser import Recogniser
from finetune.run import publication

PIPELINE = """
import json, sys, soundfile
from transformers import pipeline
recognise = pipeline("automatic-speech-recognition", model=sys.argv[1])
files = {file: soundfile.read(file, dtype="float32") for file in sys.argv[2:]}
texts = {file: recognise({"raw": samples, "sampling_rate": rate})["text"] for file, (samples, rate) in files.items()}
print(json.dumps(texts))
"""


@pytest.fixture
def hub(writable_hub: Hub) -> Hub:
    """An empty hub, which commands of this process and of others may write to."""
    return writable_hub


@pytest.fixture
def finetune(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`finetune(*arguments)` runs the command here; returns its exit code and what it said, to people and as errors."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


def wrote(hub: Hub) -> list[str]:
    return [path for method, path, _ in hub.requests if method != "GET" and path != "/api/validate-yaml"]


def test_a_run_is_pushed_and_anybody_transcribes_with_it(hub: Hub, learned_run: Path, corpus_folder: Path) -> None:
    with started([sys.executable, "-m", "finetune", "push", learned_run, "team/tones", "--tag", "v1"]) as push:
        said = push.wait()
        assert push.process.returncode == 0, said
    repository = hub.find("team/tones")
    assert repository
    head = repository.branches["main"]
    assert said.splitlines()[-1] == f"on the hub: {hub.endpoint}/team/tones/commit/{head}"
    assert repository.tags == {"v1": head}
    model = learned_run / "model"
    there = {name: file.place.read_bytes() for name, file in repository.read(head).items() if name != ".gitattributes"}
    assert there == {
        file.relative_to(model).as_posix(): file.read_bytes() for file in model.rglob("*") if file.is_file()
    }
    reported = map(json.loads, (learned_run / "report/utterances.jsonl").read_text().splitlines())
    expected = {str(corpus_folder / "test" / row["name"]): row["raw_hypothesis"] for row in reported}
    texts = json.loads(
        execute([sys.executable, "-W", "ignore", "-c", PIPELINE, "team/tones", *expected]).splitlines()[-1]
    )
    assert texts == expected
    assert len(set(texts.values())) > 1
    assert sum(size for name, size in hub.sent.items() if name.endswith("model.safetensors"))


def test_a_report_s_scores_go_into_the_card_that_is_there(
    hub: Hub, finetune: Callable[..., tuple[int, str, str]], learned_run: Path, tmp_path: Path
) -> None:
    model = learned_run / "model"
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo("team/tones")
    api.upload_file(repo_id="team/tones", path_in_repo="README.md", path_or_fileobj=b"---\nlicense: mit\n---\nMine\n")
    code, told, errors = finetune("push", learned_run / "report", "team/tones")
    assert code == 0, errors
    repository = hub.find("team/tones")
    assert repository
    head = repository.branches["main"]
    assert told == f"on the hub: {hub.endpoint}/team/tones/commit/{head}\n"
    files = repository.read(head)
    assert set(files) == {".gitattributes", "README.md"}
    card, ours = ModelCard.load(files["README.md"].place), ModelCard.load(model / "README.md")
    assert [each.metric_value for each in card.data.eval_results] == [e.metric_value for e in ours.data.eval_results]
    for option in ("--private", "--dry-run", "--tag=a", f"--data={tmp_path}"):
        code, _, errors = finetune("push", learned_run / "report", "team/tones", option)
        assert (code, len(errors.splitlines())) == (2, 1)
        assert "are for models" in errors


@pytest.mark.long
def test_a_dry_run_says_everything_and_sends_nothing(
    hub: Hub, finetune: Callable[..., tuple[int, str, str]], learned_run: Path
) -> None:
    code, told, errors = finetune("push", learned_run, "team/tones", "--private", "--dry-run")
    assert (code, wrote(hub), hub.find("team/tones")) == (0, [], None), errors
    lines = told.splitlines()
    assert lines[0] == f"repository: team/tones on {hub.endpoint}, branch main, which will be created, private"
    assert any(line.startswith("to send: model.safetensors (") for line in lines)
    assert lines[1] == "token: of team, may write there"
    assert lines[-1] == "nothing was sent"
    assert "comparing 6 of 6 utterances of validation" in errors


@pytest.mark.long
def test_a_model_alone_is_checked_on_speech_that_is_named(
    hub: Hub,
    finetune: Callable[..., tuple[int, str, str]],
    learned_run: Path,
    corpus_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = shutil.copytree(learned_run / "model", tmp_path / "alone")
    code, _, errors = finetune("push", model, "team/alone")
    assert (code, hub.requests) == (2, [])
    assert "name speech with --data SOURCE" in errors
    monkeypatch.setattr(publication, "_MOST_UTTERANCES", 4)
    code, _, errors = finetune("push", model, "team/alone", "--data", corpus_folder)
    assert (code, bool(hub.find("team/alone"))) == (0, True), errors
    assert "comparing 4 of 6 utterances of validation" in errors


@pytest.mark.long
def test_a_model_that_others_would_hear_other_texts_from_is_not_sent(
    hub: Hub,
    finetune: Callable[..., tuple[int, str, str]],
    learned_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As were there an error in this package's own decoding."""
    monkeypatch.setattr(Recogniser, "decode", lambda self, logits, *_: [f"heard {i}" for i in range(len(logits))])
    code, _, errors = finetune("push", learned_run, "team/tones")
    assert (code, wrote(hub)) == (2, [])
    assert "must not be published: plain Transformers gives other texts" in errors
    assert "- heard 1\n" in errors


def test_what_would_be_given_away_is_not_sent(
    hub: Hub, finetune: Callable[..., tuple[int, str, str]], learned_run: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(learned_run / "model", tmp_path / "alone")
    (model / "notes.txt").write_text("/home/somebody/notes\n")  # It is not sent.
    with (model / "README.md").open("a") as card:
        card.write("Trained on /home/somebody/speech.\n")
    code, _, errors = finetune("push", model, "team/alone", "--data", corpus_folder)
    assert (code, wrote(hub)) == (2, [])
    assert errors.splitlines()[-1].startswith(f"finetune: {model} contains private information: README.md, line ")


def test_an_unfinished_run_and_whatever_is_no_model(
    hub: Hub, finetune: Callable[..., tuple[int, str, str]], learned_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("recipe.yaml", "metrics.jsonl"):
        shutil.copy(learned_run / name, run / name)
    for source, words in (
        (run, "isn't finished"),
        (tmp_path / "none", "There is no folder"),
        (tmp_path, "no run here"),
    ):
        code, _, errors = finetune("push", source, "team/tones")
        assert (code, len(errors.splitlines())) == (2, 1)
        assert words in errors
    assert hub.requests == []


def test_without_a_network_the_run_stays_as_it_is(
    hub: Hub,
    finetune: Callable[..., tuple[int, str, str]],
    learned_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {file: file.stat().st_mtime_ns for file in learned_run.rglob("*")}
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # Nothing listens there.
    code, _, errors = finetune("push", learned_run, "team/tones")
    assert code == 2
    *tries, told = errors.splitlines()
    assert len(tries) == 2 and all("trying again in" in line for line in tries)
    assert "http://127.0.0.1:9 can't be reached" in told
    assert {file: file.stat().st_mtime_ns for file in learned_run.rglob("*")} == before
