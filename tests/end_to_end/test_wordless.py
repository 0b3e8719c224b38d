"""What a model invents on utterances without words is scored and counted; training leaves such utterances out."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.cli import main


@pytest.fixture
def evaluate(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What `finetune evaluate` writes of a folder, and prints."""

    def run(data: Path, *options: str) -> tuple[dict[str, Any], str]:
        file = tmp_path / "scores.json"
        assert main(["evaluate", str(model_folder), "--data", str(data), "--json", str(file), *options]) == 0
        return json.loads(file.read_text()), capsys.readouterr().out

    return run


def test_words_invented_on_noise_are_insertions_with_their_count_shown(
    make_corpus: Callable[..., Path], tmp_path: Path, evaluate: Callable[..., Any]
) -> None:
    folder = make_corpus(tmp_path / "corpus" / "test", ["ab", "cab dad", "bad", "dab", "ad"])
    texts = ["ab", "cab dad", "", "?!", None]
    rows = [{"file_name": f"{number:02d}.wav", "text": text} for number, text in enumerate(texts)]
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores, said = evaluate(folder.parent, "--report", str(tmp_path / "report"))
    invented = [len(each["hypothesis"].split()) for each in scores["results"] if each["name"] in ("02.wav", "03.wav")]
    assert len(scores["results"]) == scores["utterances"] == 4 and scores["words"] == 3
    assert scores["utterances_without_words"] == len(invented) == 2
    assert scores["insertions_without_words"] == sum(invented) > 0  # An untrained model writes nonsense.
    assert scores["insertions"] >= sum(invented)
    shown = f" (2 without words in the reference, where {sum(invented)} word"
    assert f"of 4 utterances{shown}" in said
    assert f"of 4{shown}" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    # What is not known is not nothing.
    assert [(each["name"], each["reason"]) for each in scores["rejected"]] == [("04.wav", "no transcript")]


def test_a_set_of_noise_alone_has_no_word_error_rate_and_its_insertions(
    make_corpus: Callable[..., Path], tmp_path: Path, evaluate: Callable[..., Any]
) -> None:
    scores, said = evaluate(make_corpus(tmp_path / "corpus", ["", ""]))
    assert scores["wer"] is None and scores["insertions"] == scores["insertions_without_words"] > 0
    assert "WER unknown (" in said and "(2 without words in the reference" in said


def test_training_leaves_them_out_by_name_and_validation_counts_them(
    make_corpus: Callable[..., Path],
    write_recipe: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_corpus(tmp_path / "corpus" / "train", ["ab cab", "", "bad dad"])
    make_corpus(tmp_path / "corpus" / "validation", ["ab cab", "", "…"], seed=1)
    recipe = write_recipe(tmp_path, data={"root": str(tmp_path / "corpus")}, training={"max_steps": 2})
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 0
    assert "validation: 2 utterances without words, whose" in capsys.readouterr().err
    with (tmp_path / "run" / "rejected.csv").open() as file:
        rejected = [(row["split"], row["name"], row["reason"]) for row in csv.DictReader(file)]
    assert rejected == [("train", "01.wav", "empty transcript")]
    assert json.loads((tmp_path / "run" / "report" / "scores.json").read_text())["utterances_without_words"] == 2


def test_a_validation_split_without_any_word_is_refused(
    make_corpus: Callable[..., Path],
    write_recipe: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_corpus(tmp_path / "corpus" / "train", ["ab cab", "bad dad"])
    make_corpus(tmp_path / "corpus" / "validation", ["", ""], seed=1)
    recipe = write_recipe(tmp_path, data={"root": str(tmp_path / "corpus")})
    assert main(["check", str(recipe)]) == 2
    assert "No transcript of the split 'validation' has a word" in capsys.readouterr().err
