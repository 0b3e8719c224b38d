"""Audio in formats that libsndfile doesn't read or whose length it doesn't know, decoded by FFmpeg (PyAV).

A file can open neither other files nor the network: FFmpeg reads only the Python file that it is given, with the
demuxers listed here, none of which follows playlists.
"""

import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from finetune.audio.mp4_index import require_honest_index
from finetune.audio.recordings import AudioError, Waveform
from finetune.resources.limits import MAX_BLOCK_VALUES, MAX_READINGS, MAX_SAMPLES_PER_BYTE

# FFmpeg's names of demuxers; hls, dash, concat and others that open other files are excluded.
_FORMATS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dsf", "eac3", "flac", "flv", "matroska", "mov"),
    *("mp3", "mpc", "mpc8", "mpeg", "mpegts", "nistsphere", "ogg", "tak", "tta", "voc", "w64", "wav", "wv"),
)
_CODECS = (
    *("aac", "aac_latm", "ac3", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "adpcm_yamaha", "alac", "amrnb", "amrwb"),
    *("ape", "dca", "dsd_lsbf", "dsd_lsbf_planar", "dsd_msbf", "dsd_msbf_planar", "eac3", "flac", "g722", "g726"),
    *("gsm", "gsm_ms", "libopencore_amrnb", "libopencore_amrwb", "libopus", "mp1", "mp1float", "mp2"),
    *("mp2float", "mp3float"),
    *("mpc7", "mpc8", "opus", "shorten", "speex", "tak", "truespeech", "tta", "vorbis", "wavpack", "wmalossless"),
    *("wmapro", "wmav1", "wmav2", "wmavoice"),
)
# The length of these is the sum of their packets' lengths, without decoding.
_COUNTED_BY_PACKETS = frozenset({"mp3", "flac"})
# The length of these is known only after reading: FFmpeg's is a guess from the bit rate, missing, or for an Ogg of
# several streams (others are read by libsndfile) that of the first; of an AVI it is rounded up to whole blocks.
_SAYS_NOTHING = frozenset({"aac", "ac3", "amr", "avi", "eac3", "flac", "mp3", "mpeg", "mpegts", "ogg", "wav"})
# A header's length is rounded to packets and may include the encoder's padding.
_ROUNDING_SECONDS = 0.25
# In these the time of each block is that of its sound: where there is none, as for silence that was not sent (DTX),
# blocks are missing. Their times are rounded to milliseconds, and recorders' clocks jitter.
_TIMED, _LEAST_GAP_SECONDS = "matroska,webm", 0.1
# MP3 frames use data of earlier frames (the bit reservoir), so decoding begins this much before a segment.
_RUN_UP_SECONDS = 1.0
_ENDLESS = 2**63 - 1
_MP3_HEAD_BYTES = 4096
# FFmpeg reads up to this much to detect the format, and parts of it again.
_PROBED_BYTES = 2**26


class ContainerSound:
    """The first audio track of a file, read from the beginning by each method; `said` is the length in its header.

    `said` is in samples, and None where the header has no length.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Raises AudioError where there is no audio track that can be read."""
        import av

        self._file = file
        self._size = size = file.seek(0, io.SEEK_END)
        self._most_samples = size * MAX_SAMPLES_PER_BYTE
        require_honest_index(file, size)
        with self._open(_Steady(file, size)) as container:
            stream = self._find_track(container)
            self._format = container.format.name
            codec = stream.codec_context.name
            if codec not in _CODECS and not codec.startswith("pcm_"):
                raise AudioError(f"unreadable audio: its sound is encoded as {codec}, which is not supported")
            seconds = self._find_seconds(container, stream)
            try:
                packets = itertools.islice(container.demux(stream), size + 1)  # A packet has a byte or more.
                first = next(frame for packet in packets for frame in packet.decode())
            except StopIteration:
                raise AudioError("audio of zero length") from None
            except (av.error.FFmpegError, ValueError) as error:
                _raise_reason(error)
            # Other containers round the length of each packet, most to milliseconds.
            exact = codec.startswith("pcm_") and stream.time_base == Fraction(1, stream.sample_rate)
            exact &= self._format != "caf"  # There the last packet has the length of the others.
        self._counted = self._format in _COUNTED_BY_PACKETS or exact
        self.sampling_rate, self.channels = int(first.sample_rate), int(first.layout.nb_channels)
        self.said = None if seconds is None else round(seconds * self.sampling_rate)
        if self._format == "mp3":
            self.said = _find_said_samples(file, self.sampling_rate)

    def count(self, whole: bool) -> int:
        """The number of samples; with `whole` raises AudioError where the header has more."""
        samples = 0 if self._counted else sum(len(block) for block in self.blocks(0, _ENDLESS))
        for _, place, length in self._packets() if self._counted else ():
            if self._format == "flac" and place is not None and place != samples:
                raise AudioError(f"damaged audio: {place - samples} samples are missing at {samples}")
            samples += length
        if self._counted and samples < self.sampling_rate:
            # In a single packet the encoder's padding is known only to the decoder.
            samples = sum(len(block) for block in self.blocks(0, _ENDLESS))
        if whole:
            self._require(samples)
        return samples

    def blocks(self, first: int, last: int | None) -> Iterator[Waveform]:
        """Blocks of (samples, channels), from the sample `first` up to `last` or to the end.

        Raises AudioError when it can't be decoded, or is shorter than the header says.
        """
        place = 0
        for samples in self._decode(first):
            if isinstance(samples, int):  # The number of skipped samples.
                place += samples
                continue
            piece = samples[max(0, first - place) : None if last is None else max(0, last - place)]
            place += len(samples)
            self._require_bytes(place)
            if len(piece):
                yield piece
            if last is not None and place >= last:
                return
        if last is None:
            self._require(place)

    def _decode(self, first: int) -> Iterator[Waveform | int]:
        # Nothing is skipped near the beginning, where the decoder has to see the encoder's padding.
        run_up = first - round(_RUN_UP_SECONDS * self.sampling_rate)
        run_up = run_up if self._counted and run_up > self.sampling_rate else 0
        passed, decoded = 0, 0
        timeline = _Timeline(self.sampling_rate) if self._format == _TIMED else None
        for packet, place, length in self._packets():
            if passed + length < run_up:
                passed += length
                yield length
                continue
            passed += length
            if self._format == "flac" and place is not None and decoded and place != decoded:
                raise AudioError(f"damaged audio: samples are missing at {decoded / self.sampling_rate:.2f} s")
            for frame in _decode_packet(packet, place, self.sampling_rate):
                if frame.sample_rate != self.sampling_rate or frame.layout.nb_channels != self.channels:
                    raise AudioError(
                        f"its sound changes from {self.sampling_rate} Hz with {self.channels} channels "
                        f"to {frame.sample_rate} Hz with {frame.layout.nb_channels}"
                    )
                if frame.samples * self.channels > MAX_BLOCK_VALUES:
                    raise AudioError(f"damaged audio: a frame of {frame.samples} samples, which no encoder writes")
                for silent in timeline.fill(frame) if timeline else ():
                    yield np.zeros((silent, self.channels), np.float32)
                yield to_samples(frame, self.channels)
            decoded = passed

    def _packets(self) -> Iterator[tuple[Any, int | None, int]]:
        """Each packet of the track, the place of its first sample or None, and its number of samples."""
        import av

        steady = _Steady(self._file, self._size)
        with self._open(steady) as container:
            stream = self._find_track(container)
            try:
                skipped = work = 0
                for packet in container.demux(stream):
                    steady.go_on()
                    if self._format == "mp3" and packet.size and not _is_mp3_frame(packet):
                        continue
                    length = round((packet.duration or 0) * packet.time_base * self.sampling_rate) if packet.size else 0
                    work += max(length if self._counted else 0, MAX_SAMPLES_PER_BYTE)  # A packet has a byte or more.
                    self._require_bytes(work)
                    place = None if packet.pts is None else round(packet.pts * packet.time_base * self.sampling_rate)
                    start, end = _find_skipped(packet)
                    skipped += start
                    yield packet, place, max(0, length - skipped - end)
                    skipped = max(0, skipped - length)
            except av.error.FFmpegError as error:
                _raise_reason(error)

    def _require(self, samples: int) -> None:
        if self.said is not None and samples < self.said - _ROUNDING_SECONDS * self.sampling_rate:
            raise AudioError(f"truncated audio: {samples} of {self.said} samples could be decoded")

    def _require_bytes(self, samples: int) -> None:
        """Raise AudioError for more samples or packets than the file's bytes can hold: reading might never end."""
        if samples > self._most_samples:
            raise AudioError("damaged audio: its index promises more than its bytes can hold")

    def _open(self, file: "_Steady") -> Any:
        import av

        file.seek(0)
        # The header of a WAV of unknown length may have any length; the other formats have no `data` chunk.
        options = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "none", "ignore_length": "1"}
        try:
            return av.open(file, "r", container_options=options, io_open=_refuse, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            _raise_reason(error)

    @staticmethod
    def _find_track(container: Any) -> Any:
        if not container.streams.audio:
            raise AudioError("no audio track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioError("unreadable audio: unknown encoding")
        stream.codec_context.thread_count = 1
        return stream

    def _find_seconds(self, container: Any, stream: Any) -> float | None:
        if self._format in _SAYS_NOTHING:
            return None
        if stream.duration is not None:
            late = stream.start_time or 0 if self._format == "asf" else 0
            return float((stream.duration - late) * stream.time_base)
        if container.duration is None or len(container.streams) > 1:  # It is that of the longest track.
            return None
        return (container.duration - max(0, container.start_time or 0)) / 1e6  # The sound may begin late.


class _Timeline:
    """Finds the silence that is missing between frames, by their times from that of the first one on."""

    def __init__(self, sampling_rate: int) -> None:
        self._rate = sampling_rate
        self._start: Fraction | None = None
        self._passed = 0

    def fill(self, frame: Any) -> Iterator[int]:
        """The lengths of blocks of silence, in samples and each up to a second, before a frame."""
        if frame.pts is not None:
            place = frame.pts * frame.time_base
            self._start = place if self._start is None else self._start
            missing = round((place - self._start) * self._rate) - self._passed
            if missing > _LEAST_GAP_SECONDS * self._rate:
                self._passed += missing
                for first in range(0, missing, self._rate):
                    yield min(self._rate, missing - first)
        self._passed += frame.samples


class _Steady:
    """A file of `size` bytes that limits how much FFmpeg may read between two packets, to end endless loops."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file
        self._most = MAX_READINGS * size + _PROBED_BYTES
        self._left = self._most

    def go_on(self) -> None:
        """Reset the limit after a packet."""
        self._left = self._most

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes; raises AudioError where the limit is exceeded."""
        part = self._file.read(count)
        self._left -= max(len(part), 1024)  # Repeated reads at the end count as well.
        if self._left < 0:
            raise AudioError("damaged audio: reading it again and again gives no sound")
        return part


def scale(samples: npt.NDArray[Any]) -> Waveform:
    """Samples of any type as float32; integers are scaled to between -1 and 1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    middle = 2 ** (8 * samples.dtype.itemsize - 1)
    return ((samples.astype(np.float64) - (middle if samples.dtype.kind == "u" else 0)) / middle).astype(np.float32)


def _decode_packet(packet: Any, place: int | None, rate: int) -> list[Any]:
    import av

    try:
        return list(packet.decode())
    except av.error.FFmpegError as error:
        where = "a packet" if place is None else f"the packet at {place / rate:.2f} s"
        raise AudioError(f"damaged audio: {where} can't be decoded") from error


def to_samples(frame: Any, channels: int) -> Waveform:
    """A PyAV frame as float32, (samples, channels)."""
    values = frame.to_ndarray()
    return scale(values.T if frame.format.is_planar else values.reshape(-1, channels))


def _is_mp3_frame(packet: Any) -> bool:
    """Whether a packet begins like a frame: FFmpeg also gives tags and zeros between or after joined files."""
    head = bytes(packet)[:2]
    return len(head) == 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _find_skipped(packet: Any) -> tuple[int, int]:
    """The encoder's padding: how many samples the decoder drops from a packet on, and at the packet's end.

    They are the first two numbers of AV_PKT_DATA_SKIP_SAMPLES.
    """
    for data in packet.iter_sidedata():
        if data.data_type == "skip_samples":
            content = bytes(data)
            return int.from_bytes(content[:4], "little"), int.from_bytes(content[4:8], "little")
    return 0, 0


def _find_said_samples(file: BinaryIO, rate: int) -> int | None:
    """The samples in the header of an MP3 (Xing, Info or VBRI), including the encoder's delay; None without one."""
    file.seek(0)
    head = file.read(_MP3_HEAD_BYTES)
    if head[:3] == b"ID3":  # A tag, maybe with cover art; its size has four times seven bits.
        file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False)))
        head = file.read(_MP3_HEAD_BYTES)
    frames = None
    for mark, place in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        found = head.find(mark)
        if found >= 0 and (mark == b"VBRI" or (head[found + 7 : found + 8] and head[found + 7] & 1)):
            frames = int.from_bytes(head[found + place : found + place + 4], "big")
            break
    # A frame has 1152 samples in MPEG 1, and half of that at the lower rates of MPEG 2 and 2.5.
    return frames * (1152 if rate >= 32000 else 576) or None if frames else None


def _refuse(url: str, *_: object) -> NoReturn:
    raise PermissionError("a file that refers to another file, which is never opened")


def _raise_reason(error: Exception) -> NoReturn:
    # "[Errno …] Invalid data found when processing input: '<none>'"
    reason = getattr(error, "strerror", None) or str(error)
    raise AudioError(f"unreadable audio: {reason}") from error
