"""Prompts become a corpus: each is used with what is said, or named with the reason; no Debian package is needed."""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from make_prompts_corpus import SOUNDS, TEXTS, choose_split, main
from prompt_texts import LANGUAGES, LeftOut, parse_texts, write_transcript

from finetune.text.transcripts import DEFAULT_TRANSFORMS, normalize

RATE = 16000
TEXT_LINES = """; Core Asterisk Sounds in English

activated: Activated.
agent-pass: Please enter your password followed by the pound key.
beep: [this is a simple beep tone]
conf-join: <beep ascending>
demo-instruct: Dial 500 now.
empty:
extended-a: The conference has been extended.
extended-b: ...the conference has been EXTENDED!
letters/at: at [@]
longer: This is a long text that nobody can say in a second, however fast.
missing: There is no recording of this.
number: Call 0800 now.
quiet: This was recorded in an empty room.
silence/1: (1 second of silence)
vm-advopts: press 3 for advanced options
"""
NOISY = ("activated", "agent-pass", "beep", "conf-join", "demo-instruct", "empty", "extended-a", "extended-b")
REASONS = {
    "beep": "the text describes a sound",
    "conf-join": "the text describes a sound",
    "demo-instruct": "numbers or addresses that can be said in several ways",
    "empty": "no text for this recording",
    "longer": "the recording says something else than the text: 66 characters in 1.0 s",
    "missing": "no recording of this text",
    "no-text": "no text for this recording",
    "number": "a number, a sign or a note whose wording is not certain",
    "quiet": "silence",
    "silence/1": "silence",
    "truncated": "silence",
}


def make_tone(seconds: float, amplitude: float = 0.3) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    return np.int16(32767 * amplitude * np.sin(2 * np.pi * 440 * times))


def write_g722(file: Path, samples: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=RATE, layout="mono")
        for start in range(0, len(samples), 320):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 320], format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of recordings and a file of texts as the packages have them."""
    folder = tmp_path_factory.mktemp("layout")
    texts = folder / "core-sounds-en.txt.gz"
    texts.write_bytes(gzip.compress(TEXT_LINES.encode()))
    sounds = folder / "sounds"
    for name in (*NOISY, "letters/at", "no-text", "number", "silence/1", "vm-advopts"):
        write_g722(sounds / f"{name}.g722", make_tone(3))
    write_g722(sounds / "longer.g722", make_tone(1))
    write_g722(sounds / "quiet.g722", make_tone(3, 0))
    (sounds / "truncated.g722").write_bytes(b"")
    (sounds / "notes.txt").write_text("not a recording")
    with gzip.open(texts, "at", encoding="utf-8") as file:
        file.write("truncated: The file has no samples.\n")
    return sounds, texts


def read_table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def read_splits(corpus: Path) -> dict[str, list[dict[str, str]]]:
    return {file.parent.name: read_table(file) for file in corpus.glob("*/metadata.csv")}


def run(layout: tuple[Path, Path], output: Path, *more: str) -> int:
    return main(["en", str(output), "--sounds", str(layout[0]), "--texts", str(layout[1]), *more])


def test_each_prompt_is_used_or_named(
    layout: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(layout, tmp_path / "corpus") == 0
    splits = read_splits(tmp_path / "corpus")
    texts = {row["file_name"]: row["text"] for rows in splits.values() for row in rows}
    assert texts == {
        "activated.flac": "Activated.",
        "agent-pass.flac": "Please enter your password followed by the pound key.",
        "extended-a.flac": "The conference has been extended.",
        "extended-b.flac": "...the conference has been EXTENDED!",
        "letters/at.flac": "at",
        "vm-advopts.flac": "press three for advanced options",
    }
    assert {row["speaker"] for rows in splits.values() for row in rows} == {"Allison"}
    left_out = read_table(tmp_path / "corpus" / "left_out.csv")
    assert {row["prompt"]: row["reason"] for row in left_out} == REASONS
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "17 prompts = 6 used + 11 left out (left_out.csv)"
    assert sum(int(line.split()[2]) for line in printed if "left out: " in line) == 11
    assert "Allison Smith" in (tmp_path / "corpus" / "README.md").read_text(encoding="utf-8")


def test_samples_are_those_of_the_recording(layout: tuple[Path, Path], tmp_path: Path) -> None:
    run(layout, tmp_path / "corpus")
    [file] = (tmp_path / "corpus").glob("*/letters/at.flac")
    samples, rate = soundfile.read(file)
    assert rate == RATE and samples.shape == (3 * RATE,)
    assert np.max(np.abs(samples)) == pytest.approx(0.3, rel=0.1)
    assert np.argmax(np.abs(np.fft.rfft(samples))) / 3 == pytest.approx(440, abs=1)


def test_equal_texts_are_in_one_split_and_shares_are_kept(layout: tuple[Path, Path], tmp_path: Path) -> None:
    run(layout, tmp_path / "corpus")
    splits = read_splits(tmp_path / "corpus")
    places = [split for split, rows in splits.items() for row in rows if row["file_name"].startswith("extended")]
    assert len(places) == 2 and len(set(places)) == 1
    assert choose_split("For accounting, press three") == choose_split("… for accounting press THREE!")
    counts = Counter(choose_split(f"sentence {number}") for number in range(5000))
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert counts[split] / 5000 == pytest.approx(share, abs=0.02)


def test_the_corpus_is_made_again_alike(layout: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(layout, tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "first") for file in (tmp_path / "first").rglob("*") if file.is_file())
    assert files == sorted(f.relative_to(tmp_path / "second") for f in (tmp_path / "second").rglob("*") if f.is_file())
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_telephone_quality_is_read_from_wav(layout: tuple[Path, Path], tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    soundfile.write(sounds / "activated.wav", make_tone(3)[::2], 8000)
    soundfile.write(sounds / "agent-pass.wav", make_tone(3), 16000)
    assert run((sounds, layout[1]), tmp_path / "corpus", "--rate", "8000") == 0
    [file] = (tmp_path / "corpus").glob("*/activated.flac")
    assert soundfile.info(file).samplerate == 8000
    assert soundfile.info(file).frames == 24000
    reasons = {row["prompt"]: row["reason"] for row in read_table(tmp_path / "corpus" / "left_out.csv")}
    assert reasons["agent-pass"] == "expected a recording with one channel at 8000 Hz, found 1 at 16000 Hz"


def test_what_is_missing_is_one_sentence(
    layout: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds, texts = layout
    nothing = tmp_path / "nothing"
    (tmp_path / "prose.txt").write_text("no colon\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00a: b")
    (tmp_path / "other.txt").write_text("beep: [a tone]\n")
    (tmp_path / "damaged.txt.gz").write_bytes(b"a: b\n")
    install = "`apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722` gives them"
    for places, words in (
        ((nothing, texts), f"no .g722 files in .*; {install}"),
        ((sounds, nothing), f"no file of texts .*; {install}"),
        ((sounds, tmp_path / "prose.txt"), "no line like `name: text`"),
        ((sounds, tmp_path / "binary.txt"), "cannot be read as a text file in UTF-8"),
        ((sounds, tmp_path / "damaged.txt.gz"), "cannot be read as a text file in UTF-8"),
        ((sounds, tmp_path / "other.txt"), "No recording in .* has a text in .* that can be used"),
    ):
        assert run(places, tmp_path / "corpus") == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert re.search(words, line), line
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "binary.txt", "damaged.txt.gz", "other.txt", "prose.txt"
    ]  # fmt: skip


def test_what_is_there_is_not_overwritten(
    layout: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").write_text("mine")
    assert run(layout, tmp_path / "corpus") == 2
    assert "exists already; remove it or choose another folder" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "corpus").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("en", "Enter a name followed by # or just # to exit", "Enter a name followed by pound or just pound to exit"),
        ("en", "exclaimation-point [!]", "exclamation point"),
        ("en", 'IAX (note: does not say "2")', "IAX"),
        ("en", "Thank you for trying out the PBX.", "Thank you for trying out the P B X."),
        ("en", "3D audio disabled", "three D audio disabled"),
        ("fr", "veuillez appuyer sur 1. Sinon,  appuyer sur 9.", "veuillez appuyer sur un. Sinon, appuyez sur neuf."),
        ("fr", "Cette conférence est vérouillée.", "Cette conférence est verrouillée."),
        ("fr", "Pour (emphase)", "Pour"),
        ("ru", "Чтo бы выйти, нажмите решётку".replace("o", "о"), "Чтобы выйти, нажмите решетку"),
        ("ru", "... используйте 7 для Q и 9 для Z", "... используйте семь для кью и девять для зэт"),
        ("ru", "чтобы выключить / включить микрофон", "чтобы выключить, включить микрофон"),
    ],
)  # fmt: skip
def test_transcripts_are_what_is_said(language: str, text: str, said: str) -> None:
    assert write_transcript(language, "a-prompt", text) == said


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "a 28.8 kilobit modem"),
        ("en", "dial 500"),
        ("en", "H.323"),
        ("en", "press 1 (or 2) now"),
        ("fr", "28,8 kilobits"),
        ("ru", "по IAX протоколу"),
    ],
)
def test_texts_that_can_be_said_in_several_ways_are_left_out(language: str, text: str) -> None:
    with pytest.raises(LeftOut):
        write_transcript(language, "a-prompt", text)


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_packages_that_are_installed_become_a_corpus(language: str, tmp_path: Path) -> None:
    package = f"asterisk-core-sounds-{language}"
    texts = TEXTS / package / f"core-sounds-{language}.txt.gz"
    sounds = SOUNDS / LANGUAGES[language].folder
    if not texts.exists() or not any(sounds.glob("*.g722")):
        pytest.skip(f"needs Debian's packages {package} and {package}-g722")
    assert main([language, str(tmp_path / "corpus")]) == 0
    splits = read_splits(tmp_path / "corpus")
    used = [row for rows in splits.values() for row in rows]
    left_out = read_table(tmp_path / "corpus" / "left_out.csv")
    names = set(parse_texts(gzip.decompress(texts.read_bytes()).decode().splitlines()))
    names |= {file.relative_to(sounds).with_suffix("").as_posix() for file in sounds.rglob("*.g722")}
    assert sorted(names) == sorted(
        [row["file_name"].removesuffix(".flac") for row in used] + [row["prompt"] for row in left_out]
    )
    assert len(used) > 500
    texts_of = {split: {normalize(row["text"], DEFAULT_TRANSFORMS) for row in rows} for split, rows in splits.items()}
    assert not texts_of["train"] & (texts_of["validation"] | texts_of["test"])
    assert not texts_of["validation"] & texts_of["test"]
    alphabet = set("".join(set.union(*texts_of.values()))) - {" ", "'"}
    assert all(letter.isalpha() for letter in alphabet)
    assert all(("а" <= letter <= "я") == (language == "ru") for letter in alphabet)
