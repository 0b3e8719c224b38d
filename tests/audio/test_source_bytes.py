"""Recordings from pipes, tars and URLs are read as from a file, and errors on the way are one sentence."""

import errno
import functools
import http.server
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from finetune.audio.source_bytes import WatchedFile
from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Recording
from finetune.data.archives import read_archive

FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def read(audio: Any) -> np.ndarray:
    with open_stream(audio, 16000) as stream:
        return np.concatenate(list(stream.blocks()), axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 seconds of noise in each format."""
    folder = tmp_path_factory.mktemp("noise")
    noise = 0.1 * np.random.default_rng(0).normal(size=(75, 16000)).astype(np.float32)
    for suffix, subtype in FORMATS.items():
        with soundfile.SoundFile(folder / f"noise.{suffix}", "w", 16000, 1, subtype) as file:
            for second in noise:
                file.write(second)
    return folder


@contextmanager
def pouring(content: bytes, into: Callable[[], int]) -> Iterator[None]:
    """Another thread writes into a pipe that `into` opens."""

    def pour() -> None:
        with os.fdopen(into(), "wb") as pipe:
            pipe.write(content)

    thread = threading.Thread(target=pour, daemon=True)
    thread.start()
    yield
    thread.join(timeout=20)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_pipe_is_read_like_a_file(folder: Path, tmp_path: Path, suffix: str) -> None:
    file = folder / f"noise.{suffix}"
    end, start = os.pipe()
    with pouring(file.read_bytes(), lambda: start), os.fdopen(end, "rb") as pipe:
        np.testing.assert_array_equal(read(pipe), read(file))
    named = tmp_path / "named"
    os.mkfifo(named)
    with pouring(file.read_bytes(), lambda: os.open(named, os.O_WRONLY)):
        np.testing.assert_array_equal(read(named), read(file))


def write_unfinished(folder: Path, suffix: str) -> bytes:
    """A file without its length in the header, as a program writes it into a pipe."""
    content = bytearray((folder / f"noise.{suffix}").read_bytes())
    if suffix == "wav":
        content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    else:  # The last 36 bits before the checksum of STREAMINFO.
        content[21] &= 0xF0
        content[22:26] = bytes(4)
    return bytes(content)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_whose_header_has_no_length_is_read(folder: Path, suffix: str) -> None:
    content = write_unfinished(folder, suffix)
    np.testing.assert_array_equal(read(io.BytesIO(content)), read(folder / f"noise.{suffix}"))
    if suffix == "flac":
        with open_stream(io.BytesIO(content), 16000) as stream:
            assert stream.seconds is None


def test_an_mp3_without_a_length_is_read_to_its_end(tmp_path: Path) -> None:
    loud = 0.3 * np.random.default_rng(0).normal(size=16000 * 30).astype(np.float32)
    quiet = np.zeros(16000 * 120, np.float32)
    for name, parts in (("fewer", [quiet, loud]), ("more", [loud, quiet])):
        with soundfile.SoundFile(
            tmp_path / name, "w", 16000, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE", compression_level=0
        ) as file:
            for part in parts:
                file.write(part)
        content = (tmp_path / name).read_bytes()
        second_frame = content.index(b"\xff\xf3", 100)
        assert b"Xing" in content[:second_frame]  # The first frame only has their number.
        (tmp_path / name).write_bytes(content[second_frame:])
    for name in ("fewer", "more"):
        assert read(tmp_path / name).shape[1] == pytest.approx(150 * 16000, abs=2000)


def test_a_file_within_a_tar_is_read_in_place(folder: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for suffix in FORMATS:
            tar.add(folder / f"noise.{suffix}", f"{suffix}.{suffix}")
    rows = read_archive(tmp_path / "shard.tar")
    assert len(rows) == len(FORMATS)
    for row in rows:
        np.testing.assert_array_equal(read(Recording.from_cell(row["audio"])), read(folder / f"noise.{row['id']}"))


def test_a_seek_before_the_beginning_stays_where_it_was() -> None:
    """As libsndfile does in a W64 without a length; the read after it would fail."""
    file = WatchedFile(io.BytesIO(b"abcdef"))
    assert file.seek(2) == file.seek(-3, io.SEEK_CUR) == 2
    assert file.read(2) == b"cd"


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges, which Python's own handler does not, and counts the bytes."""

    sent = 0
    broken_behind: int | None = None

    def do_GET(self) -> None:
        if not Path(self.translate_path(self.path)).is_file():
            self.send_error(404)
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or f"bytes=0-{len(content) - 1}")
        assert asked is not None
        first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        if self.broken_behind is not None and self.broken_behind < first < len(content) - 1:
            self.send_error(500)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(content[first : last + 1])
        type(self).sent += last + 1 - first

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, handler: type[http.server.SimpleHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_url_is_read_in_blocks(folder: Path, suffix: str) -> None:
    _Ranges.sent = 0
    file = folder / f"noise.{suffix}"
    with serving(folder, _Ranges) as url:
        with open_stream(f"{url}/{file.name}", 16000) as stream:
            blocks = stream.blocks()
            pieces = [next(blocks)]
            assert _Ranges.sent <= 2 * 1024 * 1024  # Only a part of a longer one.
            pieces += blocks
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), read(file))
    assert _Ranges.sent <= file.stat().st_size + 2 * 1024 * 1024


def test_a_server_without_byte_ranges_is_supported(folder: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with serving(folder, Quiet) as url:
        for suffix in FORMATS:
            np.testing.assert_array_equal(read(f"{url}/noise.{suffix}"), read(folder / f"noise.{suffix}"))


def test_an_interrupted_or_missing_url_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_Ranges, "broken_behind", 1_000_000)
    with serving(folder, _Ranges) as url:
        with pytest.raises(AudioError, match="unreadable audio: "):
            read(f"{url}/noise.wav")
        with pytest.raises(AudioError, match="unreadable audio: "):
            read(f"{url}/missing.wav")
    assert "Traceback" not in capfd.readouterr().err


class _Failing(io.BytesIO):
    """A file that raises from its millionth byte on."""

    def __init__(self, content: bytes, error: BaseException) -> None:
        super().__init__(content)
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 1_000_000:
            raise self.error
        return super().read(size)


def test_an_error_while_reading_is_one_sentence_and_ctrl_c_is_not_caught(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = (folder / "noise.wav").read_bytes()
    with pytest.raises(AudioError, match=r"unreadable audio: Input/output error$"):
        read(_Failing(content, OSError(errno.EIO, os.strerror(errno.EIO), "noise.wav")))
    with pytest.raises(KeyboardInterrupt):
        read(_Failing(content, KeyboardInterrupt()))
    assert capfd.readouterr().err == ""


def test_an_open_file_is_not_closed_and_text_files_are_refused(folder: Path) -> None:
    with (folder / "noise.flac").open("rb") as file:
        assert read(file).shape == (1, 75 * 16000) and not file.closed
    with (folder / "noise.flac").open() as text, pytest.raises(AudioError, match="mode 'rb'"):
        read(text)
    with pytest.raises(TypeError, match="expected a path, an open file or a numpy array"):
        read([0.0, 1.0])


def test_a_full_temporary_folder_is_one_sentence(folder: Path) -> None:
    class Pipe(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(AudioError, match=r"the input can't be kept in /.* to be read: No space left on device"):
        read(Pipe())


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing.wav", "no such file"), ("", "no such file"), ("a\0b.wav", "no such file"), (".", "no such file")],
)
def test_a_missing_file_is_one_sentence(path: str, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        open_stream(path, 16000)
