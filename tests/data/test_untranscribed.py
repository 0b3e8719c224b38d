"""Speech without transcripts: folders of audio alone, and tables without a text column."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.data.corpus import AudioSpec, prepare_split
from finetune.data.sources import Source, load_splits, select_table
from finetune.errors import UserError


def write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32), 16000)


def names(root: Path, **values) -> dict[str, list[str]]:
    source = Source(str(root), transcribed=False, **values)
    splits = load_splits(source)
    spec = AudioSpec(16000, ((10, 5),))
    found = {}
    for split in splits:
        prepared = prepare_split(split, select_table(splits, split, source), (), spec)
        assert all(each.transcript == "" for each in prepared.utterances)
        found[split] = [each.name for each in prepared.utterances]
    return found


def test_a_folder_of_audio_is_one_split(tmp_path):
    for name in ("b.wav", "a/c.flac", "a/deeper/d.wav"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not audio")
    assert names(tmp_path) == {"train": ["c.flac", "d.wav", "b.wav"]}


def test_hidden_files_and_folders_are_no_utterances(tmp_path):
    for name in ("a.wav", "._a.wav", ".ipynb_checkpoints/a.wav", "b/.trash/c.wav", "b/d.wav"):
        write(tmp_path / ".corpora" / name)
    assert names(tmp_path / ".corpora") == {"train": ["a.wav", "d.wav"]}


def test_folders_with_usual_names_are_splits_and_others_are_not(tmp_path):
    for name in ("train/a.wav", "dev/b.wav", "speaker7/c.wav"):
        write(tmp_path / name)
    assert names(tmp_path) == {"train": ["c.wav", "a.wav"], "validation": ["b.wav"]}


def test_a_table_needs_no_text_and_a_text_is_not_read(tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("file_name,speaker\na.wav,s\n")
    assert names(tmp_path) == {"train": ["a.wav"]}
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,\n")
    assert names(tmp_path) == {"train": ["a.wav"]}


def test_where_transcripts_are_needed_audio_alone_is_no_corpus(tmp_path):
    write(tmp_path / "a.wav")
    with pytest.raises(UserError, match="has no transcripts"):
        load_splits(Source(str(tmp_path)))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no transcripts"):
        load_splits(Source(str(tmp_path), transcribed=False))


def test_a_corpus_with_transcripts_has_the_same_utterances_without(corpus_folder, tmp_path):
    copy = shutil.copytree(corpus_folder, tmp_path / "copy")
    assert {split: len(found) for split, found in names(copy).items()} == {"train": 24, "validation": 6, "test": 6}
