"""Ten kinds of broken audio and ten of broken manifests: each is reported, and the other rows are used."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.cli import main

TONE = (0.1 * np.sin(np.arange(16000) / 5)).astype(np.float32)


def write_flac(file: Path) -> bytes:
    soundfile.write(file, TONE, 16000, format="FLAC")
    return file.read_bytes()


def write_header_of(file: Path, sampling_rate: int) -> None:
    soundfile.write(file, TONE, 16000, format="WAV")
    content = bytearray(file.read_bytes())
    content[24:28] = sampling_rate.to_bytes(4, "little")
    file.write_bytes(bytes(content))


BROKEN: dict[str, Callable[[Path], object]] = {
    "zero-bytes.wav": lambda file: file.write_bytes(b""),
    "header-only.flac": lambda file: file.write_bytes(write_flac(file)[:60]),
    "cut-mid-frame.flac": lambda file: file.write_bytes(write_flac(file)[:-2000]),
    "text.wav": lambda file: file.write_text("these are words, not audio " * 50),
    "not-numbers.wav": lambda file: soundfile.write(file, TONE * np.nan, 16000, subtype="FLOAT"),
    "one-sample.wav": lambda file: soundfile.write(file, TONE[:1], 16000),
    "silent.wav": lambda file: soundfile.write(file, TONE * 0, 16000),
    "400-khz.wav": lambda file: write_header_of(file, 400_000),
}
REASONS = {
    "zero-bytes.wav": "unreadable audio",
    "header-only.flac": "unreadable audio",
    "cut-mid-frame.flac": "unreadable audio",
    "text.wav": "unreadable audio",
    "not-numbers.wav": "audio holds values that are not numbers",
    "one-sample.wav": "too short",
    "silent.wav": "silent audio",
    "400-khz.wav": "impossible sampling rate",
}
# What looks broken and isn't.
USABLE: dict[str, Callable[[Path], object]] = {
    "flac-inside.wav": write_flac,
    "twelve-channels.wav": lambda file: soundfile.write(file, np.stack([TONE] * 12, axis=1), 16000),
    "good.wav": lambda file: soundfile.write(file, TONE, 16000),
}


@pytest.mark.long
def test_each_kind_of_broken_audio_is_reported_and_the_run_continues(
    tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    folder = tmp_path / "corpus"
    for split, makers in (("train", BROKEN | USABLE), ("validation", USABLE)):
        (folder / split).mkdir(parents=True)
        with (folder / split / "metadata.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", "text"])
            for name, make in makers.items():
                make(folder / split / name)
                rows.writerow([name, "ab"])
    recipe = write_recipe(tmp_path, data={"root": str(folder)}, training={"max_steps": 6, "batch_seconds": 8})
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 0
    with (tmp_path / "run" / "rejected.csv").open() as file:
        found = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert {name: reason.replace("truncated", "unreadable") for name, reason in found.items()} == REASONS
    lines = (tmp_path / "run" / "report" / "utterances.jsonl").read_text().splitlines()
    assert {json.loads(line)["name"] for line in lines} == USABLE.keys()


MANIFESTS = {
    "missing column": ("list.csv", b"file_name,words\ngood.wav,ab\n", "has no column text"),
    "ragged row": ("list.csv", b"file_name,text\ngood.wav,ab\ngood.wav,a,b\n", "ragged row"),
    "wrong encoding": (
        "list.csv",
        "file_name,text\ngood.wav,ab\ngood.wav,é\n".encode("latin-1"),
        "not UTF-8; expected",
    ),
    "absolute path outside": ("list.csv", b"file_name,text\ngood.wav,ab\n/etc/passwd,ab\n", "outside the corpus"),
    "path that climbs out": ("list.csv", b"file_name,text\ngood.wav,ab\n../other.wav,ab\n", "outside the corpus"),
    "duplicate ids": ("text", b"a ab\n", "duplicate id"),
    "empty file": ("list.csv", b"", "is empty"),
    "10 MB line": ("list.csv", b"file_name,text\ngood.wav,ab\ngood.wav," + b"x" * 10_000_000 + b"\n", "line too long"),
    "start after end": (
        "list.csv",
        b"file_name,text,start,end\ngood.wav,ab,0,1\ngood.wav,ab,0.9,0.2\n",
        "impossible segment",
    ),
    "unknown split": ("list.csv", b"file_name,text\ngood.wav,ab\n", "has no split 'nowhere'"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_each_kind_of_broken_manifest_is_refused_or_its_row_reported(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    name, content, sentence = MANIFESTS[kind]
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / name).write_bytes(content)
    for place in ("good.wav", "../other.wav"):
        soundfile.write(folder / place, TONE, 16000)
    root = folder / name
    if kind == "duplicate ids":
        (folder / "wav.scp").write_text("a good.wav\na good.wav\n")
        root = folder
    split = {"train_split": "nowhere"} if kind == "unknown split" else {}
    validation = {"root": str(tmp_path / "validation")}
    (tmp_path / "validation").mkdir()
    soundfile.write(tmp_path / "validation" / "good.wav", TONE, 16000)
    (tmp_path / "validation" / "validation.csv").write_text("file_name,text\ngood.wav,ab\n")
    recipe = write_recipe(tmp_path, data={"root": None, "sources": [{"root": str(root), **split}, validation]})
    code = main(["check", str(recipe)])
    said = capsys.readouterr()
    assert sentence in said.out + said.err and "Traceback" not in said.err
    if kind in ("missing column", "wrong encoding", "empty file", "unknown split"):
        assert code == 2 and said.err.count("\n") == 1
    else:
        assert code == 0 and "train: 1 utterances" in said.out + said.err
