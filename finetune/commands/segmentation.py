"""Cut many recordings into a corpus: a folder of utterances for each, then the tables of what is kept and left out."""

import csv
import hashlib
import io
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import soundfile
from tqdm import tqdm

from finetune.audio.speech_activity import build_detector
from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Recording, fault_as_reason
from finetune.commands.segment_pairs import Pair
from finetune.commands.transcription import DISK_ERRORS
from finetune.data.manifests import format_csv
from finetune.errors import TransformError, UserError
from finetune.files import delete, lock_folder, new_folder, write_text
from finetune.inference.matching import match_text
from finetune.inference.pseudo_labels import cut_transcript
from finetune.inference.segmentation import Limits, Passage, cut_passages, find_speech
from finetune.inference.transcriber import Transcriber
from finetune.resources.terminal import escape_controls
from finetune.text.transcripts import Transform, build_normalizer

_LOGGER = logging.getLogger(__name__)

TABLE, LEFT_OUT = "metadata.csv", "left_out.csv"
# What is known of each finished recording, so that --resume leaves it out.
_DONE = ".recordings"
# A passage that is left out may have the text of hours; the default of the module is 131,072 characters.
_CELL_CHARACTERS = 2**31 - 1
# The first cells of rows: of utterances, of what is left out, and of recordings of which nothing is used.
_USED, _UNUSED, _FAILED = "", "left out", "failed"
_KEPT = ("file_name", "text", "speaker", "recording", "recording_start", "recording_end", "score")
_LOST = ("recording", "start", "end", "reason", "text", "heard", "score", "split")


class Segmenter:
    """A model and the limits with which recordings are cut.

    `numbers` is the language in which digits of the text are said as words. With `decoding`, which are more options of
    `Transcriber`, texts are what the model transcribes (see `cut_transcript`). The others are those of `Transcriber`.
    """

    def __init__(
        self,
        model: str,
        limits: Limits,
        *,
        device: str = "auto",
        precision: str = "auto",
        vad: Literal["energy", "silero"] = "energy",
        language: str | None = None,
        numbers: str | None = None,
        decoding: Mapping[str, Any] | None = None,
    ) -> None:
        self.limits = limits
        self.description = repr((model, limits, precision, vad, language, numbers, *sorted((decoding or {}).items())))
        self.transcribes = decoding is not None
        self.transcriber = Transcriber(
            model, device=device, precision=precision, detector=vad, language=language, **(decoding or {})
        )
        self.sampling_rate = self.transcriber.recogniser.sampling_rate
        self._detector = build_detector(vad, self.sampling_rate)
        spoken: tuple[Transform, ...] = ({"numbers_to_words": numbers},) if numbers else ()
        self._transforms = (*spoken, *self.transcriber.recogniser.normalization)
        try:
            build_normalizer(self._transforms)
        except TransformError as error:
            raise UserError(f"--numbers {numbers} can't be used: {error}.") from error

    def find_passages(self, recording: Recording, text: str, bar: Any) -> list[Passage]:
        """All passages of a recording and its text; raises AudioError, and UserError for an empty text."""
        speech = find_speech(recording, self._detector, self.sampling_rate, self.limits.min_pause)
        if self.transcribes:
            transcript = self.transcriber.transcribe(recording)
            bar.update(transcript.seconds)
            return cut_transcript(transcript, speech, self.limits)
        match = match_text(self.transcriber, recording, text, self._transforms, on_progress=bar.update)
        return cut_passages(match, speech, self.limits)


def segment_pairs(segmenter: Segmenter, pairs: Sequence[Pair], output: Path) -> int:
    """Cut all pairs, and write the tables; returns the exit code: 0, 2 if a pair failed, 130 after Ctrl-C.

    A recording that is done already with the same text and options is left out. Raises UserError where another process
    writes into `output`, and if there is no utterance at all.
    """
    (output / _DONE).mkdir(parents=True, exist_ok=True)
    with lock_folder(output):
        done: list[tuple[Pair, list[list[str]]]] = []
        try:
            with tqdm(desc="listening", unit=" s", bar_format="{desc}: {n:.0f} s", leave=False, disable=None) as bar:
                for pair in pairs:
                    done.append((pair, _segment_pair(segmenter, pair, output, bar)))
        except KeyboardInterrupt:
            _LOGGER.error(f"interrupted; {len(done)} of {len(pairs)} recordings are done; --resume goes on.")
            return 130
        _write_tables(output, done)
    return _report(done, output)


def _segment_pair(segmenter: Segmenter, pair: Pair, output: Path, bar: Any) -> list[list[str]]:
    """The rows of one pair: those of its utterances, written as files, and those that are left out with a reason."""
    folder = output / pair.split / pair.name
    try:
        with fault_as_reason():
            text, recording = pair.read_text(), pair.read_recording()
        options = "\n".join((segmenter.description, pair.speaker, _identify(recording), text))
        key = hashlib.sha256(options.encode(errors="replace")).hexdigest()[:12]
        table = output / _DONE / f"{pair.split}.{pair.name}.{key}.csv"
        if table.is_file():
            csv.field_size_limit(_CELL_CHARACTERS)
            with table.open(encoding="utf-8", newline="") as file:
                return list(csv.reader(file))
        with fault_as_reason():
            passages = segmenter.find_passages(recording, text, bar)
            _forget(output, pair)
            folder.parent.mkdir(exist_ok=True)
            rows = list(_write_utterances(folder, pair, recording, passages, segmenter.sampling_rate))
    except AudioError as error:  # It is tried again by --resume.
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_ERRORS:
            raise UserError(
                f"{folder} can't be written: {error.__cause__.strerror}. Make room there; --resume goes on."
            ) from error
        _forget(output, pair)
        delete(folder)
        return [[_FAILED, *_leave_out(pair, Passage(0.0, 0.0, "", None, "", str(error)))[1:]]]
    _write_csv(table, rows)
    return rows


def _forget(output: Path, pair: Pair) -> None:
    """Delete what is known of a recording, before its utterances change."""
    for old in (output / _DONE).glob(f"{pair.split}.{pair.name}.{'?' * 12}.csv"):
        old.unlink()


def _identify(recording: Recording) -> str:
    """What changes when the audio of a recording does."""
    if recording.data is not None:
        return hashlib.sha256(recording.data).hexdigest()
    place = (recording.path, recording.start, recording.end, recording.piece, recording.channel)
    try:
        state = os.stat(recording.path or "")  # noqa: PTH116 (it may be a URL)
    except (OSError, ValueError):
        return repr(place)
    return repr((*place, state.st_size, state.st_mtime_ns))


def _write_utterances(
    folder: Path, pair: Pair, recording: Recording, passages: Sequence[Passage], rate: int
) -> Iterator[list[str]]:
    """Write the utterances of a recording as FLAC at `rate` Hz, streamed, and yield the rows of all passages."""
    kept = [passage for passage in passages if not passage.reason]
    names = [f"{number:05d}.flac" for number in range(len(kept))]
    if kept:
        spans = [(round(each.start * rate), round(each.end * rate)) for each in kept]
        with new_folder(folder) as partial:
            _cut_audio(recording, spans, partial, names, rate)
    else:
        delete(folder)
    files = iter(names)
    for each in passages:
        if each.reason:
            yield _leave_out(pair, each)
            continue
        assert each.score is not None
        times = f"{each.start:.3f}", f"{each.end:.3f}", f"{each.score:.3f}"
        yield [_USED, f"{pair.name}/{next(files)}", each.text, pair.speaker, pair.source, *times]


def _cut_audio(
    recording: Recording, spans: Sequence[tuple[int, int]], folder: Path, names: Sequence[str], rate: int
) -> None:
    """Write the spans of a recording in samples, in order and apart, each to a file; holds a block at a time."""
    position = 0
    waiting = list(zip(spans, names, strict=True))[::-1]
    file: soundfile.SoundFile | None = None
    with open_stream(recording, rate) as stream:
        for block in stream.blocks():
            end = position + block.shape[1]
            while waiting and waiting[-1][0][0] < end:
                (first, last), name = waiting[-1]
                if file is None:
                    file = soundfile.SoundFile(folder / name, "w", rate, 1, "PCM_16", format="FLAC")
                file.write(block[0, max(first - position, 0) : last - position])
                if last > end:
                    break
                file.close()
                file = None
                waiting.pop()
            position = end
    if file is not None:
        file.close()


def _leave_out(pair: Pair, passage: Passage) -> list[str]:
    score = "" if passage.score is None else f"{passage.score:.3f}"
    times = f"{passage.start:.3f}", f"{passage.end:.3f}"
    return [_UNUSED, pair.source, *times, passage.reason, passage.text, passage.heard, score, pair.split]


def _write_csv(file: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write rows as they are: an apostrophe against formulas would be a part of the transcript."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(file, text.getvalue())


def _write_tables(output: Path, done: Sequence[tuple[Pair, list[list[str]]]]) -> None:
    kept: dict[str, list[list[str]]] = {}
    lost: list[list[str]] = []
    for pair, rows in done:
        for kind, *cells in rows:
            if kind != _USED:
                lost.append([escape_controls(cell, one_line=True) for cell in cells])
            else:
                kept.setdefault(pair.split, []).append(cells)
    for split in {pair.split for pair, _ in done}:
        table = output / split / TABLE
        if split in kept:
            _write_csv(table, [_KEPT, *kept[split]])
        else:
            table.unlink(missing_ok=True)
    write_text(output / LEFT_OUT, format_csv([_LOST, *lost]))


def _report(done: Sequence[tuple[Pair, list[list[str]]]], output: Path) -> int:
    """Log what was kept and left out; returns the exit code, and raises UserError if there is no utterance."""
    rows = [row for _, own in done for row in own]
    kept = [row for row in rows if row[0] == _USED]
    lost = [row for row in rows if row[0] != _USED]
    counts = Counter(row[4].partition(":")[0] for row in lost)
    reasons = ", ".join(f"{count} × {reason}" for reason, count in counts.most_common())
    left = f"; {len(lost)} passages are left out: {reasons} ({output / LEFT_OUT})" if lost else ""
    if not kept:
        raise UserError(f"There is no utterance of {len(done)} recordings{left}.")
    seconds = sum(float(row[6]) - float(row[5]) for row in kept)
    _LOGGER.info(f"{len(kept)} utterances of {len(done)} recordings, {seconds / 60:.1f} minutes{left}")
    failed = [row for row in rows if row[0] == _FAILED]
    for row in failed:
        _LOGGER.error(escape_controls(f"{row[1]}: {row[4]}", one_line=True))
    return 2 if failed else 0
