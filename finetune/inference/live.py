"""Live transcription: partial texts with a stable prefix, and a final text for each segment of speech."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finetune.audio.preprocessing import build_placing_preprocessor
from finetune.audio.recordings import AudioError, Waveform, require_sound
from finetune.audio.resampling import Resampler
from finetune.audio.samples import Encoding, SampleReader
from finetune.audio.speech_activity import build_detector
from finetune.audio.waveforms import CANCELLED, mix_channels
from finetune.errors import UserError
from finetune.inference.events import Event, Final, Partial, SpeechEnded, SpeechStarted, average_confidence
from finetune.inference.recogniser import Recogniser
from finetune.inference.timing import place_words
from finetune.inference.transcriber import Computation, Returned, Transcriber
from finetune.inference.transcript import Transcript, Word
from finetune.inference.windows import Window, WindowCutter
from finetune.text.word_units import join_han

_LOGGER = logging.getLogger(__name__)

# Speech without a pause is cut between two words after this time, which bounds memory and the final decoding.
_MAX_SEGMENT_SECONDS = 60.0
_RATES = 1000, 192_000  # Hz
# A block with less than this share of the loudest power is quiet; the loudest is forgotten by this factor a block.
_QUIET, _FORGETTING = 0.1, 0.97
# The logit of each symbol but the blank in a frame of silence.
_NEVER = -1e3
# The stable prefix is common to the best hypotheses: at most so many, with scores (natural log) this close to the best.
_HYPOTHESES, _MARGIN = 100, 3.0


@dataclass(frozen=True)
class LiveContext:
    """The context of each frame and the hop between computations, in seconds.

    A frame is stable when `right` seconds after it are known. Every `hop` seconds the frames that are not stable are
    computed, with `left` seconds before them.

    >>> from finetune.inference.live import LiveContext
    >>> LiveContext.of_latency(1.6)
    LiveContext(left=6.0, right=1.28, hop=0.32)
    """

    left: float = 6.0
    right: float = 0.64
    hop: float = 0.32

    @classmethod
    def of_latency(cls, seconds: float | None) -> LiveContext:
        """The context with which a word is stable after so many seconds, by default 0.96; raises UserError.

        Below 0.48 s the hop is shorter, too: two thirds of the latency (scripts/bench_live.py).
        """
        context = cls()
        if seconds is None:
            return context
        if not 0.16 <= seconds <= 10:
            raise UserError(f"--latency is {seconds:g} s: expected 0.16 to 10.")
        hop = min(context.hop, seconds * 2 / 3)
        return cls(left=context.left, right=seconds - hop, hop=hop)


class LiveTranscriber:
    """Transcribes live streams; one object serves any number of sessions and threads.

    >>> from finetune.inference.live import LiveTranscriber
    >>> live = LiveTranscriber("runs/quickstart/model", device="cpu")
    >>> session = live.session(sampling_rate=8000, encoding="mulaw")
    >>> session.finish()
    []
    """

    def __init__(
        self,
        model: str | Path | Recogniser,
        *,
        context: LiveContext = LiveContext(),
        detector: Literal["energy", "silero"] = "energy",
        **options: Any,
    ) -> None:
        """Load a model as `Transcriber` does, which has the same `options`; raises UserError as it does."""
        self.transcriber = Transcriber(model, detector=detector, **options)
        self.recogniser, self.stride = self.transcriber.recogniser, self.transcriber.stride
        self.context = context
        self.detector = build_detector(detector, self.recogniser.sampling_rate, live=True)
        self.preprocess = build_placing_preprocessor(self.recogniser.preprocessing, self.recogniser.sampling_rate)

    def session(
        self, sampling_rate: int, *, encoding: Encoding = "s16le", channels: int = 1, channel: int | None = None
    ) -> LiveSession:
        """Begin a stream at `sampling_rate` Hz; see `SampleReader` for the other arguments.

        Raises AudioError for a rate outside 1,000 to 192,000 Hz, and as `SampleReader` does.
        """
        if not _RATES[0] <= sampling_rate <= _RATES[1]:
            raise AudioError(f"a sampling rate of {sampling_rate} Hz; expected {_RATES[0]} to {_RATES[1]}")
        return LiveSession(self, sampling_rate, SampleReader(encoding, channels, channel))

    def compute(self, computation: Computation[Returned]) -> Returned:
        """Run a computation, and return its result; each waveform is computed by itself."""
        try:
            waveform = next(computation)
            while True:
                logits, [frames] = self.recogniser.logits([waveform])
                waveform = computation.send(logits[0, :frames].numpy())
        except StopIteration as end:
            returned: Returned = end.value
            return returned


class LiveSession:
    """One stream: `feed` its audio, and `finish` at its end; both return the resulting events in order.

    Each segment has one SpeechStarted, any number of Partial, one SpeechEnded and one Final. The events do not depend
    on how the stream is divided: audio is computed in blocks of a hop. All work is done in these calls. To compute
    several streams together see `finetune.inference.live_engine`.

    >>> import numpy as np
    >>> from finetune.inference.live import LiveTranscriber
    >>> session = LiveTranscriber("runs/quickstart/model", device="cpu").session(sampling_rate=16000)
    >>> speech = np.load("speech.npy")  # (samples,) float32
    >>> events = [*session.feed(speech[:8000]), *session.feed(speech[8000:]), *session.finish()]
    >>> [type(event).__name__ for event in (events[0], *events[-2:])]
    ['SpeechStarted', 'SpeechEnded', 'Final']
    """

    def __init__(self, live: LiveTranscriber, sampling_rate: int, reader: SampleReader) -> None:
        recogniser, context = live.recogniser, live.context
        self._live, self._reader = live, reader
        self._source_rate, self._rate, self._stride = sampling_rate, recogniser.sampling_rate, live.stride
        self._block = max(1, round(context.hop * sampling_rate))
        self._resampler = Resampler(sampling_rate, self._rate)
        self._cutter = WindowCutter(live.detector, self._rate, live.stride, recogniser.trained_lengths, live=True)
        self._received: list[Waveform] = []  # less than a block, (samples, channels) at the stream's rate
        self._num_received = self._num_samples = 0
        self._held: Waveform = np.empty(0, np.float32)  # the audio from `_first` on, at the model's rate
        self._first = 0
        self._segment: _Segment | None = None
        self._ended = self._cancelled = self._warned = False
        self._loudness = 0.0

    def feed(self, audio: bytes | bytearray | memoryview | NDArray[Any]) -> list[Event]:
        """Take the next bytes, or samples as an array, of any length.

        Raises AudioError for values that are not finite numbers, which ends the session, and ValueError after the end.
        """
        return [event for block in self.take(audio) for event in self._live.compute(self.advance(block))]

    def finish(self) -> list[Event]:
        """End the stream and return its last events; the last segment becomes final.

        An incomplete last sample is logged. A second call returns no events.
        """
        if self._ended:
            return []
        return [event for block in self.take_rest() for event in self._live.compute(self.advance(block))] + (
            self._live.compute(self.end())
        )

    def take(self, audio: bytes | bytearray | memoryview | NDArray[Any]) -> list[Waveform]:
        """Blocks of a hop at the model's rate, each for a call of `advance`; raises as `feed` does."""
        if self._ended:
            raise ValueError("This session has ended: begin another with LiveTranscriber.session().")
        try:
            samples = self._reader.read(audio)
            require_sound(samples.T, self._num_samples, self._source_rate)
        except AudioError:
            self._ended = True
            raise
        self._num_samples += len(samples)
        self._received.append(samples)
        self._num_received += len(samples)
        if self._num_received < self._block:
            return []
        joined = np.concatenate(self._received)
        whole = len(joined) // self._block * self._block
        self._received, self._num_received = [joined[whole:].copy()], len(joined) - whole
        blocks = np.split(joined[:whole], range(self._block, whole, self._block))
        return [self._resampler.push(self._mix(block)) for block in blocks]

    def take_rest(self) -> list[Waveform]:
        """End the stream; its last block, for `advance`, before `end`."""
        self._ended = True
        if self._reader.unread_bytes:
            _LOGGER.warning(f"the stream ends within a sample: {self._reader.unread_bytes} bytes are left out")
        if not self._num_samples:
            return []
        return [self._resampler.push(self._mix(np.concatenate(self._received)), last=True)]

    def _mix(self, block: Waveform) -> Waveform:
        """The mean of a block's channels, or the loudest of them where they cancel each other.

        A block that is quiet, compared with those of the last seconds, does not change which of the two it is.
        """
        if not len(block):
            return block[:, 0]
        powers = np.square(block).mean(axis=0)
        if powers.mean() >= _QUIET * self._loudness:
            cancelled = mix_channels(block)[1]
            if cancelled and not self._warned:
                _LOGGER.warning(f"the stream: {CANCELLED}")
            self._cancelled, self._warned = cancelled, cancelled or self._warned
        self._loudness = max(_FORGETTING * self._loudness, float(powers.mean()))
        return block[:, int(powers.argmax())].copy() if self._cancelled else block.mean(axis=1)

    def end(self) -> Computation[list[Event]]:
        """The last events of a stream, after its last block."""
        return (yield from self._follow(list(self._cutter.finish())))

    def advance(self, samples: Waveform) -> Computation[list[Event]]:
        """The events of a block at the model's rate."""
        self._held = np.concatenate([self._held, samples])
        events = yield from self._follow(list(self._cutter.cut(samples)))
        if self._segment and (partial := (yield from self._segment.update(self._held, self._first))):
            events.append(partial)
        self._forget(self._segment.start if self._segment else self._cutter.oldest)
        return events

    def _follow(self, windows: list[Window]) -> Computation[list[Event]]:
        """The events of complete windows; each window ends a segment unless the next one overlaps it."""
        events: list[Event] = []
        following = [*(not window.after_pause for window in windows[1:]), self._cutter.overlaps]
        for number, (window, continues) in enumerate(zip(windows, following, strict=False), 1):
            start = window.first_frame * self._stride
            events += self._begin(start)
            end = start + len(window.waveform)
            assert self._segment is not None
            if not continues:
                events += yield from self._end(end)
            elif number == len(windows) and end - self._segment.start >= _MAX_SEGMENT_SECONDS * self._rate:
                gap = yield from self._find_gap(end)
                events += yield from self._end(self._cutter.part(gap))
        if (following_start := self._cutter.next_start) is not None:
            events += self._begin(following_start)
        return events

    def _begin(self, start: int) -> list[Event]:
        if self._segment is not None:
            return []
        self._segment = _Segment(self._live, start)
        return [SpeechStarted(start / self._rate)]

    def _end(self, end: int) -> Computation[list[Event]]:
        """The events at the end of a segment, which is decoded again as a whole."""
        segment, self._segment = self._segment, None
        assert segment is not None
        start = segment.start / self._rate
        transcript = yield from self._transcribe(segment.start, end)
        words = tuple(_shift(transcript.words, start))
        seconds = end / self._rate
        return [SpeechEnded(seconds), Final(transcript.text, words, start, seconds, average_confidence(words))]

    def _transcribe(self, start: int, end: int) -> Computation[Transcript]:
        piece = self._held[start - self._first : end - self._first]
        if len(piece) < self._live.recogniser.min_seconds * self._rate:
            return Transcript((), len(piece) / self._rate)
        return (yield from self._live.transcriber.transcribe_in_steps(piece))

    def _find_gap(self, end: int) -> Computation[int]:
        """Where to cut speech that does not pause: in the longest gap between words that the cutter holds."""
        assert self._segment is not None
        start = self._segment.start
        transcript = yield from self._transcribe(start, end)
        earliest = (self._cutter.oldest - start) / self._rate
        gaps = [
            (after.start - before.end, (before.end + after.start) / 2)
            for before, after in pairwise(transcript.words)
            if before.end >= earliest
        ]
        if not gaps:
            return end
        return max(start + round(max(gaps)[1] * self._rate), self._cutter.oldest) // self._stride * self._stride

    def _forget(self, position: int) -> None:
        """Drop the audio before a position."""
        gone = max(0, position - self._first)
        self._held = self._held[gone:].copy()
        self._first += gone


class _Segment:
    """Partial texts of one segment, which begins at a sample, `start`."""

    def __init__(self, live: LiveTranscriber, start: int) -> None:
        self.start = start
        self._live = live
        self._search: Any = live.transcriber.search
        self._rate, self._stride = live.recogniser.sampling_rate, live.stride
        self._state: Any = self._search.start()
        self._first_frame = self._next_frame = start // live.stride  # the next is the first that is not stable
        self._shown = ("", "")

    def update(self, held: Waveform, first: int) -> Computation[Partial | None]:
        """Compute the newest frames; None if the text does not change. `held` is the audio from sample `first` on."""
        context, stride, rate = self._live.context, self._stride, self._rate
        end = first + len(held)
        begin = max(self.start, self._next_frame * stride - round(context.left * rate)) // stride * stride
        if end - begin < self._live.recogniser.min_seconds * rate:
            return None
        frames, logits = yield from self._compute(held[begin - first :], begin // stride)
        stable_end = min((end - round(context.right * rate)) // stride, frames + len(logits))
        if stable_end > self._next_frame:
            self._state = self._search.advance(self._state, self._take(logits, frames, stable_end))
            self._next_frame = stable_end
        stable = self._shown[1]
        hypotheses = self._search.finish(self._state, _HYPOTHESES)
        likely = (join_han(one.text) for one in hypotheses if one.score >= hypotheses[0].score - _MARGIN)
        agreed = _common_prefix(likely).rstrip()  # Between Han characters a space goes when the next one is known.
        stable = agreed if agreed.startswith(stable) else stable
        rest = self._take(logits, frames, frames + len(logits))
        best = self._search.finish(self._search.advance(copy.deepcopy(self._state), rest))[0]
        best_text = join_han(best.text)
        text = best_text if best_text.startswith(stable) else stable
        if (text, stable) == self._shown:
            return None
        self._shown = (text, stable)
        start = self.start / rate
        lead, seconds = self._live.recogniser.lead_seconds, (end - self.start) / rate
        words = place_words(best.words, stride / rate, seconds, lead_seconds=lead) if text == best_text else ()
        return Partial(text, stable, start, self._next_frame * stride / rate, tuple(_shift(words, start)))

    def _compute(self, waveform: Waveform, first_frame: int) -> Computation[tuple[int, NDArray[np.float32]]]:
        """The number of the first frame that has logits, and these: (frames, vocabulary)."""
        prepared, gone = self._live.preprocess(waveform)
        first_frame += round(gone / self._stride)
        if len(prepared) < self._live.recogniser.min_seconds * self._rate:
            return first_frame, np.empty((0, self._live.recogniser.num_symbols), np.float32)
        return first_frame, (yield prepared)

    def _take(self, logits: NDArray[np.float32], first_frame: int, end_frame: int) -> NDArray[np.float32]:
        """The logits from the next frame to `end_frame`; silence that preprocessing has removed is blank."""
        missing = max(0, min(first_frame, end_frame) - self._next_frame)
        silence = np.full((missing, logits.shape[1]), _NEVER, np.float32)
        silence[:, self._search.blank_id] = 0
        begin = max(0, self._next_frame - first_frame)
        return np.concatenate([silence, logits[begin : max(begin, end_frame - first_frame)]])


def _common_prefix(texts: Iterable[str]) -> str:
    """The longest common prefix."""
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in columns)


def _shift(words: Iterable[Word], seconds: float) -> Iterable[Word]:
    """The words with all times shifted by `seconds`."""
    for word in words:
        characters = tuple(
            replace(each, start=each.start + seconds, end=each.end + seconds) for each in word.characters
        )
        yield replace(word, start=word.start + seconds, end=word.end + seconds, characters=characters)
