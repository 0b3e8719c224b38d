"""Each utterance is used or listed with a reason; held-out speakers are not in the kept part."""

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from finetune.data.corpus import (
    AudioSpec,
    SkippedUtterance,
    Split,
    frames_needed,
    hold_out,
    prepare_split,
    write_rejected,
)
from finetune.data.sources import JoinedTables, Source, Table, load_splits, select_table
from finetune.errors import UserError
from finetune.text.transcripts import DEFAULT_TRANSFORMS

ENCODER = tuple(zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True))
LIMITS = AudioSpec(16000, ENCODER, min_seconds=0.1, max_seconds=2.0)


def read_table(folder: Path) -> Table:
    source = Source(str(folder))
    return select_table(load_splits(source), "train", source)


def write_utterances(folder: Path, utterances: dict[str, tuple[float | None, str]]) -> Table:
    """For each name noise of a number of seconds (None: no file), with its transcript."""
    rows = [["file_name", "text"]]
    for name, (seconds, transcript) in utterances.items():
        if seconds is not None:
            noise = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16000))
            soundfile.write(folder / name, noise, 16000)
        rows.append([name, transcript])
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return read_table(folder)


def test_num_frames_equals_the_encoders(base_folder: Path) -> None:
    import torch
    from transformers import Wav2Vec2Model

    encoder = Wav2Vec2Model.from_pretrained(base_folder).eval()
    for samples in (400, 719, 720, 16000, 16333):
        with torch.inference_mode():
            frames = encoder(torch.zeros(1, samples)).last_hidden_state.shape[1]
        assert LIMITS.num_frames(samples) == frames
    assert LIMITS.num_frames(100) == 0


@pytest.mark.parametrize(("transcript", "frames"), [("", 0), ("a", 1), ("abc", 3), ("aa", 3), ("hello book", 12)])
def test_ctc_needs_a_frame_for_each_letter_and_a_blank_between_equal_ones(transcript: str, frames: int) -> None:
    assert frames_needed(transcript) == frames


def test_each_reason_is_listed_and_usable_utterances_are_kept(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    table = write_utterances(
        tmp_path,
        {
            "good.wav": (1.0, "Good!"),
            "short.wav": (0.05, "a"),
            "long.wav": (2.5, "a"),
            "silent.wav": (1.0, "…"),
            "zero.wav": (0.0, "a"),
            "text.wav": (None, "a"),
            "missing.wav": (None, "a"),
            "fast.wav": (0.2, "ten letters"),  # 9 frames
            "also.wav": (1.5, "fine"),
        },
    )
    split = prepare_split("train", table, DEFAULT_TRANSFORMS, LIMITS, training=True)
    assert [(u.name, u.transcript, u.raw_transcript) for u in split.utterances] == [
        ("good.wav", "good", "Good!"),
        ("also.wav", "fine", "fine"),
    ]
    assert split.seconds == pytest.approx(2.5)
    assert {(r.split, r.name, r.reason) for r in split.rejected} == {
        ("train", "short.wav", "too short"),
        ("train", "long.wav", "too long"),
        ("train", "silent.wav", "empty transcript"),
        ("train", "zero.wav", "audio of zero length"),
        ("train", "text.wav", "unreadable audio"),
        ("train", "missing.wav", "no such file"),
        ("train", "fast.wav", "too short for its transcript"),
    }
    assert "9 frames, CTC needs 12" in next(r.detail for r in split.rejected if r.name == "fast.wav")


@pytest.mark.parametrize(("transcript", "used"), [("abababab" + "c", True), ("aaaaa", True), ("aaaaaa", False)])
def test_repeated_letters_need_more_frames(tmp_path: Path, transcript: str, used: bool) -> None:
    table = write_utterances(tmp_path, {"x.wav": (0.2, transcript), "y.wav": (1.0, "a")})  # 9 frames
    names = [u.name for u in prepare_split("train", table, (), LIMITS, training=True).utterances]
    assert names == (["x.wav", "y.wav"] if used else ["y.wav"])


def test_faster_speech_leaves_fewer_frames(tmp_path: Path) -> None:
    table = write_utterances(tmp_path, {"x.wav": (0.2, "abcdefghi"), "y.wav": (1.0, "a")})
    limits = AudioSpec(16000, ENCODER, fastest=1.2)
    assert [u.name for u in prepare_split("train", table, (), limits, training=True).utterances] == ["y.wav"]


def test_a_test_utterance_too_short_for_its_transcript_is_kept(tmp_path: Path) -> None:
    table = write_utterances(tmp_path, {"x.wav": (0.2, "ten letters")})
    assert len(prepare_split("test", table, (), LIMITS).utterances) == 1


def test_if_every_utterance_is_skipped_the_reasons_are_counted(tmp_path: Path) -> None:
    table = write_utterances(tmp_path, {"a.wav": (0.05, "a"), "b.wav": (0.05, "b"), "c.wav": (1.0, "?")})
    with pytest.raises(UserError, match="split 'train' was left out: 2 × too short, 1 × empty transcript"):
        prepare_split("train", table, DEFAULT_TRANSFORMS, LIMITS, training=True)


@pytest.fixture
def split(corpus_folder: Path) -> Split:
    return prepare_split("train", read_table(corpus_folder), DEFAULT_TRANSFORMS, LIMITS, training=True)


@pytest.mark.parametrize("seed", range(4))
def test_held_out_speakers_are_in_no_kept_utterance(split: Split, seed: int) -> None:
    kept, held = hold_out(split, 0.25, seed)
    assert {u.speaker for u in kept.utterances}.isdisjoint({u.speaker for u in held.utterances})
    assert {u.row for u in kept.utterances} | {u.row for u in held.utterances} == set(range(24))
    assert len(held.utterances) == 8  # One of three speakers: the least that holds a quarter.


def test_holding_out_depends_only_on_the_seed(split: Split) -> None:
    assert hold_out(split, 0.25, 1) == hold_out(split, 0.25, 1)
    assert len({hold_out(split, 0.25, seed)[1].utterances[0].speaker for seed in range(8)}) > 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("speakers", "held"), [("n" * 16 + "abcd", {2}), ("n" * 19 + "a", {1})])
def test_a_dominant_speaker_is_kept(
    tmp_path: Path, make_corpus: Callable[..., Path], speakers: str, held: set[int], seed: int
) -> None:
    split = prepare_split("train", read_table(make_corpus(tmp_path, ["ab"] * 20, list(speakers))), (), LIMITS)
    kept, out = hold_out(split, 0.1, seed)
    assert "n" in {u.speaker for u in kept.utterances} and {len(out.utterances)} == held


def test_without_speakers_utterances_are_held_out(tmp_path: Path) -> None:
    table = write_utterances(tmp_path, {f"{i}.wav": (0.5, "a") for i in range(10)})
    kept, held = hold_out(prepare_split("train", table, (), LIMITS), 0.2, 0)
    assert (len(kept.utterances), len(held.utterances)) == (8, 2)


def hold_out_of(table: Table | JoinedTables, fraction: float = 0.25) -> tuple[list[int], list[int]]:
    """The rows that are kept, and those that are held out."""
    kept, held = hold_out(prepare_split("train", table, (), LIMITS), fraction, 0)
    return [each.row for each in kept.utterances], [each.row for each in held.utterances]


def test_files_of_one_name_in_several_folders_are_held_out_one_by_one(tmp_path: Path) -> None:
    """As in FOLDER/talk1/0.wav and FOLDER/talk2/0.wav: all of one name would be too many."""
    for folder in "abcd":
        (tmp_path / folder).mkdir()
        write_utterances(tmp_path / folder, {"0.wav": (0.5, "a"), "1.wav": (0.5, "a")})
        (tmp_path / folder / "metadata.csv").unlink()
    names = [f"{folder}/{number}.wav" for folder in "abcd" for number in range(2)]
    rows = [["file_name", "text"], *([name, "a"] for name in names)]
    (tmp_path / "metadata.csv").write_text("\n".join(map(",".join, rows)))
    kept, held = hold_out_of(read_table(tmp_path), 0.125)
    assert (len(kept), len(held)) == (7, 1)


def test_segments_of_one_recording_are_not_parted(tmp_path: Path) -> None:
    write_utterances(tmp_path, {f"{i}.wav": (1.0, "a") for i in range(4)})
    rows = [f"{i // 2}.wav,a,{i % 2 / 2},{i % 2 / 2 + 0.5}" for i in range(8)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text,start,end", *rows]))
    _, held = hold_out_of(read_table(tmp_path))
    assert held[1] == held[0] + 1 and held[0] % 2 == 0 and len(held) == 2


def test_a_recording_in_two_corpora_is_not_parted(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    write_utterances(one, {f"{i}.wav": (1.0, "a") for i in range(4)})
    for file in one.iterdir():
        (other / file.name).symlink_to(file)
    _, held = hold_out_of(JoinedTables([read_table(one), replace(read_table(other), inside=None)]))
    assert len(held) == 2 and held[1] == held[0] + 4


def test_files_without_numbers_are_told_apart_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_utterances(tmp_path, {f"{i}.wav": (1.0, "a") for i in range(4)})
    stat = os.stat

    def number_none(path: Any, **options: Any) -> os.stat_result:
        found = stat(path, **options)
        return os.stat_result((found.st_mode, 0, *found[2:]))

    monkeypatch.setattr(os, "stat", number_none)
    _, held = hold_out_of(JoinedTables([read_table(tmp_path)]))
    assert len(held) == 1  # As one recording, none of them could be held out.


@pytest.mark.parametrize("named", [True, False])
def test_recordings_in_parquet_are_told_apart_by_their_bytes(tmp_path: Path, named: bool) -> None:
    """Their names may be those of files in several folders, or be missing in each of several sources."""
    write_utterances(tmp_path, {f"{i}.wav": (0.5 + i / 8, "a") for i in range(4)})
    for part in range(2):
        data = [(tmp_path / f"{2 * part + i // 2}.wav").read_bytes() for i in range(4)]
        cells = [{"bytes": each, "path": f"{i}.wav" if named else None} for i, each in enumerate(data)]
        table = pyarrow.table({"audio": cells, "text": ["a"] * 4})
        (tmp_path / f"{part}").mkdir()
        pyarrow.parquet.write_table(table, tmp_path / f"{part}" / "train.parquet")
    _, held = hold_out_of(JoinedTables([read_table(tmp_path / "0"), read_table(tmp_path / "1")]))
    assert held[1] == held[0] + 1 and held[0] % 2 == 0 and len(held) == 2


def test_one_speaker_cant_be_held_out(tmp_path: Path, make_corpus: Callable[..., Path]) -> None:
    table = read_table(make_corpus(tmp_path, ["ab", "cab"], ["ann", "ann"]))
    with pytest.raises(UserError, match=r"has 1 speaker.*data\.validation_split"):
        hold_out(prepare_split("train", table, (), LIMITS), 0.1, 0)


def test_the_list_of_skipped_utterances_is_csv(tmp_path: Path) -> None:
    write_rejected(
        tmp_path / "rejected.csv", [SkippedUtterance("train", 3, 'a, "b".wav', "too short", "0.01 s", "speech")]
    )
    with (tmp_path / "rejected.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["split", "row", "name", "reason", "detail", "source", "source_number"],
            ["train", "3", 'a, "b".wav', "too short", "0.01 s", "speech", "0"],
        ]
    assert [file.name for file in tmp_path.iterdir()] == ["rejected.csv"]
