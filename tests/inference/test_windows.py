"""Windows hold all speech, begin on frames, are cut in pauses where there are any, and leave silence out."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from finetune.audio.waveforms import Waveform
from finetune.inference.windows import Lengths, Window, WindowCutter

RATE, STRIDE, FRAME = 16000, 320, 320
LONGEST, OVERLAP = 10, 10 / 3


class LoudnessDetector:
    """Non-zero samples are speech; results are `delay` frames late."""

    def __init__(self, delay: int = 0) -> None:
        self.delay = delay

    def start(self) -> "LoudnessDetector":
        state = LoudnessDetector(self.delay)
        state.held, state.late = np.empty(0, np.float32), np.empty(0, np.float32)
        return state

    def detect(self, samples: np.ndarray) -> np.ndarray:
        self.held = np.concatenate([self.held, samples])
        count = len(self.held) // FRAME
        frames, self.held = self.held[: count * FRAME].reshape(count, FRAME), self.held[count * FRAME :]
        self.late = np.concatenate([self.late, frames.any(axis=1).astype(np.float32)])
        ready = max(0, len(self.late) - self.delay)
        given, self.late = self.late[:ready], self.late[ready:]
        return given

    def finish(self) -> np.ndarray:
        return np.append(self.late, np.float32(self.held.any()))[: len(self.late) + bool(len(self.held))]


def cut(samples: Waveform, block: int = 10 * RATE, delay: int = 0, mean: float = 8.0) -> list[Window]:
    cutter = WindowCutter(LoudnessDetector(delay), RATE, STRIDE, Lengths(mean, LONGEST))
    windows = [
        window for first in range(0, len(samples), block) for window in cutter.cut(samples[first : first + block])
    ]
    assert len(cutter._samples) < (LONGEST + 3) * RATE + block
    return [*windows, *cutter.finish()]


def record(*stretches: tuple[float, float]) -> Waveform:
    """Speech, whose values are the positions of samples, and silence, with these lengths in seconds."""
    samples = np.concatenate(
        [[value] * round(seconds * RATE) for pair in stretches for value, seconds in enumerate(pair)]
    )
    return np.where(samples == 0, np.arange(1, len(samples) + 1), 0).astype(np.float32)


def spans(windows: list[Window]) -> np.ndarray:
    """Start and end of each window, (windows, 2) in seconds."""
    return np.array([(first := w.first_frame * STRIDE, first + len(w.waveform)) for w in windows]) / RATE


@pytest.mark.parametrize("block", [1000, 10 * RATE])
def test_a_recording_may_end_in_speech_anywhere_in_a_frame(block: int) -> None:
    whole = record((3, 0.5), (3, 0.5), (3, 0.5), (4, 0))
    for missing in range(0, 2 * FRAME, 37):
        samples = whole[: len(whole) - missing]
        windows = cut(samples, block)
        first, last = windows[-1].first_frame * STRIDE, windows[-1].first_frame * STRIDE + len(windows[-1].waveform)
        assert last == len(samples)
        assert np.array_equal(windows[-1].waveform, samples[first:])
        # With silence behind, the same windows; the last one holds some of it.
        padded = cut(np.concatenate([samples, np.zeros(RATE, np.float32)]), block)
        assert [window.first_frame for window in padded] == [window.first_frame for window in windows]


def test_a_recording_no_longer_than_a_window_is_one_window() -> None:
    samples = np.concatenate([record((1, 3), (2, 2), (1, 0.5)), np.full(100, 0.5, np.float32)])
    for block in (1000, 10 * RATE):
        [window] = cut(samples, block)
        assert window.first_frame == 0
        assert np.array_equal(window.waveform, samples)
    assert cut(np.zeros(5 * RATE, np.float32)) == []


def test_a_long_pause_is_skipped_but_for_its_margins() -> None:
    windows = cut(record((3, 5), (4, 2), (2, 20)))
    assert spans(windows) == pytest.approx(np.array([(0, 3.3), (7.7, 12.3), (13.7, 16.3)]), abs=0.03)
    assert all(window.after_pause for window in windows)


def test_windows_overlap_in_speech_without_pauses() -> None:
    windows = cut(record((25, 3)))
    expected = [(0, LONGEST), (LONGEST - OVERLAP, 2 * LONGEST - OVERLAP)]
    assert spans(windows)[:2] == pytest.approx(np.array(expected), abs=0.03)
    assert [window.after_pause for window in windows] == [True] + [False] * (len(windows) - 1)
    assert spans(windows)[-1][1] == pytest.approx(25.3, abs=0.03)


def test_a_window_that_would_be_too_long_ends_in_its_longest_pause() -> None:
    # None of the pauses is long enough to end a window that is still short.
    windows = cut(record((1.5, 0.2), (1.5, 0.36), (1.5, 0.2), (9, 2)), mean=40)
    assert spans(windows) == pytest.approx(np.array([(0, 3.5), (3.26, 5.26), (5.06, 14.56)]), abs=0.03)
    assert all(window.after_pause for window in windows)


def test_a_longer_window_ends_in_a_shorter_pause() -> None:
    samples = record(*[(1.0, 0.3)] * 20)
    few, many = cut(samples, mean=20), cut(samples, mean=2)
    assert len(few) == 4 and len(many) == 20
    assert all(window.after_pause for window in [*few, *many])


def test_the_closures_of_plosives_end_no_window() -> None:
    windows = cut(record(*[(0.5, 0.12)] * 60), mean=2)
    assert [window.after_pause for window in windows] == [True] + [False] * (len(windows) - 1)
    assert len(windows) > 3


@pytest.mark.parametrize("seed", range(6))
def test_all_speech_is_in_windows_and_blocks_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stretches = [(rng.choice([0.1, 1.0, 3.0, 15.0]) * rng.uniform(0.5, 2), rng.exponential(0.7)) for _ in range(40)]
    samples = record(*stretches)
    windows = cut(samples)
    covered = np.zeros(len(samples), bool)
    for window in windows:
        first = window.first_frame * STRIDE
        assert np.array_equal(window.waveform, samples[first : first + len(window.waveform)])
        assert len(window.waveform) <= (LONGEST + 0.3) * RATE + STRIDE
        covered[first : first + len(window.waveform)] = True
    assert covered[samples != 0].all()
    for ((_, end), (start, _)), window in zip(pairwise(spans(windows)), windows[1:], strict=True):
        if window.after_pause:  # They share no more than a pause.
            shared = samples[round(start * RATE) + STRIDE : round(end * RATE)]
            assert not shared.any() and len(shared) <= 0.3 * RATE
        else:
            assert start == pytest.approx(end - OVERLAP, abs=0.03)
    quiet = np.flatnonzero(np.diff(np.concatenate([[0], samples == 0, [0]])))
    for start, end in quiet.reshape(-1, 2):
        if end - start > 2 * RATE:
            assert covered[start:end].sum() < 0.7 * RATE
    for block, delay in ((1234, 0), (RATE, 100), (len(samples), 7)):
        others = cut(samples, block, delay)
        assert np.array_equal(spans(others), spans(windows))
        assert [each.after_pause for each in others] == [each.after_pause for each in windows]


def test_hours_of_silence_give_no_window_and_need_no_memory() -> None:
    cutter = WindowCutter(LoudnessDetector(), RATE, STRIDE)
    for _ in range(360):
        assert list(cutter.cut(np.zeros(10 * RATE, np.float32))) == []
        assert len(cutter._samples) <= 20 * RATE
    assert list(cutter.finish()) == []
    assert cutter.num_samples == 3600 * RATE


def test_lengths_are_those_of_training(tmp_path: Path) -> None:
    assert Lengths.load(tmp_path) == Lengths()
    Lengths(2.5, 6.4).save(tmp_path)
    (tmp_path / "training.json").write_text("{}")
    assert Lengths.load(tmp_path) == Lengths(2.5, 6.4)


def test_older_models_have_the_lengths_in_their_record(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    train = {"utterances": 4, "seconds": 10.0, "longest_seconds": 6.4}
    file.write_text(json.dumps({"data": {"splits": {"train": train}}}))
    assert Lengths.load(tmp_path) == Lengths(2.5, 6.4)
    nonsense = ({"utterances": 0}, {"seconds": -1.0}, {"seconds": math.nan}, {"longest_seconds": 0.0})
    others = [json.dumps({"data": {"splits": {"train": {**train, **each}}}}) for each in nonsense]
    for damaged in ("", "[]", "{}", *others):
        file.write_text(damaged)
        assert Lengths.load(tmp_path) == Lengths()
