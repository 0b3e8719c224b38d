"""Data that would need too much memory, disk or time is a one-sentence error, without delay."""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
from encoding import encode

from finetune.audio import containers
from finetune.audio import source_bytes as audio_bytes
from finetune.audio import waveforms as audio
from finetune.audio.endings import needs_ffmpeg
from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Recording, cut_blocks, read_seconds, read_waveform
from finetune.cli import main
from finetune.commands.inputs import find_inputs
from finetune.data import archives
from finetune.data.archives import read_archive
from finetune.data.manifests import PROBLEM
from finetune.data.sources import Source, load_splits
from finetune.errors import UserError
from finetune.evaluation.scoring import open_model
from finetune.recipe.load import load_recipe
from finetune.resources import limits
from finetune.resources.storage import StorageError, read_bytes
from finetune.text import lines

TONE = (0.1 * np.sin(np.arange(16000) / 5)).astype(np.float32)


def stream(source: Path | BinaryIO) -> float:
    with open_stream(source, 16000) as opened:
        return sum(block.shape[1] for block in opened.blocks()) / 16000


def test_utterances_too_long_for_evaluation_are_skipped_by_their_header(tmp_path: Path, model_folder: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(301 * 8000, np.int16), 8000)
    soundfile.write(tmp_path / "short.flac", TONE, 16000)
    (tmp_path / "metadata.csv").write_text("file_name,text\nlong.flac,ab\nshort.flac,ab\n")
    for most, left in ((300.0, ["too long"]), (400.0, [])):
        sources = [Source(str(tmp_path), max_seconds=most)] if left == [] else [Source(str(tmp_path))]
        _, splits, _ = open_model(model_folder, sources, "cpu")  # type: ignore[arg-type]
        assert [rejected.reason for rejected in next(splits).rejected] == left


def test_more_samples_than_fit_are_not_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_DECODED_SAMPLES", 15_999)
    soundfile.write(tmp_path / "a.wav", TONE, 16000)
    with pytest.raises(AudioError, match="too long: more than 15,999 samples"):
        read_waveform(Recording(str(tmp_path / "a.wav"), None), 16000)


@pytest.mark.parametrize("channels", [257, 1024, 65535])
def test_more_channels_than_microphones_have_are_refused(tmp_path: Path, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((65536, 1), np.int16), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[22:24] = channels.to_bytes(2, "little")
    content[32:34] = (2 * channels % 65536).to_bytes(2, "little")
    (tmp_path / "a.wav").write_bytes(content)
    for read in (read_seconds_of, stream):
        with pytest.raises(AudioError, match=r"impossible number of channels|unreadable audio"):
            read(tmp_path / "a.wav")


def read_seconds_of(file: Path) -> float:
    return read_seconds(Recording(str(file), None))


def test_blocks_of_many_channels_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_BLOCK_VALUES", 1000)
    given = np.arange(5 * 700 * 4, dtype=np.float32).reshape(5, 700, 4)
    blocks = list(cut_blocks(iter(given), 100))
    assert max(block.size for block in blocks) == 1000
    np.testing.assert_array_equal(np.concatenate(blocks), given.reshape(-1, 4))


def test_a_wav_of_empty_chunks_is_read_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", TONE, 16000, subtype="PCM_16")
    content = (tmp_path / "a.wav").read_bytes() + b"LIST\0\0\0\0" * 30_000
    (tmp_path / "a.wav").write_bytes(content)
    looked = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal looked
            looked += 1
            return super().read(size)

    needs_ffmpeg(Counted(content), "WAV", 16000, 16000)
    assert looked < 2 * limits.MAX_CHUNKS
    assert stream(tmp_path / "a.wav") >= 1


class Endless(io.RawIOBase):
    """An endless pipe."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def test_an_endless_pipe_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_bytes, "MAX_PIPED_BYTES", 3_000_000)
    with pytest.raises(AudioError, match=r"can't be kept in .*: it has more than 3,000,000 bytes; save it as a file"):
        stream(Endless())  # type: ignore[arg-type]


def test_pipes_of_a_corpus_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file_name,text\npipe.wav,ab\n")
    os.mkfifo(tmp_path / "pipe.wav")
    (found,) = find_inputs([str(tmp_path / "list.csv")])
    assert str(found.recording) == "no file: a broken link, a pipe or a device"
    for name in ("train/metadata.csv", "train.clean.csv", "train.tar", "train.parquet"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        os.mkfifo(folder / name)
        with pytest.raises(UserError, match=r"not a pipe or device|has no transcripts"):
            load_splits(Source(str(folder)))


def test_a_text_longer_than_can_be_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_TEXT_BYTES", 100)
    (tmp_path / "a.csv").write_text("file_name,text\n" + "x" * 100)
    with pytest.raises(UserError, match="has more than 100 bytes"):
        load_splits(Source(str(tmp_path / "a.csv")))
    with Path("/dev/zero").open("rb") as zeros, pytest.raises(UserError, match="has more than 50 bytes"):
        limits.read_at_most(zeros, 50, "/dev/zero")


def test_lines_are_those_of_the_file() -> None:
    content = b"a\n" + b"b" * 70_000 + b"\n\nc\r\n" + b"d" * 130_000
    expected = list(io.BytesIO(content))
    assert list(limits.read_lines(io.BytesIO(content), "text")) == expected
    assert list(limits.read_lines(io.BytesIO(b""), "text")) == []


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_an_end_is_refused_where_it_is(
    tmp_path: Path, end: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_bytes(b"a b\nc\n" + b"x" * (limits.MAX_LINE + 1) + end)
    assert main(["lm", "build", str(tmp_path / "text.txt"), "-o", str(tmp_path / "lm")]) == 2
    assert "text.txt, line 3: more than 1,000,000 bytes" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]


def test_gzip_with_an_unnatural_ratio_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_SMALL_BYTES", 2**16)
    packed = gzip.compress((b"a b" * 1000 + b"\n") * 1000, 9)
    (tmp_path / "text.txt.gz").write_bytes(packed)
    assert main(["lm", "build", str(tmp_path / "text.txt.gz"), "-o", str(tmp_path / "lm")]) == 2
    assert "unpacks to more than 200 times its size" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt.gz"]


def test_words_of_training_are_unpacked_up_to_a_limit() -> None:
    packed = gzip.compress(b"a\n" * 1000)
    assert limits.unpack(packed, 2000) == b"a\n" * 1000
    with pytest.raises(ValueError, match="unpacks to more than 1,999 bytes"):
        limits.unpack(packed, 1999)
    with pytest.raises(ValueError, match="ends too soon"):
        limits.unpack(packed[:-4], 2000)
    with pytest.raises(ValueError, match="incorrect header"):
        limits.unpack(zlib.compress(b"a"), 2000)


def write_tar(file: Path, **members: bytes) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_a_text_in_a_tar_is_read_up_to_the_length_of_a_line(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", a_txt=b"x" * limits.MAX_LINE, b_txt=b"x" * (limits.MAX_LINE + 1), b_wav=b"")
    first, second = read_archive(tmp_path / "a.tar")
    assert len(first["text"]) == limits.MAX_LINE
    assert second[PROBLEM] == "text too long: 1,000,001 bytes in b.txt" and second["text"] is None


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_a_tar_as_long_as_the_disk_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 200_000_000
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    with (tmp_path / "a.tar").open("r+b") as file:
        file.truncate(200_000_512)
    with pytest.raises(UserError, match=r"a\.tar can't be read: a header of 200,000,000 bytes"):
        read_archive(tmp_path / "a.tar")
    assert archives._MAX_HEADER_BYTES == 2**20


@pytest.mark.parametrize("size", [2**30 + 1, -1])
def test_a_piece_of_a_tar_is_no_larger_than_memory(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    with pytest.raises(StorageError, match="bytes in a tar; expected up to"):
        read_bytes(str(tmp_path / "a.tar"), (0, size))
    with pytest.raises(AudioError, match="bytes in a tar; expected up to"):
        read_seconds(Recording(str(tmp_path / "a.tar"), None, piece=(0, size)))


LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
RECIPES = {
    "laughs": (LAUGHS, "it has more than 100,000 values"),
    "merged": (LAUGHS.replace("[ha", "{x: [ha", 1).replace("]", "]}", 1) + "data: {<<: *a0}\n", "more than 100,000"),
    "long text": (f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 200)}]\n", "it has more than 100,000 values"),
    "deep": ("model: " + "[" * 50_000, "nest too deep"),
    "somewhat deep": ("model: " + "[" * 200 + "]" * 200, "nest too deep"),
    "itself": ("model: &m {base: *m}\n", "an anchor stands inside of itself"),
    "digits": ("model: " + "9" * 10_000, "Exceeds the limit"),
    "large": ("#" * (2**20 + 1), "has more than 1,048,576 bytes"),
    "keys": ("model:\n" + "".join(f"  k{n}: 1\n" for n in range(10_000)) + "  k0: 2\n", "the key 'k0' stands twice"),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_an_oversized_or_invalid_recipe_is_refused(tmp_path: Path, kind: str) -> None:
    text, sentence = RECIPES[kind]
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_recipe(tmp_path / "recipe.yaml")


def test_anchors_are_followed(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    file = write_recipe(tmp_path)
    anchored = '"augmentation": {"speed": &r [0.9, 1.1], "gain_db": *r}, "training": {'
    file.write_text(file.read_text().replace('"training": {', anchored))
    assert load_recipe(file).augmentation.gain_db == (0.9, 1.1)


def test_a_file_whose_name_is_a_dash_is_no_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "a.wav", TONE, 16000)
    (tmp_path / "a.wav").rename("-")
    with Recording("-", None).open() as source:  # Of an empty standard input it would be found by FFmpeg.
        assert source == "./-"
    assert read_seconds(Recording("-", None)) == 1


def test_more_samples_than_the_bytes_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the index of a file refers to the same bytes repeatedly."""
    content = encode(np.stack([TONE] * 2, axis=1), 16000, "ipod", "aac", bit_rate=48_000)
    assert len(content) < 16000 < len(content) * limits.MAX_SAMPLES_PER_BYTE
    monkeypatch.setattr(containers, "MAX_SAMPLES_PER_BYTE", 1)
    for read in (lambda: read_waveform(Recording(None, content), 16000), lambda: stream(io.BytesIO(content))):
        with pytest.raises(AudioError, match="damaged audio: its index promises more than its bytes can hold"):
            read()


def test_a_file_without_progress_is_not_read_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_PROBED_BYTES", 100)
    steady = containers._Steady(io.BytesIO(b"x" * 1000), 1000)
    for _ in range(3):
        steady.go_on()
        for _ in range(9):
            steady.seek(0)
            assert steady.read(2000) == b"x" * 1000
    with pytest.raises(AudioError, match="gives no sound"):
        while True:
            steady.read(100)


def test_the_longest_utterance_in_evaluation_is_an_option(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", TONE, 16000)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,ab\n")
    command = ["evaluate", str(model_folder), "--data", str(tmp_path), "--max-seconds"]
    assert main([*command, "0.5"]) == 2
    assert "was left out: 1 × too long. To use longer ones, raise --max-seconds." in (capsys.readouterr().err)
    assert main([*command, "1"]) == 0
    with pytest.raises(SystemExit):
        main([*command, "0"])
