"""How much speech the detectors miss and how much silence they keep, on joined utterances with pauses, in noise.

    python scripts/bench_detection.py FOLDER [--utterances 40] [--detectors energy live silero]

It takes no --precision: one detector is arithmetic on spectra, and the other's network is shipped in float32.

FOLDER has one utterance in each file, recorded in quiet. They are joined with pauses of one to five seconds, which hold
noise as loud as the utterance's own. A frame of 20 ms is speech where the clean utterance is 10 dB above its own noise
and within 30 dB of its peak; up to 120 ms between such frames are too. Noise is then added to it all, at a
signal-to-noise ratio of the speech alone. Found is what a detector is surer of than 0.5.

`missed`: the share of speech that is not found, and then the share that is more than 0.2 s from what is found, which
is what a transcriber that keeps such a margin loses. `kept`: the share of what is no speech that is found. `x`: times
real time.

Measured on AN4, on which the energy detector's constants were chosen too, in percent; missed, too far away, kept:

    noise     dB          energy               silero           energy, live
    none              1.0   0.0    5.7     5.0   1.0    2.2      1.5   0.0    4.1
    white     20     10.2   0.8    0.7     6.1   1.0    2.4     11.2   0.8    1.1
    white     10     16.1   1.2    0.4     6.3   1.0    3.0     18.3   1.4    0.9
    white      0     30.0   3.4    0.1    19.6   7.4    2.0     34.4   8.0    0.6
    pink      20     13.2   0.5    0.3     6.4   1.0    2.0     14.3   0.9    0.9
    pink      10     18.9   1.2    0.2     8.9   1.5    2.3     23.0   1.7    0.7
    pink       0     51.9  12.8    0.0    32.7  17.4    1.2     56.4  21.4    0.5
    hum       10     21.1   1.3    0.2     8.3   1.1    1.9     24.1   2.1    0.7
    hum        0     50.9   9.7    0.1    17.2   4.0    1.3     53.6  16.1    0.6
    babble    20      1.4   0.0   75.1     5.6   1.0    4.0      2.8   0.0   64.2
    babble    10      1.5   0.0   91.0     0.0   0.0   97.8      3.0   0.0   83.8

`live` is the energy detector that looks at the past only, and so answers within 0.1 s instead of 2.1 s.

The energy detector's threshold was chosen when it still held speech for 60 ms before and 120 ms behind, which hid the
pauses that windows are cut in. It runs at some 10,000 times real time, Silero's at some 250 on an AMD EPYC
(Zen 4: avx512_bf16, avx512_vnni) beside other work.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from acoustics import Waveform, make_noise
from numpy.typing import NDArray
from parts import report_machine

from finetune.audio.speech_activity import SpeechDetector, build_detector
from finetune.audio.waveforms import SUFFIXES, Recording, read_waveform

RATE, FRAME = 16000, 320
MARGIN_FRAMES = 10
BLOCK = 10 * RATE
NOISES = [("none", 0)] + [(kind, snr) for kind in ("white", "pink", "hum", "babble") for snr in (20, 10, 5, 0)]

Mask = NDArray[np.bool_]


def find_speech(utterance: Waveform) -> tuple[Mask, float]:
    """The frames of a clean utterance that are speech, and the root mean square of its noise."""
    power = np.convolve((utterance.reshape(-1, FRAME) ** 2).mean(axis=1) + 1e-12, np.ones(3) / 3, "same")
    noise = float(np.percentile(power, 8))
    speech = power > max(10 * noise, 1e-3 * float(np.percentile(power, 97)))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speech, [False]]).astype(int))).reshape(-1, 2)
    for (_, end), (start, _) in itertools.pairwise(edges):
        if start - end <= 6:
            speech[end:start] = True
    return speech, noise**0.5


def join(utterances: list[Waveform], rng: np.random.Generator) -> tuple[Waveform, Mask]:
    """Utterances with pauses between them, and which frames are speech."""
    samples, speech = [], []
    for whole in utterances:
        utterance = whole[: len(whole) // FRAME * FRAME]
        mask, noise = find_speech(utterance)
        pause = int(rng.uniform(1, 5) * RATE) // FRAME
        samples += [utterance, (noise * rng.standard_normal(pause * FRAME)).astype(np.float32)]
        speech += [mask, np.zeros(pause, bool)]
    return np.concatenate(samples), np.concatenate(speech)


def detect(detector: SpeechDetector, samples: Waveform) -> tuple[Mask, float]:
    """The frames found, and how many times faster than real time."""
    start = time.perf_counter()
    state = detector.start()
    sure = [state.detect(samples[first : first + BLOCK]) for first in range(0, len(samples), BLOCK)]
    found = np.concatenate([*sure, state.finish()]) > 0.5
    return found, len(samples) / RATE / (time.perf_counter() - start)


def main() -> None:
    """Print a row for each noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--utterances", type=int, default=40)
    names = ("energy", "live", "silero")
    parser.add_argument("--detectors", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    report_machine(None)
    rng = np.random.default_rng(0)
    files = sorted(file for file in arguments.folder.iterdir() if file.suffix in SUFFIXES)
    chosen = rng.choice(len(files), min(len(files), arguments.utterances + 20), replace=False)
    read = [read_waveform(Recording(str(files[place]), None), RATE) for place in chosen]
    utterances, others = read[: arguments.utterances], read[arguments.utterances :]
    samples, speech = join([utterance - utterance.mean() for utterance in utterances], rng)
    print(f"{len(samples) / RATE:.0f} s, {100 * speech.mean():.0f} % of it speech")
    detectors = {
        name: build_detector("silero" if name == "silero" else "energy", RATE, live=name == "live")
        for name in arguments.detectors
    }
    for kind, snr in NOISES:
        noisy = samples
        if kind != "none":
            noise = make_noise(kind, len(samples), RATE, np.random.default_rng(1), others or utterances)
            level = np.sqrt((samples[np.repeat(speech, FRAME)] ** 2).mean())
            noisy = samples + (level * 10 ** (-snr / 20) * noise).astype(np.float32)
        row = f"{kind:7}{snr if kind != 'none' else '':>3}"
        for name, detector in detectors.items():
            found, speed = detect(detector, noisy)
            near = np.convolve(found, np.ones(2 * MARGIN_FRAMES + 1), "same") > 0
            shares = (1 - found[speech].mean(), 1 - near[speech].mean(), found[~speech].mean())
            missed, lost, kept = (100 * float(share) for share in shares)
            row += f"   {name}: missed {missed:4.1f} {lost:4.1f} kept {kept:5.1f} {speed:5.0f}x"
        print(row, flush=True)


if __name__ == "__main__":
    main()
