"""The corrections of the simulated year, before any training."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from simulate_year import Correction, make_batches, shuffle_texts, write_snapshot

SPEAKERS = [f"s{number}" for number in range(12)]


@pytest.fixture
def corrections(tmp_path: Path) -> list[Correction]:
    """Ten utterances of each speaker, all with another text."""
    (tmp_path / "audio").mkdir()
    made = []
    for speaker in SPEAKERS:
        for number in range(10):
            file = tmp_path / "audio" / f"{speaker}-{number}.wav"
            soundfile.write(file, np.ones(1600) / 10, 16000)
            made.append(Correction(file, f"{speaker} {number}", speaker))
    return made


def test_speakers_arrive_once_and_a_share_of_texts_is_wrong(corrections):
    batches = make_batches(corrections, 3, 0.1)
    arrived = [{each.speaker for each in batch} for batch in batches]
    assert [len(speakers) for speakers in arrived] == [4, 4, 4]
    assert set.union(*arrived) == set(SPEAKERS)
    true = {each.audio: each.text for each in corrections}
    wrong = sum(true[each.audio] != each.text for batch in batches for each in batch)
    assert 9 <= wrong <= 12  # A drawn text may be its own.
    assert batches == make_batches(corrections, 3, 0.1)
    assert sum(true[each.audio] != each.text for batch in make_batches(corrections, 3, 0) for each in batch) == 0


def test_a_snapshot_has_no_speaker_in_two_splits(corrections, tmp_path):
    batches = make_batches(corrections, 3, 0)
    folder = write_snapshot(tmp_path / "snapshot", batches[:2])
    speakers = {}
    for split in ("train", "validation", "test"):
        with (folder / split / "metadata.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert all((folder / split / row["file_name"]).is_file() and row["domain"] == "an4" for row in rows)
        speakers[split] = {row["speaker"] for row in rows}
    assert [len(each) for each in speakers.values()] == [4, 2, 2]
    assert len(set.union(*speakers.values())) == 8


def test_a_poisoned_batch_has_the_same_texts_for_other_audio(corrections):
    poisoned = shuffle_texts(corrections, seed=1)
    assert Counter(each.text for each in poisoned) == Counter(each.text for each in corrections)
    assert sum(a.text == b.text for a, b in zip(poisoned, corrections, strict=True)) < 5
    assert shuffle_texts(corrections, seed=2) != poisoned
