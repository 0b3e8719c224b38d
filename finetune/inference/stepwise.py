"""The transcription of a recording in steps: others compute its windows, together with those of other recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.audio.stream import Audio
from finetune.audio.waveforms import Waveform, fault_as_reason
from finetune.inference.reading import Item
from finetune.inference.stitching import Piece, RecordingDecoder, Stitcher
from finetune.inference.timing import place_words
from finetune.inference.transcriber import Transcriber
from finetune.inference.transcript import Transcript, Word
from finetune.inference.windows import Window


class StepwiseTranscription:
    """One recording: `next_windows` and `take` in turn until there are no more windows, then `finish`.

    The transcript is that of `Transcriber.transcribe`. With `by_segment` the speech between two pauses is decoded by
    itself, and its words are final before the recording ends: greedy text is the same, and a language model does not
    look across the pauses.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        audio: Audio,
        *,
        search: Any = None,
        by_segment: bool = False,
        on_block: Callable[[float], object] = lambda _: None,
    ) -> None:
        """Prepare to read a recording; `on_block` is that of `Reader.read`, `search` replaces the transcriber's."""
        self._search = search or transcriber.search
        self._frame_seconds = transcriber.stride / transcriber.recogniser.sampling_rate
        self._lead = transcriber.recogniser.lead_seconds
        self._items: Iterator[Item] = transcriber.reader.read([(None, audio)], False, None, on_block)
        self._by_segment = by_segment
        self._waiting: list[Window] = []
        self._last: Item | None = None
        self._stitcher = Stitcher()
        self._decoder: RecordingDecoder | None = None
        self._words: list[Word] = []
        self._blanks = self._frames = 0
        self.num_windows = 0  # that were decoded

    @property
    def blank_ratio(self) -> float | None:
        """The share of frames whose best symbol is the blank; None without frames."""
        return self._blanks / self._frames if self._frames else None

    def next_windows(self, max_samples: int) -> list[Waveform]:
        """The next windows, each (samples,), of `max_samples` together, but at least one; none at the end.

        Raises AudioError where the recording can't be read further.
        """
        assert not self._waiting
        gathered = 0
        while gathered < max_samples and not self._last:
            item = next(self._items)
            if item.window is None:
                self._last = item
                if item.recording.error:
                    raise item.recording.error
            else:
                self._waiting.append(item.window)
                gathered += len(item.window.waveform)
        return [window.waveform for window in self._waiting]

    def take(self, logits: Sequence[NDArray[np.float32]]) -> list[Word]:
        """Decode the logits of these windows, each (frames, vocabulary), and return the words that are final.

        These are none without `by_segment`. Raises AudioError for logits that are not finite.
        """
        windows, self._waiting = self._waiting, []
        final: list[Word] = []
        with fault_as_reason():
            for window, rows in zip(windows, logits, strict=True):
                self._blanks += int((rows.argmax(1) == self._search.blank_id).sum())
                self._frames += len(rows)
                self.num_windows += 1
                for piece in self._stitcher.add(Piece(window.first_frame, rows, window.after_pause)):
                    final += self._decode(piece)
        return final

    def finish(self) -> tuple[list[Word], Transcript]:
        """The words that were not returned before, and the whole transcript."""
        assert self._last is not None and not self._waiting
        seconds = self._last.recording.seconds
        with fault_as_reason():
            final = [word for piece in self._stitcher.finish() for word in self._decode(piece)]
            final += self._close(seconds)
        return final, Transcript(tuple(self._words), seconds)

    def close(self) -> None:
        """Close the recording before its end."""
        self._items.close()  # type: ignore[attr-defined]  # a generator, whose `with` statements end

    def _decode(self, piece: Piece) -> list[Word]:
        """Decode frames; a pause before them ends a segment, whose words are returned."""
        final = self._close(piece.first_frame * self._frame_seconds) if piece.after_pause and self._by_segment else []
        if self._decoder is None:
            self._decoder = RecordingDecoder(self._search)
        self._decoder.advance(piece)
        return final

    def _close(self, seconds: float) -> list[Word]:
        """End a segment, none of whose words ends later than `seconds`."""
        decoder, self._decoder = self._decoder, None
        heard = [] if decoder is None else decoder.finish()
        words = list(place_words(heard, self._frame_seconds, seconds, lead_seconds=self._lead))
        self._words += words
        return words
