"""Compute the features of Whisper's encoder for each utterance of a corpus, for scripts/distill_base.py.

    python scripts/teacher_features.py CORPUS WHISPER [--processes 2]

CORPUS is what make_base_corpus.py made, WHISPER holds a Whisper model in CTranslate2's format. Needs the package
faster-whisper. For each row of CORPUS/train/metadata.csv the encoder's last layer is computed with one second of
silence behind the utterance; the frames of speech (50 a second, as wav2vec2's) become CORPUS/teacher/features.npy,
(frames, width) float16, and CORPUS/teacher/ends.npy tells where each utterance ends.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from synthesis import SynthesisError, report

SAMPLING_RATE = 16000
FRAME_SAMPLES = 320  # of Whisper's encoder, and the stride of wav2vec2
SILENCE_SECONDS = 1.0

_teacher: tuple[Any, Any] | None = None


def load_teacher(folder: Path) -> None:
    """Load the encoder into this process, on one thread."""
    global _teacher
    import ctranslate2
    from faster_whisper.feature_extractor import FeatureExtractor

    _teacher = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8"), FeatureExtractor()


def compute_features(path: Path) -> NDArray[np.float16]:
    """Return the teacher's features of a file at SAMPLING_RATE, (frames, width)."""
    import ctranslate2

    assert _teacher is not None
    model, extract = _teacher
    samples, sampling_rate = soundfile.read(path, dtype="float32")
    if sampling_rate != SAMPLING_RATE:
        raise SynthesisError(f"{path} has a sampling rate of {sampling_rate} Hz; expected {SAMPLING_RATE}")
    num_frames = len(samples) // FRAME_SAMPLES
    # The extractor's own padding is half a minute, which would be computed in full.
    spectrum = extract(np.pad(samples, (0, int(SILENCE_SECONDS * SAMPLING_RATE))), padding=0)
    spectrum = spectrum[:, : spectrum.shape[1] // 2 * 2]
    view = ctranslate2.StorageView.from_array(np.ascontiguousarray(spectrum[None], dtype=np.float32))
    return np.array(model.encode(view, to_cpu=True))[0, :num_frames].astype(np.float16)


def write_features(corpus: Path, teacher: Path, num_processes: int) -> str:
    """Write the features of CORPUS/train, and return a summary."""
    with (corpus / "train" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        paths = [corpus / "train" / row["file_name"] for row in csv.DictReader(file)]
    output = corpus / "teacher"
    if output.exists():
        raise SynthesisError(f"{output} exists already; remove it or choose another corpus")
    partial = output.with_name("teacher.partial")
    partial.mkdir(exist_ok=True)
    started = time.monotonic()
    ends: list[int] = []
    with multiprocessing.Pool(num_processes, load_teacher, (teacher,)) as pool, (partial / "raw").open("wb") as raw:
        for features in pool.imap(compute_features, paths, chunksize=16):
            raw.write(features.tobytes())
            ends.append((ends[-1] if ends else 0) + len(features))
            if sys.stderr.isatty() and len(ends) % 50 == 0:
                left = (time.monotonic() - started) / len(ends) * (len(paths) - len(ends)) / 60
                print(f"\r{len(ends)}/{len(paths)}, {left:.1f} min left ", end="", file=sys.stderr, flush=True)
    features = np.memmap(partial / "raw", dtype=np.float16, mode="r").reshape(ends[-1], -1)
    np.save(partial / "features.npy", features)
    np.save(partial / "ends.npy", np.array(ends))
    (partial / "raw").unlink()
    partial.rename(output)
    return f"{len(paths)} utterances, {ends[-1]} frames, in {(time.monotonic() - started) / 60:.1f} min"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("teacher", type=Path, help="folder of a Whisper model in CTranslate2's format")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    return report(lambda: write_features(options.corpus, options.teacher, options.processes))


if __name__ == "__main__":
    sys.exit(main())
