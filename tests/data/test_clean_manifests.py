"""What `finetune check --fix` writes is used by what it says, whatever the corpus is, and the corpus stays usable."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from finetune.cli import main
from finetune.data.sources import Source, load_splits

TEXTS = ["one two three", "two three seven", "seven eight one", "eight one two", "three three one"]


def write_corpus(root: Path, table: str, audio: str, header: str = "file_name,text,speaker\n", row: str = "{},{},s{}"):
    """Five utterances: noise in a folder for audio below the table's."""
    folder = (root / table).parent / audio
    folder.mkdir(parents=True)
    for number in range(len(TEXTS)):
        samples = 0.1 * np.random.default_rng(number).standard_normal(48000)
        soundfile.write(folder / f"{number}.wav", samples.astype(np.float32), 16000)
    lines = [row.format(f"{audio}{number}.wav", text, number % 3) for number, text in enumerate(TEXTS)]
    (root / table).write_text(header + "\n".join(lines) + "\n")


def read_counts(output: str) -> dict[str, str]:
    return dict(re.findall("^(train|validation): (.* utterances)", output, re.MULTILINE))


@pytest.mark.parametrize(
    ("table", "root", "audio", "header", "data"),
    [
        ("metadata.csv", "", "a/b/", "file_name,text,speaker\n", {}),
        ("my/metadata.csv", "", "", "file_name,text,speaker\n", {}),
        ("x/my/metadata.csv", "", "clips/", "file_name,text,speaker\n", {}),
        ("my/metadata.csv", "my", "clips/", "clip,words,who\n", {"audio_column": "clip", "text_column": "words"}),
        ("list.csv", "list.csv", "a/", "file_name,sentence,client_id\n", {}),
        ("my/[a] list.csv", "my/[a] list.csv", "a/", "", {"text_column": "column2", "speaker_column": "column3"}),
        ("metadata.csv", "", "", "path,text,accent\n", {"columns": ["accent"]}),
    ],
)
def test_the_advice_after_fixing_is_usable(
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    table: str,
    root: str,
    audio: str,
    header: str,
    data: dict[str, Any],
) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus, table, audio, header)
    recipe = write_recipe(tmp_path, data={"root": str(corpus / root), "validation_fraction": 0.3, **data})
    assert main(["check", str(recipe), "--fix"]) == 0
    said = capsys.readouterr().out
    advice = re.findall(r"use it with (data\.\S+)", said)
    assert [each.partition("=")[0] for each in advice] == ["data.train_split", "data.validation_split"]
    for arguments in (advice, []):  # The corpus itself stays usable.
        assert main(["check", str(recipe), *arguments]) == 0
        again = capsys.readouterr()
        assert read_counts(again.out) == read_counts(said) and "left out" not in again.out and not again.err


def test_sources_of_one_root_have_a_clean_manifest_each(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "corpus", "a.csv", "a/")
    write_corpus(tmp_path / "corpus", "b.csv", "b/")
    (tmp_path / "corpus" / "a.csv").rename(tmp_path / "corpus" / "train.csv")
    (tmp_path / "corpus" / "b.csv").rename(tmp_path / "corpus" / "test.csv")
    roots = [{"root": str(tmp_path / "corpus"), "train_split": split} for split in ("train", "test")]
    recipe = write_recipe(tmp_path, data={"root": None, "sources": roots, "test_split": None})
    assert main(["check", str(recipe), "--fix"]) == 0
    said = capsys.readouterr().out
    advice = re.findall(r"(\d+) utterances; use it with train_split: (\S+) beside root: (\S+) in data\.sources", said)
    assert [split for _, split, _ in advice] == ["train.clean", "train.1.clean"]
    splits = load_splits(Source(str(tmp_path / "corpus")))
    assert [len(splits[split]) for _, split, _ in advice] == [int(count) for count, _, _ in advice]
    audio = {Path(name).parts[-2] for name in splits["train.1.clean"]["file_name"]}
    assert audio == {"b"}


def test_utterances_that_are_in_no_clean_manifest_are_counted(
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_corpus(tmp_path / "files", "metadata.csv", "a/")
    encoded = [(tmp_path / "files" / "a" / f"{number}.wav").read_bytes() for number in range(3)]
    (tmp_path / "packed").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.table({"audio": encoded, "text": TEXTS[:3]}), tmp_path / "packed" / "train.parquet"
    )
    roots = [str(tmp_path / "files"), str(tmp_path / "packed")]
    recipe = write_recipe(tmp_path, data={"root": None, "sources": roots, "validation_fraction": 0.3})
    assert main(["check", str(recipe), "--fix"]) == 0
    assert (
        "\n3 utterances are in Parquet, Arrow or tar files or at URLs, and in no clean manifest"
        in capsys.readouterr().out
    )
    recipe = write_recipe(tmp_path, data={"root": roots[1], "validation_fraction": 0.3})
    assert main(["check", str(recipe), "--fix"]) == 2
    assert "no clean manifest to write: expected a local corpus whose utterances are files" in capsys.readouterr().err
