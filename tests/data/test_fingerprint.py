"""Changed data are detected without reading audio."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_corpus

from finetune.data.corpus import AudioSpec, Split, prepare_split
from finetune.data.fingerprint import list_changes, take_fingerprint
from finetune.data.sources import Source, load_splits, select_table
from finetune.text.transcripts import DEFAULT_TRANSFORMS

VOCABULARY = {"[PAD]": 0, "|": 1, "a": 2, "b": 3}


def read(folder: Path) -> Split:
    source = Source(str(folder))
    table = select_table(load_splits(source), "train", source)
    return prepare_split("train", table, DEFAULT_TRANSFORMS, AudioSpec(16000, ((400, 320),)))


def swap(folder: Path, first: str, second: str) -> None:
    """Swap cells of two rows."""
    table = folder / "metadata.csv"
    text = table.read_text().replace(first, "\0").replace(second, first).replace("\0", second)
    table.write_text(text)


CHANGES: dict[str, Callable[[Path], object]] = {
    "transcripts": lambda folder: swap(folder, "bad cab", "dad add"),
    "order": lambda folder: swap(folder, "00.wav,bad cab", "01.wav,dad add"),
    "audio": lambda folder: shutil.copy(folder / "02.wav", folder / "00.wav"),
    "bytes": lambda folder: (folder / "00.wav").write_bytes((folder / "00.wav").read_bytes() + b"LIST\0\0\0\0"),
    "a row less": lambda folder: (folder / "02.wav").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_detected(tmp_path: Path, change: str) -> None:
    folder = write_corpus(tmp_path / "corpus", ["bad cab", "dad add", "ab"])
    before = take_fingerprint({"training": read(folder)}, VOCABULARY)
    assert take_fingerprint({"training": read(folder)}, VOCABULARY) == before
    CHANGES[change](folder)
    [told] = list_changes(before, take_fingerprint({"training": read(folder)}, VOCABULARY))
    assert told.startswith("training split: ")
    assert ("was 3 utterances" in told and "is 2 utterances" in told) == (change == "a row less")


def test_another_vocabulary_of_equal_size_is_detected(tmp_path: Path) -> None:
    before = take_fingerprint({}, VOCABULARY)
    assert list_changes(before, take_fingerprint({}, {"[PAD]": 0, "|": 1, "b": 2, "c": 3})) == [
        "vocabulary: was [PAD] | a b, is [PAD] | b c"
    ]
    assert list_changes(before, take_fingerprint({}, dict(reversed(VOCABULARY.items())))) == []


def test_a_copy_of_the_corpus_and_a_fingerprint_from_json_are_equal(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", ["bad cab", "dad add", "ab"])
    split = read(folder)
    before = json.loads(json.dumps(take_fingerprint({"training": split}, VOCABULARY)))
    shutil.copytree(folder, tmp_path / "copy")
    assert list_changes(before, take_fingerprint({"training": read(tmp_path / "copy")}, VOCABULARY)) == []
    assert list_changes({}, take_fingerprint({"training": split}, VOCABULARY)) == []  # Of before there were any.
    nameless = replace(split, utterances=tuple(replace(each, audio_key=None) for each in split.utterances))
    assert list_changes(before, take_fingerprint({"training": nameless}, VOCABULARY))
