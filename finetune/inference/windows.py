"""Cutting long recordings into windows: in pauses, or with an overlap in continuous speech."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.audio.speech_activity import FRAME_SECONDS, SpeechDetector
from finetune.audio.waveforms import AudioError, Waveform
from finetune.errors import UserError
from finetune.files import write_json
from finetune.resources.model_json import read_object

LENGTHS_FILE = "utterance_lengths.json"
_MOST_SECONDS = 24 * 3600

# The longest window, even if the training utterances were longer: the cost of attention is quadratic.
_MAX_SECONDS = 20.0
# The least limit of a window, even if the model was trained on single short words.
_MIN_SECONDS = 1.0
# For a model with unknown training data: utterances as in the usual corpora of read speech.
_MEAN_SECONDS = 10.0
# The overlap of two windows in continuous speech, at most a third of a window: the cut has half of it on each side.
_OVERLAP_SECONDS = 4.0
# The silence that is kept before and after speech, if there is as much: the ends of speech are faint, and models expect
# some silence. Windows share a short pause: if each had half of it, AN4's joined utterances had 10 % more word errors.
_MARGIN_SECONDS = 0.3
# A pause of this length ends any window, and its middle is skipped.
_LONG_PAUSE_SECONDS = 0.6
# Shorter silences are in words, such as the closures of plosives.
_MIN_PAUSE_SECONDS = 0.14
# The speech probability from which a frame counts as speech.
_SPEECH = 0.5


@dataclass(frozen=True)
class Lengths:
    """The mean and the longest training utterance of a model, in seconds."""

    mean: float = _MEAN_SECONDS
    longest: float = _MAX_SECONDS

    def save(self, model: Path) -> None:
        """Write them into the folder of a model."""
        write_json(model / LENGTHS_FILE, {"mean_seconds": self.mean, "longest_seconds": self.longest})

    @classmethod
    def load(cls, model: Path) -> "Lengths":
        """Read what `save` wrote into the folder of a model.

        Older models have them in `training.json`; without either file the defaults are used. Raises UserError for a
        damaged file.
        """
        if not (model / LENGTHS_FILE).is_file():
            return cls._load_record(model / "training.json")
        values = read_object(model / LENGTHS_FILE)
        for seconds in (values.get("mean_seconds"), values.get("longest_seconds")):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _MOST_SECONDS:
                raise UserError(
                    f"{model / LENGTHS_FILE} is damaged: found {str(seconds)[:20]}, expected mean_seconds and "
                    f"longest_seconds above 0 and up to {_MOST_SECONDS}."
                )
        return cls(mean=float(values["mean_seconds"]), longest=float(values["longest_seconds"]))

    @classmethod
    def _load_record(cls, file: Path) -> "Lengths":
        try:
            train = read_object(file)["data"]["splits"]["train"]
            lengths = cls(train["seconds"] / train["utterances"], float(train["longest_seconds"]))
        except (UserError, ValueError, LookupError, TypeError, ArithmeticError):
            return cls()
        return lengths if 0 < lengths.mean < math.inf and 0 < lengths.longest < math.inf else cls()


@dataclass(frozen=True)
class Window:
    """A part of a recording, (samples,), that begins at a frame of the encoder.

    `after_pause`: no word continues into it from the window before, with which it may share a short pause; otherwise
    the two overlap in speech.
    """

    first_frame: int
    waveform: Waveform
    after_pause: bool


class WindowCutter:
    """Cuts one channel of a recording, block by block, and holds at most a window and a block in memory.

    Windows have the lengths of the training utterances: many models get worse on longer input. A recording no longer
    than the longest training utterance is one window. A longer one is cut in pauses: in each pause of 0.6 s, whose
    middle is skipped, and in shorter pauses the longer the speech since the last cut is; after half the mean utterance,
    in any pause. If there is no pause in time, windows overlap. Silence and noise without speech are in no window.
    """

    def __init__(
        self,
        detector: SpeechDetector,
        sampling_rate: int,
        stride: int,
        lengths: Lengths = Lengths(),
        *,
        live: bool = False,
    ) -> None:
        """`stride` is the number of samples from one frame of the encoder to the next.

        In a `live` stream a short recording is cut in its pauses, too.
        """
        self._live = live
        self._detecting = detector.start()
        self._stride = stride
        self._frame = round(FRAME_SECONDS * sampling_rate)
        self._longest = round(max(_MIN_SECONDS, min(lengths.longest, _MAX_SECONDS)) * sampling_rate)
        self._overlap = min(round(_OVERLAP_SECONDS * sampling_rate), self._longest // 3)
        self._enough = lengths.mean / 2 * sampling_rate
        self._margin = round(_MARGIN_SECONDS * sampling_rate)
        self._min_pause = round(_MIN_PAUSE_SECONDS * sampling_rate)
        self._long_pause = round(_LONG_PAUSE_SECONDS * sampling_rate)
        # All positions are in samples from the recording's start.
        self._samples: Waveform = np.empty(0, np.float32)
        self._first = 0  # the position of the first held sample
        self._known = 0  # the position up to which speech was detected
        self._speech: list[tuple[int, int]] = []  # start and end of speech in the next windows
        self._floor = 0  # the end of speech in the last window
        self._begun: int | None = None  # the beginning of the next window, if it overlaps the last one

    @property
    def num_samples(self) -> int:
        """The number of samples up to now."""
        return self._first + len(self._samples)

    @property
    def next_start(self) -> int | None:
        """The first sample of the next window; None until there is speech for it."""
        if not self._speech:
            return None
        start = max(self._speech[0][0] - self._margin, self._floor) if self._begun is None else self._begun
        return start // self._stride * self._stride

    @property
    def overlaps(self) -> bool:
        """Whether the next window overlaps the one before, because speech did not pause."""
        return self._begun is not None

    @property
    def oldest(self) -> int:
        """The first sample that a further window may have."""
        return self._first

    def part(self, position: int) -> int:
        """Let the next window begin at a position in the window before, without an overlap; returns the position."""
        assert position >= self._first
        self._begun, self._floor = None, position
        self._speech[0] = (position, self._speech[0][1])
        return position

    def cut(self, samples: Waveform) -> Iterator[Window]:
        """The windows that are complete with the next block, (samples,)."""
        self._samples = np.concatenate([self._samples, samples])
        self._note_speech(self._detecting.detect(samples))
        if self._live or self.num_samples > self._longest:  # Until then it may be one window.
            yield from self._cut(final=False)

    def finish(self) -> Iterator[Window]:
        """The remaining windows, when there are no more blocks."""
        self._note_speech(self._detecting.finish())
        self._known = self.num_samples
        # The last frame is padded: speech in it would reach beyond the last sample.
        self._speech = [(start, min(end, self._known)) for start, end in self._speech if start < self._known]
        if self._live or self.num_samples > self._longest:
            yield from self._cut(final=True)
        elif self._samples.any():
            yield Window(0, self._samples, after_pause=True)

    def _note_speech(self, sureness: NDArray[np.float32]) -> None:
        """Add the speech probabilities of further frames, (frames,), and join speech across very short silences.

        Raises AudioError for NaN, with which all speech would be missed without notice.
        """
        if np.isnan(sureness).any():
            raise AudioError("audio holds values so large that their power is no number: expected about -1 to 1")
        is_speech = np.concatenate([[False], sureness > _SPEECH, [False]])
        edges = np.flatnonzero(is_speech[1:] != is_speech[:-1])
        for first, last in edges.reshape(-1, 2).tolist():
            start, end = self._known + first * self._frame, self._known + last * self._frame
            if self._speech and start - self._speech[-1][1] < self._min_pause:
                self._speech[-1] = (self._speech[-1][0], end)
            else:
                self._speech.append((start, end))
        self._known += len(sureness) * self._frame

    def _cut(self, final: bool) -> Iterator[Window]:
        while (start := self.next_start) is not None:
            found = self._find_end(start, final)
            if found is None:
                return
            end, in_pause = found
            waveform = self._samples[start - self._first : end - self._first].copy()
            yield Window(start // self._stride, waveform, after_pause=self._begun is None)
            self._begun = None if in_pause else end - self._overlap
            self._floor = max(spoken for _, spoken in self._speech if spoken <= end) if in_pause else end
            self._speech = [stretch for stretch in self._speech if stretch[1] > end]
            self._forget(self._floor if in_pause else end - self._overlap)
        self._forget(self._known - self._margin)

    def _find_end(self, start: int, final: bool) -> tuple[int, bool] | None:
        """The end of the window that begins at `start`, and whether it is in a pause; None if that is not known yet."""
        limit = start + self._longest
        best: tuple[int, int] | None = None  # the longest pause, and where to cut in it
        for (_, end), following in zip_longest(self._speech, self._speech[1:]):
            if end > limit:
                return (limit, False) if best is None else (best[1], True)
            if following is None and final:
                return min(end + self._margin, self.num_samples), True
            pause = (self._known if following is None else following[0]) - end
            if following is None and pause < self._long_pause:
                return None  # It may go on.
            cut = end + min(self._margin, pause)
            if pause >= self._needed_pause(end - start):
                return cut, True
            best = max(best or (0, 0), (pause, cut))
        return None

    def _needed_pause(self, length: int) -> float:
        """The length of a pause that ends a window with this much speech; it decreases with the length."""
        share = min(1.0, length / self._enough)
        return self._long_pause + share * (self._min_pause - self._long_pause)

    def _forget(self, position: int) -> None:
        """Drop the samples before the encoder's frame at a position."""
        position = max(position, self._first) // self._stride * self._stride
        self._samples = self._samples[position - self._first :]
        self._first = position
