"""Splits of usable utterances, and the skipped utterances with their reasons."""

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from tqdm.auto import tqdm

from finetune.audio.headers import HeaderIndex
from finetune.audio.preprocessing import Transform as AudioTransform
from finetune.audio.preprocessing import build_preprocessor
from finetune.audio.recordings import require_sound
from finetune.audio.waveforms import AudioError, Decoded, Recording, Waveform, decode, fault_as_reason, measure_seconds
from finetune.data.folders import AUDIO_FOLDERS
from finetune.data.manifests import format_csv
from finetune.data.sources import JoinedTables, Table
from finetune.errors import UserError
from finetune.files import write_text
from finetune.resources.addresses import public_address
from finetune.resources.terminal import escape_controls
from finetune.text.transcripts import Transform, build_normalizer


@dataclass(frozen=True)
class Utterance:
    """A piece of speech with its transcript; `row` is its row in the split's table, `weight` its source's weight.

    `recording` identifies what it is a part of: a file, or the bytes in a data set. `columns` are further cells of its
    row that the recipe names.
    """

    row: int
    name: str
    seconds: float
    transcript: str
    raw_transcript: str
    speaker: str | None
    source: str = ""
    weight: float = 1.0
    sampling_rate: int = 0
    audio_key: tuple[str, float, float | None, int | None] | None = None  # The segment of a file.
    recording: tuple[str | None, tuple[int, int] | None] | None = None
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SkippedUtterance:
    """An utterance that is not used: its row in its source's split (the first is 0), its file's name, the reason.

    `source_number` is the place of its source in data.sources, the first is 0: sources may differ in their split alone.
    """

    split: str
    row: int
    name: str
    reason: str
    detail: str = ""
    source: str = ""
    source_number: int = 0


@dataclass(frozen=True)
class AudioSpec:
    """The audio that a model takes; `encoder` is (kernel, stride) of each convolution, at `sampling_rate` Hz.

    `fastest` is the largest speed factor of the augmentation, which leaves the fewest frames. `longer_by` is what to do
    to use utterances longer than `max_seconds`.
    """

    sampling_rate: int
    encoder: tuple[tuple[int, int], ...]
    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    fastest: float = 1.0
    longer_by: str = "raise --max-seconds"

    def num_frames(self, samples: int) -> int:
        """Frames that the convolutional encoder computes from a number of samples."""
        for kernel, stride in self.encoder:
            samples = (samples - kernel) // stride + 1
        return max(samples, 0)


@dataclass(frozen=True)
class Split:
    """The usable utterances of one split, and how to read them; `normalization` was applied to the transcripts."""

    name: str
    table: Table | JoinedTables
    utterances: tuple[Utterance, ...]
    rejected: tuple[SkippedUtterance, ...]
    preprocessing: tuple[AudioTransform, ...] = ()
    normalization: tuple[Transform, ...] = ()

    @property
    def seconds(self) -> float:
        """Total length of the utterances."""
        return sum(u.seconds for u in self.utterances)

    def reject(self, row: int, error: AudioError) -> SkippedUtterance:
        """The entry of a row that cannot be used, from an error with the message "reason: detail"."""
        return _skip(self.name, self.table, row, error)

    @fault_as_reason()
    def read(self, utterance: Utterance, sampling_rate: int) -> Waveform:
        """The utterance's preprocessed waveform at `sampling_rate`; raises AudioError, also for silence."""
        return self.preprocess(self.decode(utterance, sampling_rate).waveform, sampling_rate)

    def decode(self, utterance: Utterance, sampling_rate: int) -> Decoded:
        """The utterance's audio before any preprocessing; raises AudioError as `read` does."""
        return decode_sound(self.table.recording(utterance.row), sampling_rate)

    def preprocess(self, waveform: Waveform, sampling_rate: int) -> Waveform:
        """A decoded waveform after preprocessing; raises AudioError if preprocessing leaves no sound."""
        return preprocess_sound(self.preprocessing, waveform, sampling_rate)


def decode_sound(recording: Recording, sampling_rate: int) -> Decoded:
    """A recording's audio at `sampling_rate`; raises AudioError, also for silence."""
    decoded = decode(recording, sampling_rate)
    if not decoded.waveform.any():
        raise AudioError("silent audio: every sample is zero")
    return decoded


@fault_as_reason()
def preprocess_sound(steps: Sequence[AudioTransform], waveform: Waveform, sampling_rate: int) -> Waveform:
    """A waveform after preprocessing; raises AudioError if preprocessing leaves no sound."""
    preprocessed = build_preprocessor(steps, sampling_rate)(waveform)
    if not len(preprocessed):
        raise AudioError("silent audio: preprocessing leaves nothing of it")
    require_sound(preprocessed)
    return preprocessed


def frames_needed(transcript: str) -> int:
    """Frames that CTC needs: one per character, and a blank between two equal ones (Graves et al. 2006)."""
    return len(transcript) + sum(a == b for a, b in itertools.pairwise(transcript))


def prepare_split(
    name: str,
    table: Table | JoinedTables,
    steps: Sequence[Transform],
    audio_spec: AudioSpec,
    training: bool = False,
    preprocessing: Sequence[AudioTransform] = (),
    require: bool = True,
) -> Split:
    """Normalise a split's transcripts and skip utterances that cannot be used, from audio headers alone.

    With `training` an utterance must also have words and enough frames for CTC. In a test set a short one is kept, and
    for one without words (noise, a cough) every recognised word is an error. An utterance with an unknown transcript
    (None) is skipped in both.
    Raises UserError with counts by reason when nothing is left, if `require` is set.
    """
    normalize = build_normalizer(steps, refuse=True)
    utterances: list[Utterance] = []
    rejected: list[SkippedUtterance] = []
    cells = zip(table.texts(), table.speakers(), table.values(), strict=True)
    progress = tqdm(cells, f"reading {name}", len(table), leave=False, disable=None if require else True)
    with HeaderIndex() as headers:
        for number, (text, speaker, values) in enumerate(progress):
            row = _Row(number, text, speaker, values)
            try:
                with fault_as_reason():
                    utterance = _read_utterance(table, row, normalize(text or ""), headers)
                    _require_usable(utterance, audio_spec, training)
            except AudioError as error:
                rejected.append(_skip(name, table, number, error))
            else:
                utterances.append(utterance)
    split = Split(
        name=name,
        table=table,
        utterances=tuple(utterances),
        rejected=tuple(rejected),
        preprocessing=tuple(preprocessing),
        normalization=tuple(steps),
    )
    if require:
        require_any(split, audio_spec.longer_by)
        _require_kept_words(split)
    return split


class _Row(NamedTuple):
    """A row of a table."""

    number: int
    text: str | None
    speaker: str | None
    values: dict[str, Any]


def _read_utterance(table: Table | JoinedTables, row: _Row, transcript: str, headers: HeaderIndex) -> Utterance:
    """A row's utterance, from its audio's header; raises AudioError."""
    recording = table.recording(row.number, row.values)
    header = headers.read(recording)
    seconds = measure_seconds(recording, header)
    if row.text is None:
        raise AudioError("no transcript")
    if "\0" in row.text:
        raise AudioError("no text: its transcript holds the byte 0x00")
    source, _ = table.origin(row.number)
    is_file = not recording.data and not recording.piece
    return Utterance(
        row=row.number,
        name=table.name(row.number, row.values),
        seconds=seconds,
        transcript=transcript,
        raw_transcript=row.text,
        speaker=row.speaker,
        source=source.name,
        weight=source.weight,
        sampling_rate=header.sampling_rate,
        audio_key=(str(recording.path), recording.start, recording.end, recording.channel) if is_file else None,
        recording=_identify(recording),
        columns={key: str(row.values[key]) for key in source.columns if row.values.get(key) is not None},
    )


def _identify(recording: Recording) -> tuple[str | None, tuple[int, int] | None]:
    """Equal for segments of the same file, by whichever path, of a member of a tar, or of bytes in a data set."""
    if recording.data:
        return xxhash.xxh3_128_hexdigest(recording.data), recording.piece
    with suppress(OSError, ValueError):  # A URL, a missing file, or none.
        status = os.stat(recording.path or "")  # noqa: PTH116 (takes a tenth of the time)
        if status.st_ino:  # Some network disks number no file.
            return f"{status.st_dev} {status.st_ino}", recording.piece
    return recording.path, recording.piece


def _require_usable(utterance: Utterance, audio_spec: AudioSpec, training: bool) -> None:
    """Raise AudioError for an utterance that is too short or too long; in training also for one without words."""
    if training and not utterance.transcript:
        raise AudioError("empty transcript: nothing is left after normalisation")
    if utterance.seconds < audio_spec.min_seconds:
        raise AudioError(f"too short: {utterance.seconds:.2f} s")
    if utterance.seconds > audio_spec.max_seconds:
        raise AudioError(f"too long: {utterance.seconds:.2f} s, of up to {audio_spec.max_seconds:g}")
    samples = int(utterance.seconds * audio_spec.sampling_rate / audio_spec.fastest)
    frames, needed = audio_spec.num_frames(samples), frames_needed(utterance.transcript)
    if training and frames < needed:
        raise AudioError(f"too short for its transcript: {frames} frames, CTC needs {needed}")


def require_any(split: Split, longer_by: str | None = None) -> None:
    """Raise UserError with counts by reason if every utterance of a split was skipped; `longer_by` is in AudioSpec."""
    if not split.utterances:
        counts = Counter(r.reason for r in split.rejected)
        reasons = ", ".join(f"{count} × {reason}" for reason, count in counts.most_common())
        missing = next((r.detail for r in split.rejected if r.reason == "no such file"), None)
        places = ""
        if missing is not None:
            places = (
                f" There is no {missing}, nor such a file in {', '.join(AUDIO_FOLDERS)} beside a table: put the audio "
                "there, or name the column with its paths with data.audio_column (--audio-column)."
            )
        if segment := next((r.detail for r in split.rejected if "segment" in r.reason), None):
            places += (
                f" The first: {segment}. Segments have seconds of their recording in columns start and end, or offset "
                "and duration: rename such columns if they mean something else."
            )
        if longer_by and "too long" in counts:
            places += f" To use longer ones, {longer_by}."
        raise UserError(f"Every utterance of the split '{split.name}' was left out: {reasons}.{places}")


def _require_kept_words(split: Split) -> None:
    """Raise UserError if normalisation leaves no transcript any text, although there are transcripts."""
    lost = next((u.raw_transcript for u in split.utterances if u.raw_transcript.strip()), None)
    if lost is not None and not any(u.transcript for u in split.utterances):
        raise UserError(
            f"Normalisation leaves nothing of any transcript of the split '{split.name}', such as '{lost[:80]}': "
            "check text.normalization, or the normalisation saved with the model."
        )


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide a split in two (kept, held out), by speaker where speakers are known, else by recording.

    The held-out part has about `fraction` of the utterances and no speaker of the kept part. A speaker with whom it
    would have more than twice as many is kept; if that leaves none, the one with the fewest utterances is held out.
    Raises UserError if there are too few.
    """
    by_voice: dict[Any, list[Utterance]] = {}
    for utterance in split.utterances:
        by_voice.setdefault(utterance.speaker or utterance.recording, []).append(utterance)
    # Not by where a recording is, so that the same are held out when a corpus is moved.
    groups = sorted(by_voice.values(), key=lambda group: group[0].speaker or group[0].name)
    if len(groups) < 2:
        raise UserError(
            f"The split '{split.name}' has {len(groups)} speaker or recording, so none can be held out for validation: "
            "name a validation split with data.validation_split."
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    wanted = fraction * len(split.utterances)
    held: list[Utterance] = []
    for place in order[:-1]:
        if held and len(held) >= wanted:
            break
        if len(held) + len(groups[place]) <= max(1, 2 * wanted):
            held += groups[place]
    held = held or min((groups[place] for place in order), key=len)
    rows = {u.row for u in held}
    kept = tuple(u for u in split.utterances if u.row not in rows)
    out = tuple(u for u in split.utterances if u.row in rows)
    return replace(split, utterances=kept), replace(split, name="validation", utterances=out, rejected=())


def write_rejected(file: Path, rejected: Sequence[SkippedUtterance]) -> None:
    """Write `rejected.csv`: split, row, name, reason, detail, source and its number of each skipped utterance."""
    columns = ("split", "row", "name", "reason", "detail", "source", "source_number")
    rows = ([escape_controls(str(getattr(each, column)), one_line=True) for column in columns] for each in rejected)
    write_text(file, format_csv([columns, *rows]))


def _skip(split: str, table: Table | JoinedTables, row: int, error: AudioError) -> SkippedUtterance:
    reason, _, detail = public_address(str(error)).partition(": ")
    source, local = table.origin(row)
    return SkippedUtterance(
        split=split,
        row=local,
        name=table.name(row),
        reason=reason,
        detail=detail,
        source=source.name,
        source_number=source.number,
    )
