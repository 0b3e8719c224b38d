"""Our decoding against FFmpeg's, for each audio file of a folder: length, correlation, and what we refuse and why.

    python scripts/survey_audio.py FOLDER [--tolerance 0]

FFmpeg is PyAV's, told nothing: it opens a file by its name, decodes its first audio track to the end, and passes over
what it can't decode. A line is printed for each file that is refused here and not there or the other way round, whose
length differs by more than `--tolerance` samples, or whose samples do not correlate; the exit code is 1 where there is
one.

On the source archives of mutagen 1.48.1, tinytag 2.3.2, audioread 3.1.0 and pydub 0.25.1 (av 18.1): mutagen's alone
holds audio, 58 files, of which 38 are alike, 12 can be read by neither, and 8 differ:

| file | ours | FFmpeg |
|---|---|---|
| apev2-lyricsv2.mp3, vbri.mp3 | truncated audio: their headers speak of more | 85,295 and 19,584 samples |
| issue_29.wma | damaged audio: a piece can't be decoded | 36,864 samples without that piece |
| 52-too-short-block-size.flac, variable-block.flac | unreadable audio (libsndfile) | 13,824 and 39,936 samples |
| empty.ogg, multipagecomment.ogg | 162,496 samples (libsndfile) | 162,368 |
| example.opus | correlation 0.9944 | |
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from finetune.audio.containers import to_samples
from finetune.audio.waveforms import AudioError, Recording, decode, mix_channels, read_header

_SUFFIXES = frozenset(
    [
        ".mp3",
        ".mp2",
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".m4a",
        ".m4b",
        ".mp4",
        ".3gp",
        ".aac",
        ".wma",
        ".aif",
        ".aiff",
        ".aifc",
        ".webm",
    ]
)
_LEAST_CORRELATION = 0.999


def main(arguments: Sequence[str]) -> int:
    """Survey a folder; 1 if a file is decoded otherwise than by FFmpeg."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tolerance", type=int, default=0, help="samples by which lengths may differ")
    options = parser.parse_args(arguments)
    files = [file for file in sorted(options.folder.rglob("*")) if file.suffix.lower() in _SUFFIXES]
    if not files:
        sys.exit(f"There is no audio file in {options.folder}.")
    both = refused = differing = 0
    for file in (file for file in files if file.is_file()):
        ours, theirs = decode_ours(file), decode_theirs(file)
        if isinstance(ours, str) and isinstance(theirs, str):
            refused += 1
        elif difference := compare(ours, theirs, options.tolerance):
            differing += 1
            print(f"{file.relative_to(options.folder)}: {difference}", flush=True)
        else:
            both += 1
    print(f"{len(files)} files: {both} alike, {refused} that neither can read, {differing} that differ")
    return int(differing > 0)


def decode_ours(file: Path) -> npt.NDArray[np.float32] | str:
    """Samples (samples,) at the file's own rate, all channels mixed, or the reason why not."""
    recording = Recording(str(file), None)
    try:
        header = read_header(recording)
        decoded = decode(recording, header.sampling_rate).waveform
    except AudioError as error:
        return str(error)
    return decoded if len(decoded) == header.samples else f"header {header.samples}, decoded {len(decoded)} samples"


def decode_theirs(file: Path) -> npt.NDArray[np.float32] | str:
    """The same by FFmpeg alone, which passes over what it can't decode."""
    blocks = []
    try:
        with av.open(str(file)) as container:
            for packet in container.demux(audio=0):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    continue
                blocks += [mix_channels(to_samples(frame, len(frame.layout.channels)))[0] for frame in frames]
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        if not blocks:
            return str(error)
    return np.concatenate(blocks) if blocks else "no samples"


def compare(ours: npt.NDArray[np.float32] | str, theirs: npt.NDArray[np.float32] | str, tolerance: int) -> str | None:
    """What differs, or None."""
    if isinstance(ours, str):
        return f"ours: {ours}; FFmpeg: {len(theirs)} samples"
    if isinstance(theirs, str):
        return f"ours: {len(ours)} samples; FFmpeg: {theirs}"
    if abs(len(ours) - len(theirs)) > tolerance:
        return f"ours: {len(ours)} samples; FFmpeg: {len(theirs)}"
    length = min(len(ours), len(theirs))
    a, b = ours[:length].astype(np.float64), theirs[:length].astype(np.float64)
    power = float(np.sqrt((a**2).sum() * (b**2).sum()))
    correlation = float(a @ b) / power if power > 0 else float(np.abs(a).max() == np.abs(b).max())
    return None if correlation >= _LEAST_CORRELATION else f"correlation {correlation:.4f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
