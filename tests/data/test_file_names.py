"""Names of files that were written on another system are found on this one."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.audio.waveforms import AudioError, read_seconds
from finetune.data.sources import Source, load_splits, select_table

Form = Callable[[str], str]


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def read(root: Path, audio: str, texts: dict[str, str], split: str = "train") -> float:
    """The seconds of the first utterance of a corpus with one recording."""
    for name, text in {**texts, audio: ""}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    soundfile.write(root / audio, np.full(8000, 0.1), 16000)
    source = Source(str(root))
    return read_seconds(select_table(load_splits(source), split, source).recording(0))


@pytest.mark.parametrize(
    ("audio", "texts"),
    [
        ("wavs/a.wav", {"metadata.csv": "file_name,text\nwavs\\a.wav,one\n"}),
        ("wavs/a.wav", {"metadata.csv": "file_name,text\n.\\wavs\\a.wav,one\n"}),
        ("wavs/x/a.wav", {"metadata.csv": "file_name,text\nx\\a,one\n"}),
        ("x/a.wav", {"metadata.jsonl": '{"file_name": "x\\\\a.wav", "text": "one"}\n'}),
        ("x/a.wav", {"train.csv": "x\\a.wav|one\n"}),
        ("x/a.wav", {"wav.scp": "a x\\a.wav\n", "text": "a one\n"}),
        ("wavs\\a.wav", {"metadata.csv": "file_name,text\nwavs\\a.wav,one\n"}),
    ],
)
def test_backslashes_of_windows_separate_folders(tmp_path: Path, audio: str, texts: dict[str, str]) -> None:
    assert read(tmp_path, audio, texts) == 0.5


def test_backslashes_separate_the_folders_of_splits(tmp_path: Path) -> None:
    table = {"metadata.csv": "file_name,text\ntrain\\b.wav,one\ntest\\a.wav,two\n"}
    assert read(tmp_path, "test/a.wav", table, "test") == 0.5


@pytest.mark.parametrize("name", ["..\\a.wav", "\\etc\\a.wav", "x\\..\\..\\ü.wav"])
def test_backslashes_lead_to_no_file_outside_the_corpus(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(8000, 0.1), 16000)
    with pytest.raises(AudioError, match="outside the corpus"):
        read(tmp_path / "corpus", "x/b.wav", {"metadata.csv": f"file_name,text\n{name},one\n"})


@pytest.mark.parametrize("name", ["C:\\x\\a.wav", "C:/x/a.wav", "\\\\server\\x\\a.wav"])
def test_absolute_paths_of_windows_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(AudioError) as raised:
        read(tmp_path, "x/a.wav", {"metadata.csv": f"file_name,text\n{name},one\n"})
    assert str(raised.value) == f"absolute path of Windows (expected one from the table's folder): {name}"


@pytest.mark.parametrize(("on_disk", "written"), [(composed, decomposed), (decomposed, composed)])
@pytest.mark.parametrize(
    ("audio", "texts"),
    [
        ("grüße.wav", {"metadata.csv": "file_name,text\ngrüße.wav,one\n"}),
        ("ü/é.wav", {"metadata.csv": "file_name,text\nü\\é.wav,one\n"}),
        ("wavs/é.wav", {"metadata.csv": "file_name,text\né,one\n"}),
        ("wavs/é.wav", {"metadata.csv": "é|one|one\n"}),
        ("clips/é.wav", {"train.tsv": "path\tsentence\né.wav\tone\n"}),
        ("é.wav", {"wav.scp": "r é.wav\n", "segments": "a r 0 -1\n", "text": "a one\n"}),
    ],
)
def test_names_are_found_in_both_unicode_forms(
    tmp_path: Path, audio: str, texts: dict[str, str], on_disk: Form, written: Form
) -> None:
    assert read(tmp_path, on_disk(audio), {name: written(text) for name, text in texts.items()}) == 0.5


def test_of_two_forms_the_written_one_is_taken(tmp_path: Path) -> None:
    soundfile.write(tmp_path / composed("é.wav"), np.full(16000, 0.1), 16000)
    assert read(tmp_path, decomposed("é.wav"), {"metadata.csv": f"file_name,text\n{composed('é.wav')},one\n"}) == 1.0
