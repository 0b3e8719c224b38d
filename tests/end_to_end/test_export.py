"""`finetune export`: a folder that is used as any model's, or nothing."""

import json
import shutil
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.run.export import RECORD


@pytest.fixture(scope="module")
def exported(learned_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's model in 8 bits."""
    folder = tmp_path_factory.mktemp("exported") / "below" / "int8"
    assert main(["export", str(learned_run), "--format", "onnx-int8", "-o", str(folder)]) == 0
    return folder


@pytest.mark.long
def test_it_is_evaluated_and_transcribes_as_any_model(
    exported: Path, learned_run: Path, corpus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((exported / RECORD).read_text())
    assert record["format"] == "onnx-int8"
    assert record["comparison"]["original"]["wer"] == record["comparison"]["exported"]["wer"] < 0.1
    names = {file.name for file in (learned_run / "model").iterdir()} - {"model.safetensors", "README.md"}
    assert {file.name for file in exported.iterdir()} == names | {"model.onnx", RECORD}
    assert list(exported.parent.iterdir()) == [exported]
    capsys.readouterr()
    assert main(["evaluate", str(exported), "--data", str(corpus_folder), "--split", "test"]) == 0
    said = capsys.readouterr().out
    assert main(["evaluate", str(learned_run / "model"), "--data", str(corpus_folder), "--split", "test"]) == 0
    assert said.splitlines()[0] == capsys.readouterr().out.splitlines()[0]
    audio = next((corpus_folder / "test").glob("*.wav"))
    texts = []
    for model in (exported, learned_run / "model"):
        assert main(["transcribe", str(model), str(audio)]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != "\n"


@pytest.mark.long
def test_one_that_is_worse_is_refused_and_nothing_is_left(
    learned_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Less than none: even the same word error rate is refused.
    command = ["export", str(learned_run), "--format", "onnx", "-o", str(tmp_path / "new"), "--tolerance", "-0.1"]
    assert main(command) == 2
    assert "is worse than" in (said := capsys.readouterr().err)
    assert "That is 0.00 points more, and --tolerance -0.1 is the limit" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_what_cannot_be_exported_is_said(
    exported: Path, learned_run: Path, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(model: Path, output: Path, *others: str) -> str:
        assert main(["export", str(model), "--format", "onnx", "-o", str(output), *others]) == 2
        return capsys.readouterr().err

    assert "There is something at" in refuse(learned_run, exported)
    again = refuse(exported, tmp_path / "new", "--data", str(corpus_folder))
    assert "is an export already: export the model that it was made of" in again
    shutil.copytree(learned_run / "model", tmp_path / "alone")
    assert "belongs to no run here" in refuse(tmp_path / "alone", tmp_path / "new")
    assert "There is no model at" in refuse(tmp_path / "none", tmp_path / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["alone"]
