"""Files with flipped bytes, missing parts and wrong lengths give a waveform or a reason, in bounded time and memory."""

import io
import resource
import time

import numpy as np
import pytest
import soundfile
from encoding import encode
from mutation import mutate

from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Recording, decode, read_seconds

RATE = 16000
KINDS = {
    "wav": ("wav", "pcm_s16le"),
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "libmp3lame"),
    "opus": ("ogg", "libopus"),
    "vorbis": None,
    "m4a": ("ipod", "aac"),
    "webm": ("webm", "libopus"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "wmav2"),
    "aiff": ("aiff", "pcm_s16be"),
}
_MOST_SECONDS, _MOST_KIB = 10.0, 1_000_000


def make(kind: str) -> bytes:
    # A second of Opus is one Ogg page, which is dropped at a wrong checksum.
    seconds = 10 if kind == "opus" else 1
    noise = 0.1 * np.random.default_rng(0).normal(size=(RATE * seconds, 1)).astype(np.float32)
    if (how := KINDS[kind]) is not None:
        return encode(noise, 48000 if how[1] == "libopus" else RATE, *how, bit_rate=48_000)

    file = io.BytesIO()
    soundfile.write(file, noise, RATE, format="OGG", subtype="VORBIS")
    return file.getvalue()


def read_damaged(kind: str, number: int) -> int:
    """The number of damaged files that are read, each within seconds and with the length in its header."""
    content, read, peak = make(kind), 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(number):
        recording = Recording(None, mutate(content, np.random.default_rng(seed)))
        began = time.process_time()
        lengths: list[float | None] = []
        for measure in (read_seconds, lambda one: decode(one, RATE).seconds, _stream):
            try:
                lengths.append(measure(recording))
            except AudioError as error:
                assert not str(error).startswith(("internal error", "out of memory")), (seed, str(error))
                lengths.append(None)
        assert time.process_time() - began < _MOST_SECONDS, seed
        if lengths[0] is not None and lengths[1] is not None:
            assert lengths[0] == lengths[1], (seed, lengths)
        assert (lengths[1] is None) == (lengths[2] is None), (seed, lengths)
        read += lengths[1] is not None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < _MOST_KIB
    return read


def _stream(recording: Recording) -> float:
    with open_stream(recording, RATE) as stream:
        return sum(block.shape[1] for block in stream.blocks()) / RATE


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_a_waveform_or_a_reason(kind: str) -> None:
    assert 0 < read_damaged(kind, 60) < 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_damaged_files(kind: str) -> None:
    assert 0 < read_damaged(kind, 2000) < 2000


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_seek_before_the_first_byte_prints_no_traceback() -> None:
    """As libsndfile does in a damaged AIFF."""
    assert 0 < read_damaged("aiff", 60) < 60
