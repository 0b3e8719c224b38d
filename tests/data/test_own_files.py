"""Rows of a data set can only refer to embedded bytes and the data set's own files, here or on a network."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from finetune.audio.waveforms import AudioError
from finetune.cli import main
from finetune.data.own_files import lies_in, undecoded
from finetune.data.sources import Source, Table, load_splits, select_table
from finetune.errors import UserError

COMMIT = "0" * 40


def table_of_hub(*paths: str, **source: Any) -> Table:
    """A split of team/speech as `datasets` gives it, with audio at these paths."""
    rows = datasets.Dataset.from_dict({"audio": [{"bytes": None, "path": path} for path in paths], "text": paths})
    return select_table({"train": rows}, "train", Source("team/speech", **source))


def name_path(path: str) -> str:
    """The same in each process of a session, whose caches are in folders with random names."""
    for place in (constants.HF_HUB_CACHE, str(datasets.config.EXTRACTED_DATASETS_PATH)):
        path = path.replace(place, "cache")
    return path


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "file:///etc/hostname",
        "http://127.0.0.1:9/diary.wav",
        "diary.wav",
        "hf://datasets/team/private@main/diary.wav",
        "hf://datasets/team/speech@main/../../private/diary.wav",
        f"{constants.HF_HUB_CACHE}/datasets--team--private/snapshots/{COMMIT}/diary.wav",
        f"{constants.HF_HUB_CACHE}/datasets--team--speech/../datasets--team--private/diary.wav",
        "zip://diary.wav::/home/me/diary.zip",
        "zip://diary.wav::http://127.0.0.1:9/diary.zip",
        f"http://127.0.0.1:9/::hf://datasets/team/speech@{COMMIT}/a.wav",
        f"filecache://::hf://datasets/team/speech@{COMMIT}/a.wav",
    ],
    ids=name_path,
)
def test_a_row_of_a_hub_cannot_read_other_files(path: str) -> None:
    with pytest.raises(AudioError, match=r"^outside the corpus .*allow-outside reads it\): "):
        table_of_hub(path).recording(0)
    assert table_of_hub(path, allow_outside=True).recording(0).path == path


@pytest.mark.parametrize(
    "path",
    [
        f"{constants.HF_HUB_CACHE}/datasets--team--speech/snapshots/{COMMIT}/data/a.wav",
        f"{datasets.config.EXTRACTED_DATASETS_PATH}/{COMMIT}/a.wav",
        f"hf://datasets/team/speech@{COMMIT}/data/a.wav",
        f"zip://data/a.wav::hf://datasets/team/speech@{COMMIT}/a.zip",
        f"zip://a.wav::{constants.HF_HUB_CACHE}/datasets--team--speech/snapshots/{COMMIT}/a.zip",
    ],
    ids=name_path,
)
def test_a_row_of_a_hub_can_read_its_own_files(path: str) -> None:
    assert table_of_hub(path).recording(0).path == path


def test_a_file_name_with_colons_is_a_file(tmp_path: Path) -> None:
    assert lies_in(f"{tmp_path}/a::b.wav", (str(tmp_path),))


def test_other_columns_of_media_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` would open an image at a URL, or a second recording, when a row is read."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    elsewhere = {"bytes": None, "path": "http://127.0.0.1:9/leak"}
    features = datasets.Features(
        {
            "audio": datasets.Audio(),
            "text": datasets.Value("string"),
            "picture": datasets.Image(),
            "other": datasets.Audio(),
            "many": datasets.List(datasets.Image()),
        }
    )
    row = {"audio": {"bytes": b"RIFF", "path": None}, "text": "ab", "picture": elsewhere, "other": elsewhere}
    table = pyarrow.Table.from_pylist([{**row, "many": [elsewhere]}], features.arrow_schema)
    (tmp_path / "corpus").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "corpus" / "train.parquet")
    for streaming in (False, True):
        source = Source(str(tmp_path / "corpus"), streaming=streaming)
        rows = undecoded(load_splits(source)["train"])
        assert next(iter(rows))["audio"]["bytes"] == b"RIFF"
    (values,) = select_table(load_splits(Source(source.root)), "train", Source(source.root)).values()
    assert values["text"] == "ab" and values["other"] == elsewhere


def test_a_repository_whose_readme_names_other_files_is_refused(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    diary = tmp_path / "home" / "diary.csv"
    diary.parent.mkdir()
    diary.write_text("audio,text\nx.wav,dear diary\n")
    folder = hub.folder / "datasets" / "team" / "speech"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {diary}\n---\n")
    with pytest.raises(UserError, match=r"Data files don't belong to team/speech"):  # `datasets` says so.
        load_splits(Source("team/speech"))


def test_a_report_on_a_repository_has_no_other_recordings(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, corpus_folder: Path
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    diary, good = corpus_folder / "train" / "00.wav", corpus_folder / "test" / "00.wav"
    cells = [{"bytes": good.read_bytes(), "path": "good.wav"}, {"bytes": None, "path": str(diary)}]
    (hub.folder / "datasets" / "team" / "speech").mkdir(parents=True)
    table = pyarrow.table({"audio": cells, "text": ["ab", "cab"]})
    pyarrow.parquet.write_table(table, hub.folder / "datasets" / "team" / "speech" / "test.parquet")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(model_folder), "--data", "team/speech", "--report", "report", "--audio"]) == 0
    lines = (tmp_path / "report" / "utterances.jsonl").read_text().splitlines()
    assert len(lines) == 1 and "good.wav" in lines[0]


def test_a_corpus_can_be_named_by_a_link_and_its_files_by_the_target(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    for name, root in (("link", "corpus"), ("corpus", "link")):
        assert lies_in(str(tmp_path / name / "a.wav"), (str(tmp_path / root),))
        assert not lies_in(str(tmp_path / "b.wav"), (str(tmp_path / root),))
