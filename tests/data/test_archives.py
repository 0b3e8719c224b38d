"""WebDataset tars are read in place; a problem is a row with a reason, or the tar is refused."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.audio.waveforms import AudioError, read_seconds, read_waveform
from finetune.data.corpus import AudioSpec, prepare_split
from finetune.data.sources import Source, Table, load_splits, select_table
from finetune.errors import UserError


def encode_tone(seconds: float, suffix: str = "flac") -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, 0.1 * np.sin(np.arange(round(16000 * seconds)) / 5), 16000, format=suffix.upper())
    return encoded.getvalue()


def write_tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def table_of(root: Path, split: str = "train") -> Table:
    source = Source(str(root))
    return select_table(load_splits(source), split, source)


def test_an_utterance_is_the_files_of_one_name(tmp_path: Path) -> None:
    described = json.dumps({"transcript": "Good bye", "speaker": "ben", "gender": "m"}).encode()
    members = {
        "a/one.flac": encode_tone(1.0),
        "a/one.txt": b"Hello\n",
        "a/two.json": described,
        "a/two.wav": encode_tone(0.5, "wav"),
        "b/one.flac": encode_tone(0.25),
        "b/one.txt": b"again",
        "a/.hidden": b"",
    }
    table = table_of(write_tar(tmp_path / "corpus.tar", members))
    assert table.texts() == ["Hello", "Good bye", "again"]
    assert table.speakers() == [None, "ben", None]
    assert table.rows["gender"] == [None, "m", None]
    assert [table.name(row) for row in range(3)] == ["one.flac", "two.wav", "one.flac"]
    assert [read_seconds(table.recording(row)) for row in range(3)] == [1.0, 0.5, 0.25]
    tone = 0.1 * np.sin(np.arange(8000) / 5)
    np.testing.assert_allclose(read_waveform(table.recording(1), 16000), tone, atol=1e-4)


def test_shards_are_sorted_into_splits(tmp_path: Path) -> None:
    for place in ("train-0000.tar", "train-0001.tar", "dev/0000.tar", "data/test-0000.tar", "odd.tar"):
        write_tar(tmp_path / place, {"a.flac": encode_tone(0.5), "a.txt": place.encode()})
    texts = {split: table_of(tmp_path, split).texts() for split in load_splits(Source(str(tmp_path)))}
    assert texts == {
        "train": ["odd.tar", "train-0000.tar", "train-0001.tar"],
        "validation": ["dev/0000.tar"],
        "test": ["data/test-0000.tar"],
    }


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.txt": b"no sound"}, "no audio"),
        ({"a.flac": b"", "a.txt": b"empty"}, "unreadable audio: "),
        (
            {"a.flac": encode_tone(0.5), "a.txt": b"Gr\xfc\xdfe"},
            "unreadable .txt in the tar: the byte 0xFC",
        ),
        ({"a.flac": encode_tone(0.5), "a.json": b"{"}, "unreadable .json in the tar: "),
    ],
)
def test_an_utterance_that_cannot_be_used_is_a_row_with_a_reason(
    tmp_path: Path, members: dict[str, bytes], reason: str
) -> None:
    file = write_tar(tmp_path / "corpus.tar", {**members, "b.flac": encode_tone(0.5), "b.txt": b"good"})
    table = table_of(file)
    with pytest.raises(AudioError) as raised:
        read_seconds(table.recording(0))
    assert str(raised.value).startswith(reason)
    assert read_seconds(table.recording(1)) == 0.5


def test_each_recording_of_a_tar_is_a_row_with_any_name(tmp_path: Path) -> None:
    tone = encode_tone(0.5)
    names = ["a.flac", "a.FLAC", "b.1.flac", "b.2.flac", "Gr\udcfc\udcdfe.flac", "b.txt"]
    table = table_of(
        write_tar(tmp_path / "corpus.tar", {name: b"hello" if name == "b.txt" else tone for name in names})
    )
    reasons = []
    for row in range(len(table)):
        try:
            read_seconds(table.recording(row))
            reasons.append("")
        except AudioError as error:
            reasons.append(str(error))
    assert [(table.name(row), reason) for row, reason in enumerate(reasons)] == [
        ("a.flac", ""),
        ("a.FLAC", "second recording of one name: a.FLAC"),
        ("b.1.flac", "dots in a name: an utterance's name ends at the first: b.1.flac"),
        ("b.2.flac", "dots in a name: an utterance's name ends at the first: b.2.flac"),
        ("Gr\ufffd\ufffde.flac", ""),
        ("row 5", "no audio"),
    ]


@pytest.mark.parametrize("damage", ["compressed", "text", "cut"])
def test_compressed_and_damaged_tars_are_refused(tmp_path: Path, damage: str) -> None:
    members = {"a.flac": encode_tone(0.5), "a.txt": b"hello"}
    file = write_tar(tmp_path / "corpus.tar", members, "w:gz" if damage == "compressed" else "w")
    if damage == "text":
        file.write_text("not a tar")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(UserError, match=r"corpus\.tar can't be read: .*expected a complete, uncompressed tar"):
        load_splits(Source(str(tmp_path)))


def test_a_bad_member_does_not_affect_others(tmp_path: Path) -> None:
    tone = encode_tone(0.5)
    descriptions = [
        b"[" * 100_000,
        b'{"text": ["a"]}',
        b'{"text": {"member": 1}}',
        b'{"text": "a", "note": {"member": 1}, "unreadable_row": {}}',
        b'{"text": ' + b"9" * 5000 + b"}",
        b'{"text": "\\ud800"}',
        b"[1]",
        b'{"text": "good", "note": "n"}',
    ]
    members = {}
    for number, described in enumerate(descriptions):
        members |= {f"{number}.flac": tone, f"{number}.json": described}
    split = prepare_split(
        "train", table_of(write_tar(tmp_path / "corpus.tar", members)), (), AudioSpec(16000, ((10, 5),))
    )
    assert [utterance.transcript for utterance in split.utterances] == ["a", "good"]
    reasons = [each.reason for each in split.rejected]
    unreadable = "unreadable .json in the tar"
    assert reasons == [unreadable, "no text", "no text", unreadable, "half a character", "no transcript"]


def test_an_unreadable_header_in_the_middle_is_reported(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "corpus.tar", {"a.flac": encode_tone(0.5), "a.txt": b"one", "b.txt": b"two"})
    with tarfile.open(file) as archive:
        place = archive.getmember("b.txt").offset
    content = bytearray(file.read_bytes())
    content[place + 148 : place + 156] = b"7777777\0"  # Its checksum.
    file.write_bytes(content)
    split = prepare_split("train", table_of(file), (), AudioSpec(16000, ((10, 5),)))
    assert [utterance.transcript for utterance in split.utterances] == ["one"]
    assert [(each.reason, each.detail) for each in split.rejected] == [
        ("damaged tar", f"the content after byte {place} can't be read")
    ]


@pytest.mark.parametrize("size", [-1000, -512, 2**70])
def test_an_impossible_size_is_refused_at_once(tmp_path: Path, size: int) -> None:
    header = bytearray(tarfile.TarInfo("a.flac").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = bytes([255 if size < 0 else 128]) + size.to_bytes(11, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    good = write_tar(tmp_path / "good.tar", {"b.txt": b"one"}).read_bytes()
    (tmp_path / "good.tar").unlink()
    for content in (bytes(header) + good, good[:1024] + bytes(header) + good):
        (tmp_path / "corpus.tar").write_bytes(content)
        with pytest.raises(UserError, match=r"corpus\.tar can't be read: .*expected a complete"):
            load_splits(Source(str(tmp_path)))
