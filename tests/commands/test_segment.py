"""`finetune segment`: tables, folders, corpora, bad pairs, and going on after a kill. How it cuts is in inference/."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import SAMPLING_RATE, speak
from tones import build_tone_recogniser

from finetune.cli import main
from finetune.data.corpus import AudioSpec, prepare_split
from finetune.data.sources import Source, load_splits, select_table
from finetune.inference.recogniser import Recogniser
from finetune.inference.segmentation import Passage
from finetune.text.transcripts import DEFAULT_TRANSFORMS

TESTS = Path(__file__).parents[1]
SAID = ["bad cab add", "dab dad ab cab", "cab add dab"]
WRITTEN = "Bad, cab add!\nDab dad; ab cab. Cab add — dab.\n"
UTTERANCES = ["Bad, cab add!", "Dab dad; ab cab.", "Cab add — dab."]


@pytest.fixture(autouse=True)
def _hear_tones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any model's name stands for the recogniser of tones."""
    monkeypatch.setattr(Recogniser, "load", lambda *_, **__: build_tone_recogniser())


def write_talk(file: Path, said: list[str], seed: int = 0, rate: int = SAMPLING_RATE, channels: int = 1) -> Path:
    rng = np.random.default_rng(seed)
    pause = 0.002 * rng.standard_normal(round(0.7 * SAMPLING_RATE)).astype(np.float32)
    samples = np.concatenate([part for text in said for part in (speak(text, rng), pause)])
    file.parent.mkdir(parents=True, exist_ok=True)
    samples = samples[:: SAMPLING_RATE // rate]
    soundfile.write(file, np.stack([samples] * channels, axis=1) if channels > 1 else samples, rate)
    return file


def segment(*arguments: object) -> int:
    return main(["segment", "tones", *map(str, arguments), "--max-seconds", "2.2", "--device", "cpu"])


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_recording_becomes_a_corpus_that_recipes_read(tmp_path: Path) -> None:
    """Of 8 kHz and two channels; the text is as it is written."""
    talk = write_talk(tmp_path / "Talk 1.wav", [*SAID[:2], "dada caca", SAID[2]], rate=8000, channels=2)
    (tmp_path / "talk.txt").write_text(WRITTEN, encoding="utf-8")
    corpus = tmp_path / "corpus"
    assert segment(talk, tmp_path / "talk.txt", "-o", corpus, "--speaker", "ann") == 0
    rows = read(corpus / "train" / "metadata.csv")
    assert [row["text"] for row in rows] == UTTERANCES
    for row in rows:
        assert row["speaker"] == "ann" and row["recording"] == str(talk) and float(row["score"]) > 0.9
        sound = soundfile.info(corpus / "train" / row["file_name"])
        seconds = float(row["recording_end"]) - float(row["recording_start"])
        assert (sound.samplerate, sound.channels) == (SAMPLING_RATE, 1)
        assert abs(sound.frames / SAMPLING_RATE - seconds) < 0.002
    [lost] = read(corpus / "left_out.csv")
    assert (lost["reason"], lost["text"], lost["heard"]) == ("not in the text", "", "dada caca")
    source = Source(str(corpus))
    table = select_table(load_splits(source), "train", source)
    split = prepare_split("train", table, DEFAULT_TRANSFORMS, AudioSpec(SAMPLING_RATE, ((400, 320),)), training=True)
    assert [each.raw_transcript for each in split.utterances] == UTTERANCES and not split.rejected
    assert {each.speaker for each in split.utterances} == {"ann"}


def test_bad_pairs_are_named_and_the_others_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talks, texts = tmp_path / "talks", tmp_path / "texts"
    for number in range(5):
        write_talk(talks / f"{number}.wav", SAID, number)
        (texts / f"{number}.txt").parent.mkdir(exist_ok=True)
        (texts / f"{number}.txt").write_text(WRITTEN, encoding="utf-8")
    (talks / "1.wav").write_bytes(b"RIFF and nothing more")
    (texts / "2.txt").write_text(" … ")
    (texts / "3.txt").rename(texts / "other.txt")
    (texts / "4.txt").write_text("cccc bbbb cccc")
    assert segment(talks, texts, "-o", tmp_path / "corpus") == 2
    rows = read(tmp_path / "corpus" / "train" / "metadata.csv")
    assert [row["file_name"] for row in rows] == [f"0/0000{n}.flac" for n in range(3)]
    assert {row["speaker"] for row in rows} == {"0"}
    lost = read(tmp_path / "corpus" / "left_out.csv")
    named = {Path(row["recording"]).name: row["reason"] for row in lost}
    assert sorted(named) == ["1.wav", "2.wav", "3.wav", "4.wav", "other.txt"]
    assert named["1.wav"].startswith("unreadable audio") and named["2.wav"].startswith("empty text")
    assert named["3.wav"].startswith("no text") and named["other.txt"].startswith("no audio")
    assert "text and speech differ" in named["4.wav"]
    printed = capsys.readouterr().err
    assert "3 utterances of 6 recordings" in printed and "1.wav: unreadable audio" in printed
    assert not (tmp_path / "corpus" / "train" / "4").exists()


def test_a_table_has_speakers_and_texts_or_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_talk(tmp_path / "a.wav", SAID)
    write_talk(tmp_path / "b.wav", ["bad cab add", "cab bad dab dad"], 1)
    (tmp_path / "a.txt").write_text(WRITTEN, encoding="utf-8")
    table = tmp_path / "talks.csv"
    table.write_text('audio,text,speaker\na.wav,a.txt,ann\nb.wav,"Bad cab add, 2 dab dad.",ben\nb.wav,,ben\n')
    load = Recogniser.load

    def load_with_numbers(*arguments: object) -> Recogniser:
        recogniser = load("tones")
        recogniser.normalization = ({"replace": ["2", " cab bad "]}, *DEFAULT_TRANSFORMS)
        return recogniser

    monkeypatch.setattr(Recogniser, "load", load_with_numbers)
    assert segment(table, "-o", tmp_path / "corpus") == 2  # A row has no text.
    rows = read(tmp_path / "corpus" / "train" / "metadata.csv")
    assert [(row["speaker"], row["text"]) for row in rows] == [
        *(("ann", text) for text in UTTERANCES),
        ("ben", "Bad cab add,"),
        ("ben", "2 dab dad."),
    ]
    [lost] = read(tmp_path / "corpus" / "left_out.csv")
    assert "row 2" in lost["recording"] and lost["reason"].startswith("empty text")


def test_the_long_rows_of_a_corpus_are_cut(tmp_path: Path) -> None:
    for name, said in (("short", SAID[:1]), ("long", SAID)):
        write_talk(tmp_path / "data" / "train" / f"{name}.wav", said)
    table = tmp_path / "data" / "train" / "metadata.csv"
    table.write_text(
        f'file_name,text,speaker\nshort.wav,"bad cab add",ann\nlong.wav,"{WRITTEN.replace(chr(10), " ")}",ben\n'
    )
    assert segment("--corpus", tmp_path / "data", "--longer-than", 3, "-o", tmp_path / "corpus") == 0
    rows = read(tmp_path / "corpus" / "train" / "metadata.csv")
    assert [(row["text"], row["speaker"]) for row in rows] == [(text, "ben") for text in UTTERANCES]
    assert segment("--corpus", tmp_path / "data", "--longer-than", 30, "-o", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()


def test_without_texts_the_models_own_are_kept_where_it_is_sure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_talk(tmp_path / "talks/one.wav", SAID)
    write_talk(tmp_path / "talks/more/two.wav", SAID[:2], seed=1)
    (tmp_path / "talks/broken.wav").write_bytes(b"RIFF and no more")
    corpus = tmp_path / "corpus"
    common = (tmp_path / "talks", "-o", corpus, "--transcribe")
    assert segment(*common) == 2
    rows = read(corpus / "train/metadata.csv")
    assert sorted(row["text"] for row in rows) == sorted([*SAID, *SAID[:2]])
    assert {row["speaker"] for row in rows} == {row["file_name"].partition("/")[0] for row in rows}
    assert all(0.8 <= float(row["score"]) <= 1 for row in rows)
    [left] = read(corpus / "left_out.csv")
    assert left["recording"].endswith("broken.wav") and left["reason"].startswith("unreadable audio")
    table = select_table(load_splits(Source(str(corpus))), "train", Source(str(corpus)))
    assert len(prepare_split("train", table, DEFAULT_TRANSFORMS, AudioSpec(SAMPLING_RATE, ())).utterances) == 5
    before = read_all(corpus)
    assert segment(*common, "--resume") == 2 and read_all(corpus) == before
    (names := tmp_path / "talks/names.csv").write_text("file_name,speaker\none.wav,ann\nmore/two.wav,ben\n")
    assert segment(names, "-o", tmp_path / "named", "--transcribe") == 0
    named = [(row["text"], row["speaker"]) for row in read(tmp_path / "named/train/metadata.csv")]
    assert named == [(text, "ann") for text in SAID] + [(text, "ben") for text in SAID[:2]]
    capsys.readouterr()
    for wrong, sentence in (
        (("--numbers", "en"), "--transcribe takes no texts"),
        (("--corpus", corpus), "--transcribe takes no texts"),
    ):
        assert segment(tmp_path / "talks", "-o", tmp_path / "no", "--transcribe", *wrong) == 2
        assert sentence in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert segment(tmp_path / "talks", "-o", tmp_path / "no", "--decoder", "beam") == 2
    assert "add --transcribe" in capsys.readouterr().err


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tones import build_tone_recogniser
from finetune.cli import main
from finetune.commands import segmentation
from finetune.inference.recogniser import Recogniser
Recogniser.load = lambda *_, **__: build_tone_recogniser()
calls, write = [], segmentation._write_csv
def write_once(*arguments):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments)
segmentation._write_csv = write_once
main(sys.argv[2:])
"""


@pytest.mark.long
def test_after_a_kill_resume_goes_on_and_all_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talks = tmp_path / "talks"
    for number in range(3):
        write_talk(talks / f"{number}.wav", SAID, number).with_suffix(".txt").write_text(WRITTEN, encoding="utf-8")
    arguments = ["segment", "tones", str(talks), "--max-seconds", "2.2", "--device", "cpu", "-o"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", KILLED, str(TESTS), *arguments, str(killed)], check=False)
    assert done.returncode == -9 and not (killed / "train" / "metadata.csv").exists()
    assert main([*arguments, str(killed)]) == 2
    assert "is there already" in capsys.readouterr().err
    listened: list[str] = []
    from finetune.commands.segmentation import Segmenter

    find = Segmenter.find_passages
    monkeypatch.setattr(
        Segmenter,
        "find_passages",
        lambda self, recording, *others: listened.append(Path(recording.path).name) or find(self, recording, *others),
    )
    assert main([*arguments, str(killed), "--resume"]) == 0 and listened == ["1.wav", "2.wav"]
    assert main([*arguments, str(whole)]) == 0
    assert read_all(killed) == read_all(whole) and len(read(whole / "train" / "metadata.csv")) == 9
    assert not list(killed.rglob("*.partial")) and not (killed / ".lock").exists()
    # Only what changed is cut again.
    listened.clear()
    (talks / "2.txt").write_text(WRITTEN.replace("Bad, cab add!", ""), encoding="utf-8")
    assert main([*arguments, str(killed), "--resume"]) == 0 and listened == ["2.wav"]
    assert len(read(killed / "train" / "metadata.csv")) == 8


def test_a_long_text_that_is_not_in_the_speech_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.commands.segmentation import Segmenter

    text = "cab " * 50_000  # Longer than a cell that Python's reader of CSV takes by default.
    passages = [Passage(0.2, 1.0, "Bad cab.", 0.9, "bad cab"), Passage(1.0, 1.0, text, 0.0, "", "not in the speech")]
    monkeypatch.setattr(Segmenter, "find_passages", lambda *_: passages)
    talk = write_talk(tmp_path / "talk.wav", SAID)
    (tmp_path / "talk.txt").write_text(f"Bad cab. {text}", encoding="utf-8")
    before = csv.field_size_limit(131_072)
    try:
        for more in ((), ("--resume",)):
            assert segment(talk, tmp_path / "talk.txt", "-o", tmp_path / "corpus", *more) == 0
    finally:
        csv.field_size_limit(before)


def test_long_names_of_any_script_are_cut_by_their_bytes(tmp_path: Path) -> None:
    """File systems allow 255 bytes: 85 characters of Chinese or Thai."""
    talk = write_talk(tmp_path / "talks" / ("世" * 50) / f"{'界' * 60}.wav", SAID)
    talk.with_suffix(".txt").write_text(WRITTEN, encoding="utf-8")
    assert segment(tmp_path / "talks", "-o", tmp_path / "corpus") == 0
    rows = read(tmp_path / "corpus" / "train" / "metadata.csv")
    assert [row["text"] for row in rows] == UTTERANCES and rows[0]["file_name"].startswith("世" * 50 + "_界")
    assert all((tmp_path / "corpus" / "train" / row["file_name"]).is_file() for row in rows)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["talk.wav"], "talk.wav has no text"),
        (["none.wav", "talk.txt"], "There is no "),
        ([], "either AUDIO with its TEXT or --corpus"),
        (["talk.wav", "talk.txt", "--corpus", "."], "either AUDIO with its TEXT or --corpus"),
        (["talk.wav", "talk.txt", "--min-seconds", "9"], "below the longest"),
        (["talk.wav", "talk.txt", "--numbers", "xx"], "--numbers xx can't be used: "),
        (["talk.wav", "other.txt"], "There is no utterance of 1 recordings"),
    ],
)
def test_what_cannot_be_cut_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_talk(Path("talk.wav"), SAID)
    Path("talk.txt").write_text(WRITTEN, encoding="utf-8")
    Path("other.txt").write_text("cccc bbbb", encoding="utf-8")
    assert segment(*arguments, "-o", "corpus") == 2
    assert told in capsys.readouterr().err
