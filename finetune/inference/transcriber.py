"""Transcription of recordings of any length to words with times."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.audio.preprocessing import build_placing_preprocessor
from finetune.audio.speech_activity import build_detector
from finetune.audio.stream import Audio
from finetune.audio.waveforms import AudioError, Waveform, fault_as_reason
from finetune.decoding.beam import BeamSearch
from finetune.decoding.decoder import build_greedy_search, build_search, choose_search, load_language_model
from finetune.decoding.greedy import GreedySearch
from finetune.inference.reading import Item, Reader, RecordingState, read_ahead
from finetune.inference.recogniser import Recogniser
from finetune.inference.stitching import Piece, RecordingDecoder, stitch
from finetune.inference.timing import place_words
from finetune.inference.transcript import Transcript
from finetune.inference.windows import Window
from finetune.models.configuration import encoder_convolutions

Key = TypeVar("Key")
Returned = TypeVar("Returned")
Computation: TypeAlias = Generator[Waveform, NDArray[np.float32], Returned]
"""Yields samples, (samples,), takes their logits, (frames, vocabulary), and returns something in the end."""

# Seconds of windows in a batch, with padding. A CPU is not faster with more than one window.
_CPU_WINDOWS_SECONDS, _GPU_WINDOWS_SECONDS = 20.0, 320.0
# Windows are sorted by length within this many batches.
_POOLED_BATCHES = 4


class Transcriber:
    """Transcribes recordings of any length in constant memory; thread-safe.

    A recording no longer than the training utterances is computed as a whole, as in evaluation. A longer one is cut by
    `WindowCutter`; `Stitcher` joins the logits of its windows, which are decoded as one.

    >>> from finetune.inference.transcriber import Transcriber
    >>> transcriber = Transcriber("runs/quickstart/model", device="cpu")
    >>> transcript = transcriber.transcribe("speech.wav")
    >>> transcript.seconds
    1.2
    >>> [name for name, found in transcriber.transcribe_many([("a", "speech.wav"), ("b", "talk.wav")])]
    ['a', 'b']
    """

    def __init__(
        self,
        model: str | Path | Recogniser,
        *,
        device: str = "auto",
        language_model: str | Path | None = None,
        hotwords: Mapping[str, float] | None = None,
        decoder: str | None = None,
        beam_width: int | None = None,
        precision: str = "auto",
        batch_seconds: float | None = None,
        detector: Literal["energy", "silero"] = "energy",
        language: str | None = None,
    ) -> None:
        """Load a model from a folder or a hub, as `Recogniser.load` does with `device`, `precision` and `language`.

        `language_model` is a folder of `finetune lm build`; it replaces the one of the model and keeps its weights.
        `decoder` is greedy or beam, `beam_width` the hypotheses of a beam search, and `hotwords` are words with a boost
        each, which is added to the score (a natural logarithm): see `choose_search`. `batch_seconds` is the
        audio in a batch, in seconds; the text does not depend on it. `detector` finds pauses: silero needs
        `finetune[silero]`.

        Raises UserError if the model or the language model can't be used, or the device or the precision is not there.
        """
        if not isinstance(model, Recogniser):
            model = Recogniser.load(model, device, precision, language)
        self.recogniser = model
        self.search = _choose_search(model, language_model, decoder, beam_width, hotwords)
        rate = model.sampling_rate
        self.stride = math.prod(stride for _, stride in encoder_convolutions(model.model.config))
        self.reader = Reader(
            detector=build_detector(detector, rate),
            preprocess=build_placing_preprocessor(model.preprocessing, rate),
            sampling_rate=rate,
            stride=self.stride,
            lengths=model.trained_lengths,
            min_seconds=model.min_seconds,
        )
        on_cpu = model.device.type == "cpu"
        self.batch_seconds = batch_seconds or (_CPU_WINDOWS_SECONDS if on_cpu else _GPU_WINDOWS_SECONDS)

    def transcribe(
        self, audio: Audio, *, sampling_rate: int | None = None, separate_channels: bool = False
    ) -> Transcript:
        """The transcript of a recording: a path, a URL, an open file, or an array, (samples,) or (samples, channels).

        `sampling_rate` is that of an array, in Hz. With `separate_channels` each channel is transcribed by itself,
        otherwise channels are mixed. Raises AudioError if the recording can't be read to its end.
        """
        [(_, found)] = self.transcribe_many(
            [(None, audio)], sampling_rate=sampling_rate, separate_channels=separate_channels
        )
        if isinstance(found, AudioError):
            raise found
        return found

    def transcribe_in_steps(self, waveform: Waveform) -> Computation[Transcript]:
        """What `transcribe` gives for samples at the model's rate, (samples,), where others compute the windows.

        Yields each window's samples and takes its logits, (frames, vocabulary). Raises AudioError as `transcribe` does.
        """
        decoders = [RecordingDecoder(self.search)]
        found: Transcript | AudioError | None = None
        for item in self.reader.read([(None, waveform)], False, self.recogniser.sampling_rate):
            piece = None
            if item.window:
                logits = yield item.window.waveform
                piece = Piece(item.window.first_frame, logits, item.window.after_pause)
            found = self._decode(item, piece, decoders)
        if isinstance(found, AudioError):
            raise found
        assert found is not None
        return found

    def transcribe_many(
        self,
        recordings: Iterable[tuple[Key, Audio]],
        *,
        sampling_rate: int | None = None,
        separate_channels: bool = False,
        on_progress: Callable[[float], object] | None = None,
    ) -> Iterator[tuple[Key, Transcript | AudioError]]:
        """The transcript of each recording, in order and with its key, or an AudioError.

        The error of one recording (see `fault_as_reason`) does not stop the others. Windows of several recordings share
        batches, and another thread, which iterates over `recordings`, reads ahead. `on_progress` is called with the
        seconds of audio that were transcribed since its last call.
        """
        items = self.reader.read(recordings, separate_channels, sampling_rate)
        recording: RecordingState | None = None
        with self._compute_ahead(items) as computed:
            for item, piece in computed:
                if item.recording is not recording:
                    recording, done = item.recording, 0.0
                    decoders = [RecordingDecoder(self.search) for _ in range(recording.tracks)]
                found = self._decode(item, piece, decoders)
                if on_progress:
                    on_progress(max(0.0, item.seconds - done))
                done = max(done, item.seconds)
                if found:
                    yield recording.key, found

    def compute_logits(
        self, audio: Audio, *, sampling_rate: int | None = None, on_progress: Callable[[float], object] | None = None
    ) -> tuple[list[Piece], float]:
        """The logits of a recording without silence, and its length in seconds.

        The arguments are those of `transcribe_many`, and AudioError is raised as by `transcribe`.
        """
        items = self.reader.read([(None, audio)], False, sampling_rate)
        pieces: list[Piece] = []
        done = 0.0
        with self._compute_ahead(items) as computed:
            for item, piece in computed:
                if isinstance(piece, AudioError):
                    raise piece
                pieces += [piece] if piece else []
                if on_progress:
                    on_progress(max(0.0, item.seconds - done))
                done = max(done, item.seconds)
        if item.recording.error:
            raise item.recording.error
        return list(stitch(pieces)), item.recording.seconds

    @contextmanager
    def _compute_ahead(self, items: Iterable[Item]) -> Iterator[Iterator[tuple[Item, Piece | AudioError | None]]]:
        """Each item with the logits of its window or an error, while a thread reads ahead."""
        num_samples = round(_POOLED_BATCHES * self.batch_seconds * self.recogniser.sampling_rate)
        with read_ahead(items, num_samples) as pools:
            yield (pair for pool in pools for pair in self._compute_pool(pool))

    def _compute_pool(self, pool: Sequence[Item]) -> Iterator[tuple[Item, Piece | AudioError | None]]:
        pieces = iter(self._compute([item.window for item in pool if item.window]))
        for item in pool:
            yield item, next(pieces) if item.window else None

    def _compute(self, windows: Sequence[Window]) -> list[Piece | AudioError]:
        """The logits or the error of each window, computed in batches of similar lengths."""
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i].waveform))
        pieces: dict[int, Piece | AudioError] = {}
        while order:
            longest = len(windows[order[0]].waveform) / self.recogniser.sampling_rate
            count = max(1, int(self.batch_seconds // longest))
            batch, order = order[:count], order[count:]
            pieces |= zip(batch, self._compute_batch([windows[i] for i in batch]), strict=True)
        return [pieces[i] for i in range(len(windows))]

    def _compute_batch(self, windows: Sequence[Window]) -> Sequence[Piece | AudioError]:
        """The logits of windows as one batch; if that fails, windows are computed one by one to find the bad one."""
        try:
            with fault_as_reason():
                logits, num_frames = self.recogniser.logits([window.waveform for window in windows])
                return [
                    Piece(window.first_frame, row[:frames].numpy(), window.after_pause)
                    for window, row, frames in zip(windows, logits, num_frames, strict=True)
                ]
        except AudioError as error:
            if len(windows) == 1:
                return [error]
        return [piece for window in windows for piece in self._compute_batch([window])]

    def _decode(
        self, item: Item, piece: Piece | AudioError | None, decoders: Sequence[RecordingDecoder]
    ) -> Transcript | AudioError | None:
        """Decode the logits of a window; for the last item of a recording, return its transcript or its first error."""
        recording = item.recording
        try:
            with fault_as_reason():
                if isinstance(piece, AudioError):
                    raise piece
                if piece and not recording.error:
                    decoders[item.track].advance(piece)
                if not item.window and not recording.error:
                    return self._finish(recording, decoders)
        except AudioError as error:
            recording.error = recording.error or error
        return None if item.window else recording.error

    def _finish(self, recording: RecordingState, decoders: Sequence[RecordingDecoder]) -> Transcript:
        frame_seconds, lead = self.stride / self.recogniser.sampling_rate, self.recogniser.lead_seconds
        words = [
            word
            for channel, decoder in enumerate(decoders, 1)
            for word in place_words(decoder.finish(), frame_seconds, recording.seconds, channel, lead)
        ]
        words.sort(key=lambda word: (word.start, word.channel))
        return Transcript(tuple(words), recording.seconds, recording.tracks)


def _choose_search(
    recogniser: Recogniser,
    language_model: str | Path | None,
    decoder: str | None,
    beam_width: int | None,
    hotwords: Mapping[str, float] | None,
) -> BeamSearch | GreedySearch:
    saved, symbols = recogniser.search, (recogniser.tokenizer, recogniser.num_symbols)
    if language_model is not None:
        tuned: dict[str, Any] = {} if saved is None else {"weights": saved.weights, "hotwords": saved.hotwords}
        saved = build_search(*symbols, load_language_model(Path(language_model)), **tuned)
    return choose_search(saved, *symbols, decoder, beam_width, hotwords) or build_greedy_search(*symbols)
