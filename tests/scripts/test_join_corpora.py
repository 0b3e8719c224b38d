"""Joined corpora have the rows of each, in order, with paths that lead to their recordings."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from join_corpora import join
from synthesis import SynthesisError


def make_table(folder: Path, texts: list[str]) -> None:
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "speaker", "source", "seconds"])
        writer.writerows([f"{number}.flac", text, "someone", "sentence", 1] for number, text in enumerate(texts))


def test_a_corpus_and_shards_are_joined_in_order(tmp_path: Path) -> None:
    make_table(tmp_path / "mixed" / "train", ["a", "b"])
    make_table(tmp_path / "mixed" / "validation", ["v"])
    make_table(tmp_path / "dry" / "train" / "0000", ["c"])
    make_table(tmp_path / "dry" / "train" / "0001", ["d", "e"])
    assert join(tmp_path / "joined", [tmp_path / "mixed", tmp_path / "dry"]) == "5 utterances of 2 corpora"
    with (tmp_path / "joined" / "train" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["a", "b", "c", "d", "e"]
    assert rows[1]["file_name"] == str(tmp_path / "mixed" / "train" / "1.flac")
    assert rows[4]["file_name"] == str(tmp_path / "dry" / "train" / "0001" / "1.flac")
    assert (tmp_path / "joined" / "validation" / "metadata.csv").read_text().count("\n") == 2


def test_an_empty_folder_and_one_that_exists_are_refused(tmp_path: Path) -> None:
    make_table(tmp_path / "mixed" / "train", ["a"])
    with pytest.raises(SynthesisError, match=r"no shards were found in .*empty"):
        join(tmp_path / "joined", [tmp_path / "mixed", tmp_path / "empty"])
    assert not (tmp_path / "joined").exists()
    with pytest.raises(SynthesisError, match="exists already"):
        join(tmp_path / "mixed", [tmp_path / "mixed"])
