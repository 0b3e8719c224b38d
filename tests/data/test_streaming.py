"""Streamed training: no copies, no lost rows, and resumed runs continue where they were."""

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch

from finetune.cli import main
from finetune.data import streaming
from finetune.data.batching import Shard
from finetune.data.streaming import StreamedBatches
from finetune.recipe.load import load_recipe
from finetune.recipe.training_section import TrainingSection
from finetune.run.experiment import run
from finetune.run.preparation import Preparation, prepare


def cut_flac(wav: bytes) -> bytes:
    """A FLAC file with a header for more samples than it has, which only decoding shows."""
    samples, rate = soundfile.read(io.BytesIO(wav))
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format="FLAC")
    return encoded.getvalue()[: len(encoded.getvalue()) * 2 // 3]


@pytest.fixture
def shards(tmp_path: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 training utterances in four Parquet shards, one without audio, one truncated; one shard per other split."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    # At the end of a Parquet file `datasets` waits 5 s for pyarrow's threads.
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    # Windows of fewer rows than there are.
    monkeypatch.setattr(streaming, "_WINDOW", 10)
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, shard_count in (("train", 4), ("validation", 1), ("test", 1)):
        lines = (corpus_folder / split / "metadata.csv").read_text().splitlines()[1:]
        rows = [line.split(",") for line in lines]
        for shard in range(shard_count):
            chosen = rows[shard::shard_count]
            cells = [{"bytes": (corpus_folder / split / name).read_bytes(), "path": name} for name, *_ in chosen]
            if (split, shard) == ("train", 2):
                cells[1] = {"bytes": b"", "path": cells[1]["path"]}
                cells[2] = {"bytes": cut_flac(cells[2]["bytes"]), "path": cells[2]["path"]}
            table = pyarrow.table(
                {"audio": cells, "text": [row[1] for row in chosen], "speaker": [row[2] for row in chosen]}
            )
            pyarrow.parquet.write_table(table, folder / f"{split}-{shard}.parquet")
    return folder


def streamed(preparation: Preparation, first_step: int = 0, rank: int = 0, processes: int = 1) -> StreamedBatches:
    assert preparation.stream is not None
    data = preparation.batches(TrainingSection(mask_time_probability=0.1, mask_time_length=5, seed=3))
    return StreamedBatches(preparation.stream, data.options, 6.0, Shard(first_step, 2, rank, processes))


@pytest.fixture
def preparation(shards: Path, tmp_path: Path, write_recipe: Callable[..., Path]) -> Preparation:
    return prepare(load_recipe(write_recipe(tmp_path, data={"root": str(shards), "streaming": True})))


def same(first: Any, second: Any) -> bool:
    return torch.equal(first.input_values, second.input_values) and torch.equal(first.labels, second.labels)


def test_each_utterance_occurs_once_per_epoch_and_skipped_ones_are_reported_once(preparation: Preparation) -> None:
    lengths: list[int] = []
    rejected = []
    for batch in itertools.islice(streamed(preparation), 60):
        rejected += batch.unreadable
        pairs = zip(batch.attention_mask, batch.label_lengths.tolist(), strict=True)
        lengths += [int(mask.sum()) for mask, labels in pairs if labels]
    # All of the stream's utterances are in its beginning, here; only decoding shows that one is cut.
    own = sorted(round(u.seconds * 16000) for u in preparation.train.utterances if u.name != "10.wav")
    assert len(own) == 22
    assert sorted(lengths[:22]) == sorted(lengths[22:44]) == own
    assert lengths[:22] != lengths[22:44]
    names = {rejection.name: rejection.reason.split()[0] for rejection in rejected}
    assert len(rejected) == 2 and names.keys() == {"06.wav", "10.wav"} and names["06.wav"] == "unreadable"


def test_the_same_batches_again_and_after_a_resume(preparation: Preparation) -> None:
    whole = list(itertools.islice(streamed(preparation).loader(), 12))
    again = list(itertools.islice(streamed(preparation).loader(), 12))
    resumed = list(itertools.islice(streamed(preparation, first_step=3).loader(), 6))
    assert all(map(same, whole, again))
    assert all(map(same, whole[6:], resumed))


def test_two_processes_share_the_batches_of_one(preparation: Preparation) -> None:
    whole = list(itertools.islice(streamed(preparation), 12))
    for rank in (0, 1):
        mine = list(itertools.islice(streamed(preparation, rank=rank, processes=2), 6))
        assert all(map(same, whole[rank::2], mine))


@pytest.mark.long
def test_a_run_streams_and_copies_nothing(
    shards: Path, tmp_path: Path, write_recipe: Callable[..., Path], logged: list[str]
) -> None:
    recipe = write_recipe(tmp_path, data={"root": str(shards), "streaming": True}, training={"max_steps": 3})
    scores = run(load_recipe(recipe), tmp_path / "run").scores
    assert scores.utterances == 6
    assert any("train: streamed, of the first rows 23 utterances" in line for line in logged)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.suffix == ".arrow"]
    assert len((tmp_path / "run" / "rejected.csv").read_text().splitlines()) >= 2
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_a_stream_without_a_validation_split_is_refused(
    shards: Path, tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (shards / "validation-0.parquet").unlink()
    assert main(["check", str(write_recipe(tmp_path, data={"root": str(shards), "streaming": True}))]) == 2
    assert "no validation split" in capsys.readouterr().err


def test_local_files_of_other_formats_are_not_streamed(
    corpus_folder: Path, tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(write_recipe(tmp_path, data={"root": str(corpus_folder), "streaming": True}))]) == 2
    assert "can't be streamed" in capsys.readouterr().err
    file = str(corpus_folder / "train" / "metadata.csv")
    assert main(["check", str(write_recipe(tmp_path, data={"root": file, "streaming": True}))]) == 2
    assert "can't be streamed" in capsys.readouterr().err


@pytest.mark.long
def test_a_stream_is_mixed_with_local_data_by_weight(
    shards: Path,
    corpus_folder: Path,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    make_corpus: Callable[..., Path],
) -> None:
    make_corpus(tmp_path / "short" / "train", ["dad"] * 4)
    (tmp_path / "short" / "train" / "02.wav").write_bytes(b"")
    sources = [
        {"root": str(shards), "streaming": True, "weight": 3},
        {"root": str(tmp_path / "short")},
        {"root": str(corpus_folder), "train_split": "test", "weight": 2},
    ]
    recipe = load_recipe(write_recipe(tmp_path, data={"root": None, "sources": sources}))
    preparation = prepare(recipe)
    assert preparation.stream is not None
    batches = streamed(preparation)
    windows = itertools.islice(batches._windows(), 60)
    utterances = [utterance for _, split in windows for utterance in split.utterances]
    counts = Counter(Path(utterance.source).name for utterance in utterances)
    total = sum(counts.values())
    assert {name: round(6 * count / total, 1) for name, count in counts.items()} == pytest.approx(
        {"shards": 3, "short": 1, corpus_folder.name: 2}, abs=0.4
    )
    rejected = [r for batch in itertools.islice(batches, 60) for r in batch.unreadable]
    assert {(Path(r.source).name, r.name, r.row) for r in rejected if r.source != str(shards)} == {
        ("short", "02.wav", 2)
    }
    assert len(rejected) == 3  # Each once, though the short source has come round many times.
    whole = list(itertools.islice(streamed(preparation).loader(), 12))
    resumed = list(itertools.islice(streamed(preparation, first_step=3).loader(), 6))
    assert all(map(same, whole[6:], resumed))


def test_a_streamed_speaker_has_the_same_name_in_all_splits(
    shards: Path, tmp_path: Path, write_recipe: Callable[..., Path], make_corpus: Callable[..., Path]
) -> None:
    make_corpus(tmp_path / "short" / "train", ["dad"] * 4)
    sources = [{"root": str(shards), "streaming": True}, str(tmp_path / "short")]
    preparation = prepare(load_recipe(write_recipe(tmp_path, data={"root": None, "sources": sources})))
    assert {utterance.speaker for utterance in preparation.validation.utterances} == {
        f"shards/validation-{number}" for number in range(3)
    }
    _, window = next(streamed(preparation)._windows())
    known = {utterance.speaker for utterance in preparation.train.utterances}
    assert {utterance.speaker for utterance in window.utterances} <= known
    assert {str(speaker).split("/")[0] for speaker in known} == {"shards", "short"}
