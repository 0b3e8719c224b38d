"""Sound in formats that libsndfile doesn't know or can't tell the length of, decoded by FFmpeg's libraries (PyAV).

A file can neither name other files nor a network: FFmpeg reads the one Python file that it is given, by the demuxers
listed here, of which none follows a playlist.
"""

import io
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from finetune.audio.mp4_index import require_honest_index
from finetune.audio.recordings import AudioError, Waveform
from finetune.resources.limits import MAX_BLOCK_VALUES, MAX_READINGS, MAX_SAMPLES_PER_BYTE

# Demuxers by FFmpeg's names. Not among them: hls, dash, concat and others that open what a file names.
_FORMATS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dsf", "eac3", "flac", "flv", "matroska", "mov"),
    *("mp3", "mpc", "mpc8", "mpeg", "mpegts", "nistsphere", "ogg", "tak", "tta", "voc", "w64", "wav", "wv"),
)
_CODECS = (
    *("aac", "aac_latm", "ac3", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "adpcm_yamaha", "alac", "amrnb", "amrwb"),
    *("ape", "dca", "dsd_lsbf", "dsd_lsbf_planar", "dsd_msbf", "dsd_msbf_planar", "eac3", "flac", "g722", "g726"),
    *("gsm", "gsm_ms", "libopencore_amrnb", "libopencore_amrwb", "libopus", "mp1float", "mp2float", "mp3float"),
    *("mpc7", "mpc8", "opus", "shorten", "speex", "tak", "truespeech", "tta", "vorbis", "wavpack", "wmalossless"),
    *("wmapro", "wmav1", "wmav2", "wmavoice"),
)
# A length is believed from the packets of these, without decoding: each decodes to as many samples as it says.
_COUNTED_BY_PACKETS = frozenset({"mp3", "flac"})
# Of these no length is known but by reading: what FFmpeg says is a guess from the bit rate, none, or of an Ogg that
# holds several streams (others libsndfile reads) that of the first.
_SAYS_NOTHING = frozenset({"aac", "ac3", "amr", "eac3", "flac", "mp3", "mpeg", "mpegts", "ogg", "wav"})
# The length in a container's header is rounded to packets and may count what an encoder puts before the sound.
_ROUNDING_SECONDS = 0.25
# MP3's frames lean on those before (the bit reservoir), so decoding begins as much before a piece.
_RUN_UP_SECONDS = 1.0
_ENDLESS = 2**63 - 1
_MP3_HEAD_BYTES = 4096
# FFmpeg looks at so much to find out what a file is, and at parts of it again.
_PROBED_BYTES = 2**26


class ContainerSound:
    """The first audio track of a file, which is read anew for each question; `said` is its length as its header says.

    `said` is in samples, and None where the header doesn't know.
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
                raise AudioError(f"unreadable audio: its sound is encoded as {codec}, which is not read")
            seconds = self._find_seconds(container, stream)
            try:
                packets = itertools.islice(container.demux(stream), size + 1)  # A packet has a byte or more.
                first = next(frame for packet in packets for frame in packet.decode())
            except StopIteration:
                raise AudioError("audio of zero length") from None
            except (av.error.FFmpegError, ValueError) as error:
                _raise_reason(error)
        self._counted = self._format in _COUNTED_BY_PACKETS or codec.startswith("pcm_")
        self.sampling_rate, self.channels = int(first.sample_rate), int(first.layout.nb_channels)
        self.said = None if seconds is None else round(seconds * self.sampling_rate)
        if self._format == "mp3":
            self.said = _find_said_samples(file, self.sampling_rate)

    def count(self, whole: bool) -> int:
        """How many samples there are; raises AudioError where it must be `whole` and the header speaks of more."""
        samples = 0 if self._counted else sum(len(block) for block in self.blocks(0, _ENDLESS))
        for _, place, length in self._packets() if self._counted else ():
            if self._format == "flac" and place is not None and place != samples:
                raise AudioError(f"damaged audio: {place - samples} samples are missing at {samples}")
            samples += length
        if self._counted and samples < self.sampling_rate:
            # What an encoder put around the sound may be in one packet, and then the decoder decides.
            samples = sum(len(block) for block in self.blocks(0, _ENDLESS))
        if whole:
            self._require(samples)
        return samples

    def blocks(self, first: int, last: int | None) -> Iterator[Waveform]:
        """Blocks of (samples, channels), from the sample `first` up to `last` or to the end.

        Raises AudioError when it can't be decoded, or ends before the header says.
        """
        place = 0
        for samples in self._decode(first):
            if isinstance(samples, int):  # So many were passed over.
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
        # Nothing is passed over where the decoder must see what to skip at the beginning.
        run_up = first - round(_RUN_UP_SECONDS * self.sampling_rate)
        run_up = run_up if self._counted and run_up > self.sampling_rate else 0
        passed, decoded = 0, 0
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
                    raise AudioError(f"damaged audio: a piece of {frame.samples} samples, which no encoder writes")
                yield to_samples(frame, self.channels)
            decoded = passed

    def _packets(self) -> Iterator[tuple[Any, int | None, int]]:
        """Each packet of the track, the place of its first sample where it says one, and its number of samples."""
        import av

        steady = _Steady(self._file, self._size)
        with self._open(steady) as container:
            stream = self._find_track(container)
            try:
                skipped = work = 0
                for packet in container.demux(stream):
                    steady.go_on()
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
        """Refuse a file that gives more samples, or packets, than its bytes can hold: it would have no end."""
        if samples > self._most_samples:
            raise AudioError("damaged audio: its index promises more than its bytes can hold")

    def _open(self, file: "_Steady") -> Any:
        import av

        file.seek(0)
        # A WAV of unknown length says 0 or anything; others that come here have no `data` chunk of their own.
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
            raise AudioError("unreadable audio: its encoding is not known")
        stream.codec_context.thread_count = 1
        return stream

    def _find_seconds(self, container: Any, stream: Any) -> float | None:
        if self._format in _SAYS_NOTHING:
            return None
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is None or len(container.streams) > 1:  # The longest track's.
            return None
        return float(container.duration / 1e6)


class _Steady:
    """A file of so many bytes that FFmpeg may read a few times from one packet to the next, but not for ever."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file
        self._most = MAX_READINGS * size + _PROBED_BYTES
        self._left = self._most

    def go_on(self) -> None:
        """Something came of what was read."""
        self._left = self._most

    def read(self, count: int) -> bytes:
        """So many bytes, or what is left; raises AudioError where nothing came of what was read before."""
        part = self._file.read(count)
        self._left -= max(len(part), 1024)  # Nothing is read again and again at the end.
        if self._left < 0:
            raise AudioError("damaged audio: it is read again and again, and nothing comes of it")
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
        where = "a piece of it" if place is None else f"the piece at {place / rate:.2f} s"
        raise AudioError(f"damaged audio: {where} can't be decoded") from error


def to_samples(frame: Any, channels: int) -> Waveform:
    """PyAV's frame as float32 of (samples, channels)."""
    values = frame.to_ndarray()
    return scale(values.T if frame.format.is_planar else values.reshape(-1, channels))


def _find_skipped(packet: Any) -> tuple[int, int]:
    """How many samples the decoder throws away from a packet on, and at its end: what an encoder put around the sound.

    They are the first two numbers of AV_PKT_DATA_SKIP_SAMPLES.
    """
    for data in packet.iter_sidedata():
        if data.data_type == "skip_samples":
            content = bytes(data)
            return int.from_bytes(content[:4], "little"), int.from_bytes(content[4:8], "little")
    return 0, 0


def _find_said_samples(file: BinaryIO, rate: int) -> int | None:
    """Samples that an MP3's first frame speaks of (Xing, Info or VBRI), the encoder's delay included, if it does."""
    file.seek(0)
    head = file.read(_MP3_HEAD_BYTES)
    if head[:3] == b"ID3":  # A tag with a size of four times seven bits, and cover art.
        file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False)))
        head = file.read(_MP3_HEAD_BYTES)
    frames = None
    for mark, place in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        found = head.find(mark)
        if found >= 0 and (mark == b"VBRI" or (head[found + 7 : found + 8] and head[found + 7] & 1)):
            frames = int.from_bytes(head[found + place : found + place + 4], "big")
            break
    # MPEG 1 has 1152 samples a frame, MPEG 2 and 2.5 with their lower rates half of it.
    return frames * (1152 if rate >= 32000 else 576) or None if frames else None


def _refuse(url: str, *_: object) -> NoReturn:
    raise PermissionError("a file names another one to be read, which is never done")


def _raise_reason(error: Exception) -> NoReturn:
    # "[Errno …] Invalid data found when processing input: '<none>'"
    reason = getattr(error, "strerror", None) or str(error)
    raise AudioError(f"unreadable audio: {reason}") from error
