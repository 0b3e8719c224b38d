"""Folders that `save_to_disk` of `datasets` writes: splits, embedded audio, formats, damage."""

import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from finetune.audio.waveforms import AudioError, read_seconds
from finetune.data.sources import Source, Table, load_splits, select_table
from finetune.errors import UserError

Rows = list[tuple[str, str | None, str | None]]


def make_rows(corpus_folder: Path, count: int = 3, **columns: list[Any]) -> datasets.Dataset:
    """Utterances whose audio is files, which `save_to_disk` embeds."""
    files = [str(corpus_folder / "test" / f"{number:02d}.wav") for number in range(count)]
    texts = [f"text {number}" for number in range(count)]
    rows = datasets.Dataset.from_dict({"audio": files, "sentence": texts, **columns})
    return rows.cast_column("audio", datasets.Audio())


def table_of(root: Path, split: str = "train", **options: Any) -> Table:
    source = Source(str(root), **options)
    return select_table(load_splits(source), split, source)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_saved_data_set_is_read_in_place(tmp_path: Path, corpus_folder: Path, shards: int) -> None:
    rows = make_rows(corpus_folder, speaker_id=["ann", "", "ben"])
    rows.save_to_disk(tmp_path / "saved", num_shards=shards)
    assert sorted(file.name for file in (tmp_path / "saved").iterdir())[-2:] == ["dataset_info.json", "state.json"]
    table = table_of(tmp_path / "saved")
    assert table.texts() == ["text 0", "text 1", "text 2"] and table.speakers() == ["ann", None, "ben"]
    assert table.name(2) == "02.wav"
    assert table.recording(2).data == (corpus_folder / "test" / "02.wav").read_bytes()
    assert read_seconds(table.recording(2)) > 0
    assert all(Path(file["filename"]).parent == tmp_path / "saved" for file in table.rows.cache_files)


def test_a_saved_dictionary_has_its_splits(tmp_path: Path, corpus_folder: Path) -> None:
    names = {"train": 3, "dev": 2, "test": 1, "noisy": 1}
    splits = datasets.DatasetDict({name: make_rows(corpus_folder, count) for name, count in names.items()})
    splits.save_to_disk(tmp_path / "up" / "saved")
    found = load_splits(Source(str(tmp_path / "up")))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 3, "validation": 2, "test": 1, "noisy": 1}
    assert list(load_splits(Source(str(tmp_path / "up" / "saved" / "dev")))) == ["validation"]
    (tmp_path / "up" / "saved" / "dataset_dict.json").unlink()  # As if each had been saved alone.
    assert load_splits(Source(str(tmp_path / "up" / "saved"))).keys() == found.keys()


def test_data_sets_without_names_of_splits_in_one_folder_are_several_corpora(
    tmp_path: Path, corpus_folder: Path
) -> None:
    for name in ("mine", "yours"):
        make_rows(corpus_folder).save_to_disk(tmp_path / name)
    with pytest.raises(UserError, match=r"several corpora: .*mine, .*yours; name one of them"):
        load_splits(Source(str(tmp_path)))
    assert list(load_splits(Source(str(tmp_path / "mine")))) == ["train"]


def test_the_format_and_the_selection_of_a_saved_data_set(tmp_path: Path, corpus_folder: Path) -> None:
    """A format hides columns, or makes tensors of cells; rows that were not selected are not saved."""
    rows = make_rows(corpus_folder).select([2, 0])
    rows.set_format("torch", columns=["sentence"])
    rows.save_to_disk(tmp_path)
    table = table_of(tmp_path)
    assert table.texts() == ["text 2", "text 0"] and table.name(0) == "02.wav"


@pytest.mark.parametrize("name", ["/etc/hostname", "a.wav"])
def test_a_saved_data_set_reads_no_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    datasets.Dataset.from_dict({"audio": [name], "text": ["leak"]}).save_to_disk(tmp_path)
    with pytest.raises(AudioError, match=r"outside the corpus \(data\.allow_outside=true"):
        table_of(tmp_path).recording(0)


@pytest.mark.parametrize("cell", [{"array": [0.1, 0.2], "sampling_rate": 16000, "path": "a.wav"}, [0.1, 0.2]])
def test_samples_in_the_place_of_audio_are_refused(tmp_path: Path, cell: object) -> None:
    datasets.Dataset.from_dict({"audio": [cell], "text": ["one"]}).save_to_disk(tmp_path)
    with pytest.raises(
        UserError, match=r"is samples in its column audio: expected .* rows\.cast_column\('audio', datasets\.Au"
    ):
        table_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data-00001-of-00002.arrow", None, ".*No such file or directory: .*data-00001-of-00002"),
        ("data-00001-of-00002.arrow", 1000, "Expected to .*read .* bytes"),
        ("state.json", b"{}", "KeyError '_data_files'"),
        ("state.json", b"[]", "list indices"),
        ("state.json", None, ".*neither a `Dataset` directory nor"),
        ("dataset_info.json", b"{", "Expecting property name"),
        ("dataset_info.json", None, ".*neither a `Dataset` directory nor"),
    ],
)
def test_a_damaged_folder_is_refused(
    tmp_path: Path, corpus_folder: Path, name: str, content: bytes | int | None, words: str
) -> None:
    make_rows(corpus_folder).save_to_disk(tmp_path, num_shards=2)
    if content is None:
        (tmp_path / name).unlink()
    elif isinstance(content, int):
        os.truncate(tmp_path / name, content)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=rf"can't be read as save_to_disk of `datasets` writes it: {words}.*; copy the w"
    ):
        load_splits(Source(str(tmp_path)))


def test_a_split_of_a_dictionary_that_is_not_there_is_refused(tmp_path: Path, corpus_folder: Path) -> None:
    datasets.DatasetDict({"train": make_rows(corpus_folder), "test": make_rows(corpus_folder)}).save_to_disk(tmp_path)
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(UserError, match=r"can't be read as save_to_disk of `datasets` writes it: .*test"):
        load_splits(Source(str(tmp_path)))


def test_arrow_files_beside_a_table_and_one_alone_are_refused(tmp_path: Path, corpus_folder: Path) -> None:
    make_rows(corpus_folder).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"is a part of a data set: name its folder, .*saved, or the one above it"):
        load_splits(Source(str(tmp_path / "saved" / "data-00000-of-00001.arrow")))
    (tmp_path / "saved" / "train.csv").write_text("file_name,text\na.wav,one\n")
    with pytest.raises(UserError, match=r"tables \(train\.csv\) and Arrow files \(data-00000-of-00001\.arrow\)"):
        load_splits(Source(str(tmp_path / "saved")))


def test_a_saved_data_set_cannot_be_streamed(tmp_path: Path, corpus_folder: Path) -> None:
    make_rows(corpus_folder).save_to_disk(tmp_path)
    with pytest.raises(UserError, match=r"remove data\.streaming, since other files are read in place"):
        load_splits(Source(str(tmp_path), streaming=True))
