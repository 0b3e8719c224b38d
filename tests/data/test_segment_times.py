"""Segments in manifests: the names of columns with times, and times that contradict each other."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.audio.waveforms import AudioError, read_seconds
from finetune.data.corpus import AudioSpec, prepare_split
from finetune.data.sources import Source, Table, load_splits, select_table
from finetune.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "long.wav", 0.1 * np.sin(np.arange(16000 * 10) / 5), 16000)
    return tmp_path


def table_of(file: Path, split: str = "train") -> Table:
    source = Source(str(file))
    return select_table(load_splits(source), split, source)


def segment_of(table: Table, row: int) -> tuple[float, float | None] | str:
    """The start and end of a row's segment, or the reason that there is none."""
    try:
        recording = table.recording(row)
        read_seconds(recording)
    except AudioError as error:
        return str(error)
    return recording.start, recording.end


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    "columns",
    [
        ("start", "end"),
        ("start_time", "end_time"),
        ("begin_time", "end_time"),
        ("begin", "end"),
        ("offset", "end"),
        ("offset", "duration"),
        ("start", "duration"),
        ("Start_Time", "End_Time"),
    ],
)
def test_usual_columns_of_times_are_segments_of_a_long_file(
    folder: Path, suffix: str, columns: tuple[str, str]
) -> None:
    to_end = {"duration": lambda start, end: end - start}.get(columns[1], lambda start, end: end)
    rows = [(start, to_end(start, end), text) for start, end, text in ((0.5, 1.25, "one"), (2, 4, "two"))]
    names = ("audio", *columns, "text")
    if suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, ("long.wav", *row), strict=True))) for row in rows]
    else:
        sign = "," if suffix == ".csv" else "\t"
        lines = [sign.join(map(str, cells)) for cells in (names, *(("long.wav", *row) for row in rows))]
    (folder / f"list{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = table_of(folder / f"list{suffix}")
    assert [segment_of(table, row) for row in (0, 1)] == [(0.5, 1.25), (2.0, 4.0)]
    assert table.texts() == ["one", "two"]


@pytest.mark.parametrize(
    ("columns", "cells", "segment"),
    [
        # The duration beside an end is that of the segment, rounded, or that of the recording.
        ("start,end,duration", "2,3.25,1.3", (2.0, 3.25)),
        ("start,end,duration", "2,3,10", (2.0, 3.0)),
        ("start,end,duration", "2,3,-1", (2.0, 3.0)),
        ("start,end,duration", "2,4,1", "inconsistent segment: from 2 to 4 s, with a duration of 1 s"),
        ("start,end,offset,duration", "2,3,2.0,1", (2.0, 3.0)),
        ("start,end,offset,duration", "2,3,4,1", "inconsistent segment: its start is 2 s and its offset is 4 s"),
        ("start,end,end_time", "2,3,5", "inconsistent segment: its end is 3 s and its end_time is 5 s"),
        ("start_time", "2", "incomplete segment: a start at 2 s, and no column end or duration"),
        ("end", "2", "incomplete segment: an end at 2 s, and no column start or offset"),
        ("start,end", "2,", (2.0, None)),
        ("start,end", ",2", (0.0, 2.0)),
        ("start,end", ",", (0.0, None)),
        ("start,end,duration", "2,,3", (2.0, 5.0)),
        ("offset,duration", "2,-1", (2.0, None)),
        ("duration", "3", (0.0, None)),
        ("start_time,end_time", "3,2", "impossible segment: from 3 to 2 s"),
        ("start_time,end_time", "0:02,0:03", "impossible segment: its start_time is '0:02', not a number of seconds"),
        ("start_time,end_time", "nan,3", "impossible segment: its start_time is 'nan', not a number of seconds"),
        ("start_time,end_time", "2000,3000", "segment outside the audio: ends at 3000 s, the audio at 10 s"),
    ],
)
def test_times_that_leave_a_segment_open_are_named(
    folder: Path, columns: str, cells: str, segment: tuple[float, float | None] | str
) -> None:
    (folder / "list.csv").write_text(f"audio,{columns},text\nlong.wav,{cells},one\n", encoding="utf-8")
    assert segment_of(table_of(folder / "list.csv"), 0) == segment


def test_a_row_of_json_without_an_end_that_others_have_goes_on_to_the_recordings(folder: Path) -> None:
    rows = [{"audio": "long.wav", "text": "a", "start": 2, "end": 3}, {"audio": "long.wav", "text": "b", "start": 4}]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = table_of(folder / "list.jsonl")
    assert [segment_of(table, row) for row in (0, 1)] == [(2.0, 3.0), (4.0, None)]


def test_a_row_with_a_bad_segment_stays_in_its_split(folder: Path) -> None:
    rows = "train,1,2\ntest,1,2\ntest,soon,2\nother,1,2\n,9,soon\n"
    lines = "".join(f"long.wav,one,{row}\n" for row in rows.splitlines())
    (folder / "metadata.csv").write_text(f"audio,text,split,start,end\n{lines}", encoding="utf-8")
    splits = load_splits(Source(str(folder)))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "test": 2, "other": 1}
    assert "not a number of seconds" in str(segment_of(table_of(folder, "test"), 1))


def test_times_of_something_else_are_refused_with_advice(folder: Path) -> None:
    """Such as the date of each recording, or the place of each file in one that was cut before."""
    rows = "long.wav,2026-01-02T10:00:00,2026-01-02T10:00:10,one\n" * 2
    (folder / "list.csv").write_text(f"audio,start_time,end_time,text\n{rows}", encoding="utf-8")
    with pytest.raises(
        UserError,
        match=r"2 × impossible segment\. The first: its start_time is '2026-01-02T10:00:00', not a number of seconds\. "
        r"Segments have seconds of their recording in columns .*: rename such columns if they mean something else\.$",
    ):
        prepare_split("train", table_of(folder / "list.csv"), (), AudioSpec(16000, ((10, 5),)))
