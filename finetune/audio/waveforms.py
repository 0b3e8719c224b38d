"""Decoding recordings of any format, rate and number of channels to mono float32 at the model's sampling rate."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from finetune.audio.recordings import CONTAINERS as CONTAINERS
from finetune.audio.recordings import SUFFIXES as SUFFIXES
from finetune.audio.recordings import AudioError as AudioError
from finetune.audio.recordings import Header as Header
from finetune.audio.recordings import Recording as Recording
from finetune.audio.recordings import Waveform as Waveform
from finetune.audio.recordings import fault_as_reason as fault_as_reason
from finetune.audio.recordings import find_reason, find_segment, require_sound
from finetune.audio.resampling import resample
from finetune.audio.sound_files import BLOCK_SECONDS, UNREADABLE, Sound, open_sound
from finetune.resources.limits import MAX_BLOCK_VALUES, MAX_DECODED_SAMPLES
from finetune.resources.storage import is_url

_LOGGER = logging.getLogger(__name__)

# Channels cancel each other where their mean has less than this share of their power: one has inverted polarity. The
# mean of two independent signals has half of their power.
_CANCELLED_SHARE = 0.01

CANCELLED = "its channels cancel each other (one is the other with inverted polarity), so only one of them is used"


@dataclass(frozen=True)
class Decoded:
    """A recording's waveform, its seconds as decoded (before resampling), and whether its channels cancel each other.

    If they do, one of them is used.
    """

    waveform: Waveform
    seconds: float
    cancelled: bool = False


def read_seconds(recording: Recording) -> float:
    """Length in seconds without decoding, if its format allows; raises AudioError when there is no readable audio."""
    return measure_seconds(recording, read_header(recording))


@fault_as_reason()
def read_header(recording: Recording) -> Header:
    """The header of a recording's file, with its true length; raises AudioError when there is no readable audio.

    Decoding returns this number of samples or raises AudioError.
    """
    with _opening(recording, whole=False) as sound:
        return Header(sound.count(whole=recording.end is None), sound.sampling_rate, sound.channels)


def measure_seconds(recording: Recording, header: Header) -> float:
    """Length in seconds of a recording, or of its segment; raises AudioError for an impossible segment."""
    first, last = find_segment(recording, header.samples, header.sampling_rate)
    choose_channel(recording, header.channels)
    return (last - first) / float(header.sampling_rate)


def read_waveform(recording: Recording, sampling_rate: int) -> Waveform:
    """Decode, mix to mono and resample to `sampling_rate` (Hz): float32, shape (samples,).

    A warning tells where channels cancel each other. Raises AudioError when the audio can't be decoded to its end or
    holds values that are not numbers.
    """
    decoded = decode(recording, sampling_rate)
    if decoded.cancelled:
        _LOGGER.warning(f"of a recording {CANCELLED}; finetune check --listen counts all such", extra={"once": True})
    return decoded.waveform


@fault_as_reason()
def decode(recording: Recording, sampling_rate: int) -> Decoded:
    """The waveform of `read_waveform`, with its length and whether its channels cancel each other."""
    with _opening(recording) as sound:
        channel = choose_channel(recording, sound.channels)
        first, last = locate(recording, sound)
        rate, count = sound.sampling_rate, 0
        mixed: list[tuple[Waveform, bool]] = []
        for block in cut_blocks(sound.blocks(first, last), rate):
            mixed.append(mix_channels(block, channel))
            count += len(block)
            if count > MAX_DECODED_SAMPLES:
                raise AudioError(f"too long: more than {MAX_DECODED_SAMPLES:,} samples to be decoded at once")
    if not mixed:
        raise AudioError("audio of zero length")
    mono = mixed[0][0] if len(mixed) == 1 else np.concatenate([block for block, _ in mixed])
    require_sound(mono)
    seconds = len(mono) / float(rate)
    return Decoded(resample(mono, rate, sampling_rate), seconds, any(cancelled for _, cancelled in mixed))


@contextmanager
def _opening(recording: Recording, whole: bool = True) -> Iterator[Sound]:
    try:
        with ExitStack() as opened:
            here = whole or recording.data is not None or not is_url(recording.path or "")
            yield open_sound(opened.enter_context(recording.open(whole)), opened, here)
    except UNREADABLE as error:
        raise AudioError(f"unreadable audio: {find_reason(error)}") from error


def locate(recording: Recording, sound: Sound) -> tuple[int, int | None]:
    """The first sample of a recording in its file, and the one after its last, or None for the end of the file."""
    if recording.end is None and recording.start == 0:
        find_segment(recording, 1 if sound.said is None else sound.said, sound.sampling_rate)
        return 0, None
    return find_segment(recording, sound.count(whole=recording.end is None), sound.sampling_rate)


def choose_channel(recording: Recording, channels: int) -> int | None:
    """The channel of a recording to read, None for all; raises AudioError where there is no such channel."""
    if recording.channel is not None and not 0 <= recording.channel < channels:
        raise AudioError(f"no such channel: {recording.channel} (the first is 0), of {channels}")
    return recording.channel


def cut_blocks(blocks: Iterator[Waveform], rate: int) -> Iterator[Waveform]:
    """The same samples in blocks of ten seconds, the last shorter; cancelling is detected in each.

    With very many channels blocks are shorter, so that they have at most MAX_BLOCK_VALUES values.
    """
    size, held, count = rate * BLOCK_SECONDS, [], 0
    for block in blocks:
        size = min(size, MAX_BLOCK_VALUES // block.shape[1])
        held.append(block)
        count += len(block)
        while count >= size:
            together = held[0] if len(held) == 1 else np.concatenate(held)
            yield together[:size]
            held, count = [together[size:]], count - size
    if count:
        yield held[0] if len(held) == 1 else np.concatenate(held)


def mix_channels(samples: Waveform, channel: int | None = None) -> tuple[Waveform, bool]:
    """One channel of (samples, channels), or the mean of all, and whether they cancel each other in the mean.

    If they do, the loudest is used. numpy's mean takes fifty times as long over so few channels.
    """
    if channel is not None or samples.shape[1] == 1:
        return samples[:, channel or 0].copy(), False
    mono = samples[:, 0].copy()
    for other in range(1, samples.shape[1]):
        mono += samples[:, other]
    mono /= np.float32(samples.shape[1])
    powers = [float(np.dot(one, one)) for one in np.ascontiguousarray(samples.T)]
    if float(np.dot(mono, mono)) < _CANCELLED_SHARE * sum(powers) / len(powers):
        return samples[:, int(np.argmax(powers))].copy(), True
    return mono, False
