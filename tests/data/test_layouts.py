"""Layouts of public corpora: splits, texts, speakers and segments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from finetune.audio.waveforms import AudioError, Recording, read_seconds
from finetune.data.sources import Source, Table, load_splits, select_table
from finetune.errors import UserError

Rows = list[tuple[str, str | None, str | None]]


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def write_tone(file: Path, seconds: float = 1.0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.1 * np.sin(np.arange(round(16000 * seconds)) / 5), 16000)
    return file


def table_of(root: Path, split: str = "train", **options: Any) -> Table:
    source = Source(str(root), **options)
    return select_table(load_splits(source), split, source)


def rows_of(table: Table) -> Rows:
    return [(table.name(row), *pair) for row, pair in enumerate(zip(table.texts(), table.speakers(), strict=True))]


def make_kaldi(root: Path) -> Path:
    write_tone(root / "audio" / "r1.wav", 3.0)
    write(root / "wav.scp", "r1 audio/r1.wav\nr2 audio/none.wav\n")
    write(root / "segments", "u1 r1 0.5 1.25\nu2 r1 1.5 2.0\nu3 r9 0 1\nu4 r1 1\nu5 r1 2.5 3.5\n")
    write(root / "text", "u1 hello there\nu2 again\nu3 lost\nu4 cut\nu5 late\n")
    write(root / "utt2spk", "u1 anna\nu2 ben\nu3 ben\nu4 ben\nu5 ben\n")
    return root


def test_kaldi_segments(tmp_path: Path) -> None:
    table = table_of(make_kaldi(tmp_path))
    assert rows_of(table)[:2] == [("r1.wav", "hello there", "anna"), ("r1.wav", "again", "ben")]
    assert table.recording(0) == Recording(str(tmp_path / "audio" / "r1.wav"), None, 0.5, 1.25)
    assert read_seconds(table.recording(0)) == 0.75


def test_a_kaldi_segment_to_minus_one_goes_on_to_the_end(tmp_path: Path) -> None:
    make_kaldi(tmp_path)
    write(tmp_path / "segments", "u1 r1 0.5 -1\nu2 r1 1 -1.00 0\nu3 r1 1 -2\n")
    table = table_of(tmp_path)
    assert [read_seconds(table.recording(row)) for row in (0, 1)] == [2.5, 2.0]
    with pytest.raises(AudioError, match="impossible segment: from 1 to -2 s"):
        read_seconds(table.recording(2))


@pytest.mark.parametrize("folder", ["train", "data/train", "dump/raw/org/train"])
def test_kaldi_paths_are_relative_to_a_folder_above(tmp_path: Path, folder: str) -> None:
    """Kaldi's and ESPnet's scripts write them as they are where the scripts run."""
    for name in ("a", "b"):
        write_tone(tmp_path / "wavs" / f"{name}.wav")
    write(tmp_path / folder / "wav.scp", "a wavs/a.wav\nb wavs/b.wav\nc wavs/c.wav\n")
    write(tmp_path / folder / "text", "a one\nb two\nc three\n")
    table = table_of(tmp_path / folder, allow_outside=True)
    assert [read_seconds(table.recording(row)) for row in (0, 1)] == [1.0, 1.0]
    with pytest.raises(AudioError, match=r"no such file: .*/wavs/c\.wav"):
        read_seconds(table.recording(2))
    with pytest.raises(AudioError, match="outside the corpus"):
        table_of(tmp_path / folder).recording(0)


@pytest.mark.parametrize("with_segments", [True, False])
def test_a_duplicate_kaldi_id_is_reported(tmp_path: Path, with_segments: bool) -> None:
    for name in ("a", "b"):
        write_tone(tmp_path / f"{name}.wav")
    write(tmp_path / "wav.scp", "a a.wav\nb b.wav\n" if with_segments else "a a.wav\na b.wav\n")
    if with_segments:
        write(tmp_path / "segments", "a a 0 0.5\na b 0 0.5\n")
    write(tmp_path / "text", "a hello\nb there\n")
    table = table_of(tmp_path)
    assert table.name(0) == "a.wav" and read_seconds(table.recording(0)) > 0
    with pytest.raises(AudioError, match="duplicate id: a"):
        table.recording(1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [(2, "no audio"), (3, None), (4, "segment outside the audio: ends at 3.5 s, the audio at 3 s")],
)
def test_kaldi_segments_that_cannot_be_used_are_rows_with_a_reason(
    tmp_path: Path, row: int, reason: str | None
) -> None:
    table = table_of(make_kaldi(tmp_path))
    if reason is None:  # Without an end a segment goes on to the recording's.
        assert read_seconds(table.recording(row)) == 2.0
        return
    with pytest.raises(AudioError, match=reason):
        read_seconds(table.recording(row))


def test_kaldi_without_segments_and_with_a_folder_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write(tmp_path / split / "wav.scp", "a a.flac\nb /far/b.flac\n")
        write(tmp_path / split / "text", "a one two\n")
    table = table_of(tmp_path, "validation")
    assert rows_of(table) == [("a.flac", "one two", None), ("b.flac", None, None)]
    assert table.recording(0).path == str(tmp_path / "dev" / "a.flac")
    with pytest.raises(AudioError, match="outside the corpus"):
        table.recording(1)


def test_kaldi_commands_are_never_run(tmp_path: Path) -> None:
    write(tmp_path / "wav.scp", f"a touch {tmp_path}/ran |\n")
    write(tmp_path / "text", "a one\n")
    with pytest.raises(UserError, match="creates the audio of a with a command, and commands are not run"):
        load_splits(Source(str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_kaldi_without_transcripts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "wav.scp", "a a.wav\n")
    with pytest.raises(UserError, match="There is no text in"):
        load_splits(Source(str(tmp_path)))


def make_librispeech(root: Path) -> Path:
    for subset, speaker in (("train-clean-100", "19"), ("train-other-500", "25"), ("dev-clean", "84")):
        chapter = root / subset / speaker / "198"
        write(chapter / f"{speaker}-198.trans.txt", f"{speaker}-198-0000 NORTHANGER ABBEY\n{speaker}-198-0001 IT'S I\n")
    return root


@pytest.mark.parametrize("folder", ["", "LibriSpeech"])
def test_librispeech(tmp_path: Path, folder: str) -> None:
    make_librispeech(tmp_path / folder)
    source = Source(str(tmp_path))
    splits = load_splits(source)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "dev-clean": 2,
        "train": 4,
        "train-clean-100": 2,
        "train-other-500": 2,
        "validation": 2,
    }
    table = select_table(splits, "train-clean-100", source)
    assert rows_of(table)[0] == ("19-198-0000.flac", "NORTHANGER ABBEY", "19")
    expected = tmp_path / folder / "train-clean-100" / "19" / "198" / "19-198-0000.flac"
    assert table.recording(0).path == str(expected)


def test_one_subset_of_librispeech(tmp_path: Path) -> None:
    make_librispeech(tmp_path)
    assert rows_of(table_of(tmp_path / "dev-clean", "validation"))[1] == ("84-198-0001.flac", "IT'S I", "84")
    assert list(load_splits(Source(str(tmp_path / "train-other-500")))) == ["train"]


def make_mls(root: Path, suffix: str = ".flac") -> Path:
    """The folders and files of mls_german, whose audio an opus download has as .opus."""
    for number, split in enumerate(("train", "dev", "test")):
        names = [f"{9876 + number}_5432_{place:06}" for place in range(2)]
        texts = "".join(f"{name}\tguten tag nummer {place}\n" for place, name in enumerate(names))
        write(root / split / "transcripts.txt", texts)
        write(root / split / "segments.txt", f"{names[0]}\thttps://archive.org/a.mp3\t1.0\t2.0\n")
        write(root / split / "audio" / str(9876 + number) / "5432" / f"{names[0]}{suffix}", "")
        write_tone(root / split / "audio" / str(9876 + number) / "5432" / f"{names[1]}.wav").rename(
            root / split / "audio" / str(9876 + number) / "5432" / f"{names[1]}{suffix}"
        )
    write(root / "train" / "limited_supervision" / "9hr" / "handles.txt", "9876_5432_000000\n")
    write(root / "metainfo.txt", "SPEAKER | GENDER | PARTITION | MINUTES | BOOK ID | TITLE | CHAPTER\n")
    return root


@pytest.mark.parametrize("suffix", [".flac", ".opus"])
def test_multilingual_librispeech(tmp_path: Path, suffix: str) -> None:
    source = Source(str(tmp_path))  # The folder that the archive is unpacked in.
    root = make_mls(tmp_path / "mls_german", suffix)
    splits = load_splits(source)
    assert sorted(splits) == ["test", "train", "validation"]
    table = select_table(splits, "validation", source)
    assert rows_of(table) == [
        (f"9877_5432_000000{suffix}", "guten tag nummer 0", "9877"),
        (f"9877_5432_000001{suffix}", "guten tag nummer 1", "9877"),
    ]
    assert table.recording(1).path == str(root / "dev" / "audio" / "9877" / "5432" / f"9877_5432_000001{suffix}")
    assert read_seconds(table.recording(1)) == 1.0


def test_one_split_of_multilingual_librispeech(tmp_path: Path) -> None:
    make_mls(tmp_path)
    assert list(load_splits(Source(str(tmp_path / "dev")))) == ["validation"]
    (tmp_path / "train").rename(tmp_path / "hours")
    assert list(load_splits(Source(str(tmp_path / "hours")))) == ["train"]


def test_a_line_of_multilingual_librispeech_without_an_id_is_named(tmp_path: Path) -> None:
    make_mls(tmp_path)
    lines = (tmp_path / "train" / "transcripts.txt").read_text(encoding="utf-8")
    write(tmp_path / "train" / "transcripts.txt", f"{lines}../x\tund mehr\n9876_5432_000009\tfehlt\n")
    table = table_of(tmp_path)
    assert len(table) == 4
    with pytest.raises(AudioError, match=r"no audio: \.\./x is not SPEAKER_BOOK_NUMBER"):
        table.recording(2)
    with pytest.raises(AudioError, match=r"no such file: .*/audio/9876/5432/9876_5432_000009\.flac"):
        read_seconds(table.recording(3))


def test_other_transcripts_txt_are_not_multilingual_librispeech(tmp_path: Path) -> None:
    write(tmp_path / "train" / "transcripts.txt", "a.wav\tone\n")
    write(tmp_path / "train" / "metadata.csv", "file_name,text\na.wav,one\n")
    assert rows_of(table_of(tmp_path)) == [("a.wav", "one", None)]


def make_vctk(root: Path, audio: str = "wav48_silence_trimmed/{0}/{1}_mic{2}.flac") -> Path:
    """The folders and files of VCTK 0.92, or of a version with one file for each utterance."""
    for speaker in ("p225", "s5"):
        for number in (1, 2):
            write(root / "txt" / speaker / f"{speaker}_00{number}.txt", f"Please call Stella {number}.\n")
            for microphone in (1, 2):
                write_tone(root / audio.format(speaker, f"{speaker}_00{number}", microphone))
    write(root / "speaker-info.txt", "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English\n")
    write(root / Path(audio).parts[0] / "log.txt", "p225_001_mic1\n")
    return root


def test_vctk_has_each_utterance_once_and_the_second_microphone_as_a_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_vctk(tmp_path)
    (tmp_path / "wav48_silence_trimmed" / "s5" / "s5_002_mic2.flac").unlink()
    source = Source(str(tmp_path))
    splits = load_splits(source)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} has recordings of an utterance by several microphones: those of mic1 are the split train, the "
        "others mic2"
    ]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4, "mic2": 3}
    table = select_table(splits, "train", source)
    assert rows_of(table)[0] == ("p225_001_mic1.flac", "Please call Stella 1.", "p225")
    assert rows_of(table)[3] == ("s5_002_mic1.flac", "Please call Stella 2.", "s5")
    assert read_seconds(table.recording(3)) == 1.0
    assert rows_of(select_table(splits, "mic2", source))[2] == ("s5_001_mic2.flac", "Please call Stella 1.", "s5")


def test_an_older_vctk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_vctk(tmp_path / "VCTK-Corpus", "wav48/{0}/{1}.wav")
    assert rows_of(table_of(tmp_path))[1] == ("p225_002.wav", "Please call Stella 2.", "p225")
    assert len(table_of(tmp_path)) == 4 and not caplog.records
    (tmp_path / "VCTK-Corpus" / "wav48_silence_trimmed").mkdir()
    with pytest.raises(UserError, match=r"wav48_silence_trimmed and .*wav48 are two versions of VCTK: move one to"):
        table_of(tmp_path)


def test_each_text_and_each_recording_of_vctk_is_a_row(tmp_path: Path) -> None:
    """The texts of p315 are lost, and others lack a recording."""
    make_vctk(tmp_path)
    audio = tmp_path / "wav48_silence_trimmed"
    write_tone(audio / "p315" / "p315_001_mic1.flac")
    write_tone(audio / "p225" / "p225_001_mic1.wav")
    (audio / "p225" / "p225_002_mic1.flac").unlink()
    (tmp_path / "txt" / "s5" / "s5_001.txt").write_bytes("Grüße".encode("latin-1"))
    table = table_of(tmp_path)
    assert [table.texts()[row] for row in (0, 1, 2)] == ["Please call Stella 1.", "Please call Stella 2.", None]
    assert read_seconds(table.recording(2)) == 1.0 and len(table) == 5
    faults = {0: "ambiguous audio: .*mic1.flac or .*mic1.wav", 1: "no audio: of p225/p225_002", 3: "no text: .*UTF-8"}
    for row, fault in faults.items():
        with pytest.raises(AudioError, match=fault):
            table.recording(row)


@pytest.mark.parametrize(
    ("line", "text"), [("LJ1|Printing, in 1440|Printing, in fourteen forty", "fourteen forty"), ("LJ1|a, b", "a, b")]
)
def test_ljspeech(tmp_path: Path, line: str, text: str) -> None:
    write_tone(tmp_path / "wavs" / "LJ1.wav")
    write(tmp_path / "metadata.csv", f'{line}\nLJ2|He said "no|no\n')
    table = table_of(tmp_path)
    assert [name for name, _, _ in rows_of(table)] == ["LJ1.wav", "LJ2.wav"]
    assert str(table.texts()[0]).endswith(text)
    assert read_seconds(table.recording(0)) == 1.0


def test_a_metadata_file_with_a_wavs_folder_is_not_ljspeech(tmp_path: Path) -> None:
    write_tone(tmp_path / "wavs" / "a.wav")
    write(tmp_path / "metadata.csv", "file_name,text\nwavs/a.wav,one\n")
    assert rows_of(table_of(tmp_path)) == [("a.wav", "one", None)]


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        ("a.wav|one two|ann\nb.wav|three four|ben\n", {"text_column": "column2", "speaker_column": "column3"}),
        ("wavs/a.wav|one two|1\nwavs/b.wav|three four|2\n", {"text_column": "column2", "speaker_column": "column3"}),
        ("a|ann|one two\nb|ben|three four\n", {"text_column": "column3", "speaker_column": "column2"}),
        ("name|words|who\na|one two|ann\nb|three four|ben\n", {"text_column": "words", "speaker_column": "who"}),
    ],
)
def test_bars_and_a_wavs_folder_alone_do_not_make_speakers_transcripts(
    tmp_path: Path, lines: str, columns: dict[str, str]
) -> None:
    for name in ("a", "b"):
        write_tone(tmp_path / "wavs" / f"{name}.wav")
    write(tmp_path / "metadata.csv", lines)
    with pytest.raises(UserError, match=rf"no column text .* it has .*{columns['text_column']}.*data\.text_column"):
        table_of(tmp_path)
    table = table_of(tmp_path, **columns)
    assert rows_of(table) == [("a.wav", "one two", "ann"), ("b.wav", "three four", "ben")] or "|1" in lines
    assert table.texts() == ["one two", "three four"] and read_seconds(table.recording(1)) == 1.0


@pytest.mark.parametrize(
    "line", ["a|我有3本书|我有三本书", "a|Dr. X|doctor x", "a.wav|12|twelve\nb|in 2 days|in two days"]
)
def test_normalised_texts_that_differ_are_ljspeech(tmp_path: Path, line: str) -> None:
    write_tone(tmp_path / "wavs" / "a.wav")
    write(tmp_path / "metadata.csv", f"{line}\n")
    assert table_of(tmp_path).texts() == [each.rpartition("|")[2] for each in line.split("\n")]


def test_an_empty_normalised_text_of_ljspeech_is_the_text(tmp_path: Path) -> None:
    write_tone(tmp_path / "wavs" / "a.wav")
    write(tmp_path / "metadata.csv", "a|No. five|number five\na|as it is|\na|so is it| \n")
    assert table_of(tmp_path).texts() == ["number five", "as it is", "so is it"]
    write(tmp_path / "metadata.csv", "a|as it is|\na|so is it|\na|and this|ann\n")  # Speakers.
    with pytest.raises(UserError, match="no column text"):
        table_of(tmp_path)


def test_paths_of_files_and_texts_with_bars_are_a_table(tmp_path: Path) -> None:
    write_tone(tmp_path / "wavs" / "a.wav")
    write(tmp_path / "metadata.csv", "wavs/a.wav|one\n")
    assert rows_of(table_of(tmp_path)) == [("a.wav", "one", None)]
    assert read_seconds(table_of(tmp_path).recording(0)) == 1.0


def test_common_voice(tmp_path: Path) -> None:
    write_tone(tmp_path / "clips" / "cv_1.wav")
    header = "client_id\tpath\tsentence\taccents\n"
    write(tmp_path / "train.tsv", header + 'c1\tcv_1.wav\tSie sagte: "Nein\tBayern\nc2\tcv_2\tDanke.\t\n')
    write(tmp_path / "dev.tsv", header + "c3\tcv_3.mp3\tJa.\t\n")
    write(tmp_path / "reported.tsv", "sentence\treason\n")
    source = Source(str(tmp_path))
    splits = load_splits(source)
    assert sorted(splits) == ["train", "validation"]
    table = select_table(splits, "train", source)
    assert rows_of(table) == [("cv_1.wav", 'Sie sagte: "Nein', "c1"), ("cv_2.mp3", "Danke.", "c2")]
    assert table.rows["accents"] == ["Bayern", ""]
    assert read_seconds(table.recording(0)) == 1.0


def test_a_table_of_common_voice_without_rows_is_refused_with_advice(tmp_path: Path) -> None:
    """As dev.tsv and test.tsv of languages with few recordings."""
    header = "client_id\tpath\tsentence\taccents\n"
    (tmp_path / "clips").mkdir()
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.tsv", header + ("c1\tcv_1.mp3\tEins.\t\n" if name == "train" else ""))
    with pytest.raises(
        UserError,
        match=r"'validation' of .* is empty: name another \(test, train\) with .*validation_split, .* or --split, or, "
        r"to hold out a part of the training split, move its empty table to another folder\.",
    ):
        table_of(tmp_path, "validation")
    with pytest.raises(UserError, match="or, to train without a test, move"):
        table_of(tmp_path, "test")
    (tmp_path / "dev.tsv").unlink()
    assert sorted(load_splits(Source(str(tmp_path)))) == ["test", "train"]


def test_tables_with_a_clips_folder_are_common_voice_only_with_its_columns(tmp_path: Path) -> None:
    write_tone(tmp_path / "clips" / "a.wav")
    write(tmp_path / "train.tsv", "client_id\tclip\twords\nc1\ta.wav\tone\n")
    with pytest.raises(UserError, match=r"has no column text .* it has client_id, clip, words, audio: .*text_column"):
        table_of(tmp_path)
    assert rows_of(table_of(tmp_path, text_column="words")) == [("a.wav", "one", "c1")]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_nemo_manifests(tmp_path: Path, suffix: str) -> None:
    write_tone(tmp_path / "a.wav", 3.0)
    rows = [
        {"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.25, "text": "one"},
        {"audio_filepath": "a.wav", "duration": 3.0, "text": "whole"},
        {"audio_filepath": "a.wav", "offset": "soon", "duration": 1, "text": "never"},
        {"audio_filepath": "a.wav", "offset": 1, "duration": -1, "text": "of unknown length"},
    ]
    manifest = write(tmp_path / f"list{suffix}", "".join(json.dumps(row) + "\n" for row in rows))
    table = table_of(manifest)
    assert table.recording(0) == Recording(str(tmp_path / "a.wav"), None, 0.5, 1.75)
    assert [read_seconds(table.recording(row)) for row in (0, 1, 3)] == [1.25, 3.0, 2.0]
    with pytest.raises(AudioError, match="impossible segment: its offset is 'soon', not a number of seconds"):
        table.recording(2)


def test_a_manifest_with_segments(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 2.0)
    write(tmp_path / "list.csv", "file_name,text,start,end\na.wav,one,0.5,1\na.wav,two,1,\na.wav,three,1.5,0.5\n")
    table = table_of(tmp_path / "list.csv")
    assert [read_seconds(table.recording(row)) for row in (0, 1)] == [0.5, 1.0]
    with pytest.raises(AudioError, match=r"impossible segment: from 1\.5 to 0\.5 s"):
        read_seconds(table.recording(2))


@pytest.mark.parametrize("name", ["text", "wav.scp"])
def test_text_that_is_not_utf_8_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "wav.scp", "a a.wav\n")
    write(tmp_path / "text", "a one\n")
    (tmp_path / name).write_bytes("a Grüße\n".encode("latin-1"))
    with pytest.raises(UserError, match=rf"{name} can't be read: the byte 0xFC in line 1 is not UTF-8; .*`iconv"):
        load_splits(Source(str(tmp_path)))
