"""Data validation: counts and distributions of a corpus, outliers, duplicates, and leaks between splits."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
from tqdm.auto import tqdm

from finetune.audio.preprocessing import Transform as AudioTransform
from finetune.audio.waveforms import AudioError, Recording, Waveform, fault_as_reason
from finetune.data.corpus import Split, Utterance, decode_sound, preprocess_sound
from finetune.resources.machine import count_threads
from finetune.text.numbers import count_number_words
from finetune.text.tags import find_parentheses, find_tags
from finetune.text.transcripts import build_normalizer
from finetune.text.vocabulary import count_characters
from finetune.text.word_marks import find_invisible
from finetune.text.word_units import split_words

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# An utterance's speaking rate is an outlier from this many median absolute deviations from the median.
_OUTLIER_DEVIATIONS = 8.0
_FEWEST_FOR_OUTLIERS = 30
# Clipping: this share of samples in runs at the peak value is audible distortion.
_CLIPPED_SHARE = 0.001
_QUIET_DBFS = -55.0
# More than rounding errors, less than a sample at any usual rate.
_SAME_SECONDS = 1e-3


@dataclass(frozen=True)
class Finding:
    """A problem of a kind in a split, with the rows and names of its utterances, the worst first.

    `unusable` utterances cannot be used in training or evaluation.
    """

    kind: str
    split: str
    sentence: str
    utterances: tuple[tuple[int, str], ...] = ()
    unusable: bool = False


@dataclass(frozen=True)
class SplitSummary:
    """Counts of a split; the quantiles of durations (seconds) and speaking rates are at `QUANTILES`."""

    utterances: int
    seconds: float
    speakers: int
    words: int
    left_out: dict[str, int]
    sampling_rates: dict[int, int]
    characters: dict[str, int]
    duration_quantiles: tuple[float, ...]
    rate_quantiles: tuple[float, ...]


@dataclass(frozen=True)
class ValidationReport:
    """The summary of each split and the findings; `decoded_seconds` of the splits that were decoded."""

    splits: dict[str, SplitSummary]
    findings: tuple[Finding, ...] = field(default=())
    decoded_seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def summary(self) -> list[str]:
        """Each split's distributions as lines of text."""
        lines = []
        for role, split in self.splits.items():
            low, middle, high = (split.duration_quantiles[QUANTILES.index(at)] for at in (0.0, 0.5, 1.0))
            rates = ", ".join(f"{rate} Hz × {count}" for rate, count in split.sampling_rates.items())
            lines.append(
                f"{role}: {low:.1f} to {high:.1f} s (median {middle:.1f}), "
                f"{split.rate_quantiles[QUANTILES.index(0.5)]:.1f} characters per second; {rates}"
            )
            if role in self.decoded_seconds:
                lines.append(f"{role}: {_compare_seconds(split.seconds, self.decoded_seconds[role])}")
        return lines


@dataclass(frozen=True)
class Heard:
    """What decoding an utterance showed: kinds of problems, whether one makes it unusable, and its length."""

    kinds: tuple[str, ...]
    unusable: bool = False
    seconds: float = 0.0


Listen: TypeAlias = Callable[[Split, int], Iterable[tuple[Utterance, Heard]]]
"""Decodes all utterances of a split at a sampling rate (Hz), in any order."""


def validate_splits(
    splits: Mapping[str, Split],
    writable: Iterable[str],
    sampling_rate: int | None = None,
    listen: Listen | None = None,
) -> ValidationReport:
    """Validate splits by role (`train`, `validation`, `test`), from audio headers and transcripts.

    `writable` are the characters in the model's vocabulary. With a sampling rate (Hz) all audio is decoded too, in this
    process unless `listen` is given.
    """
    findings: list[Finding] = []
    for role, split in splits.items():
        for find in (_find_outliers, _find_duplicates, _find_tags, _find_invisible):
            findings += find(role, split)
    findings += _find_digits(splits)
    train = splits["train"]
    for role, split in splits.items():
        if role != "train":
            findings += _find_leaks(role, split, train)
            findings += _find_unwritable(role, split, set(writable))
    decoded_seconds: dict[str, float] = {}
    if sampling_rate is not None:
        for role, split in splits.items():
            found, decoded_seconds[role] = _decode_split(role, split, sampling_rate, listen or _listen_here)
            findings += found
    summaries = {role: summarise(split) for role, split in splits.items()}
    return ValidationReport(summaries, tuple(findings), decoded_seconds)


def _compare_seconds(stated: float, decoded: float) -> str:
    agreement = (
        "they agree" if abs(stated - decoded) < _SAME_SECONDS else f"they differ by {abs(stated - decoded):.2f} s"
    )
    return f"{stated / 3600:.3f} hours by headers, {decoded / 3600:.3f} hours decoded: {agreement}"


def summarise(split: Split) -> SplitSummary:
    """A split's counts and quantiles."""
    utterances = split.utterances
    return SplitSummary(
        utterances=len(utterances),
        seconds=split.seconds,
        speakers=len({u.speaker for u in utterances} - {None}),
        words=sum(len(split_words(u.transcript)) for u in utterances),
        left_out=dict(Counter(r.reason for r in split.rejected).most_common()),
        sampling_rates=dict(Counter(u.sampling_rate for u in utterances).most_common()),
        characters=dict(count_characters(u.transcript for u in utterances).most_common()),
        duration_quantiles=_quantiles([u.seconds for u in utterances]),
        rate_quantiles=_quantiles([speaking_rate(u) for u in utterances]),
    )


def speaking_rate(utterance: Utterance) -> float:
    """Characters per second, without spaces."""
    return len(utterance.transcript.replace(" ", "")) / utterance.seconds


def _find_outliers(role: str, split: Split) -> Iterator[Finding]:
    spoken = [u for u in split.utterances if u.transcript]
    if len(spoken) < _FEWEST_FOR_OUTLIERS:
        return
    # On a logarithmic scale half the rate is as far from the median as twice the rate.
    rates = np.log([speaking_rate(u) for u in spoken])
    middle = float(np.median(rates))
    deviation = max(float(np.median(np.abs(rates - middle))), 0.02)
    distances = (rates - middle) / deviation
    for kind, sign, words in (
        ("fast", 1, "have an implausibly fast speaking rate: their transcript may be longer than the speech"),
        ("slow", -1, "have an implausibly slow speaking rate: their transcript may be shorter than the speech"),
    ):
        far = np.flatnonzero(sign * distances > _OUTLIER_DEVIATIONS)
        if worst := sorted(far.tolist(), key=lambda place: -sign * distances[place]):
            yield _finding(kind, role, f"{len(worst)} utterances {words}", [spoken[i] for i in worst])


def _segment(utterance: Utterance) -> tuple[Any, ...] | None:
    """Equal for the same segment of a file, by whichever path; None for audio that is in no file of its own."""
    return utterance.audio_key and (utterance.recording, *utterance.audio_key[1:])


def _find_duplicates(role: str, split: Split) -> Iterator[Finding]:
    audio: dict[Any, list[Utterance]] = {}
    for utterance in split.utterances:
        if key := _segment(utterance):
            audio.setdefault(key, []).append(utterance)
    if twice := [same for same in audio.values() if len(same) > 1]:
        sentence = f"{len(twice)} audio segments occur more than once"
        yield _finding("duplicate audio", role, sentence, [same[1] for same in twice])


def _find_tags(role: str, split: Split) -> Iterator[Finding]:
    """Texts in brackets that become words of the transcript although they may not be spoken."""
    normalize = build_normalizer(split.normalization)
    for kind, find, advice in (
        (
            "annotation tags",
            find_tags,
            "become words: the transform remove_tags removes them, map_tags replaces them, and drop_tagged skips such "
            "utterances; put it first in text.normalization",
        ),
        (
            "parentheses",
            find_parentheses,
            "become words, which is correct if they are spoken; otherwise {remove_tags: ['()']} removes them, and "
            "{drop_tagged: ['()']} skips such utterances",
        ),
    ):
        counts: Counter[str] = Counter()
        affected = []
        for utterance in split.utterances:
            raw = utterance.raw_transcript
            tags = list(find(raw))
            without = raw
            for tag in tags:
                without = without.replace(tag, " ", 1)
            if tags and normalize(without) != utterance.transcript:
                counts.update(tags)
                affected.append(utterance)
        if affected:
            sentence = f"{len(affected)} utterances of {role} contain {kind} ({_list_counts(counts)}), which {advice}"
            yield _finding(kind, role, sentence, affected)


def _find_invisible(role: str, split: Split) -> Iterator[Finding]:
    affected = [(u, found) for u in split.utterances if (found := find_invisible(u.transcript))]
    if affected:
        counts = Counter(name for _, found in affected for name in found)
        sentence = (
            f"{len(affected)} utterances of {role} contain invisible characters, which the model learns as letters "
            f"({_list_counts(counts)}): the transform remove_invisible removes them"
        )
        yield _finding("invisible characters", role, sentence, [u for u, _ in affected])


def _find_digits(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Digits, whose pronunciation is not spelled, and whether other numbers are written as words."""
    affected = {
        role: [u for u in split.utterances if any(c.isnumeric() and not c.isalpha() for c in u.transcript)]
        for role, split in splits.items()
    }
    if not any(affected.values()):
        return
    language, mixed = "LANGUAGE", ""
    if words := count_number_words(u.transcript for split in splits.values() for u in split.utterances):
        language, counts = words
        mixed = f" beside number words ({_list_counts(counts, 5)}), so that one pronunciation has two spellings"
    for role, utterances in affected.items():
        if utterances:
            numbers = Counter(w for u in utterances for w in u.transcript.split() if any(c.isnumeric() for c in w))
            sentence = (
                f"{len(utterances)} utterances of {role} contain digits ({_list_counts(numbers)}){mixed}: the "
                f"transform {{numbers_to_words: {language}}}, before others that change them, spells them"
            )
            yield _finding("digits", role, sentence, utterances)


def _list_counts(counts: Counter[str], most: int = 10) -> str:
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    listed = ", ".join(f"{text} × {count}" for text, count in common)
    return listed + (f" and {len(counts) - most} others" if len(counts) > most else "")


def _find_leaks(role: str, split: Split, train: Split) -> Iterator[Finding]:
    if shared := ({u.speaker for u in split.utterances} & {u.speaker for u in train.utterances}) - {None}:
        sentence = f"{len(shared)} speakers of {role} are also in train, so its WER is too low for new speakers"
        yield _finding("shared speakers", role, sentence, [u for u in split.utterances if u.speaker in shared])
    keys = {_segment(u) for u in train.utterances} - {None}
    same = [u for u in split.utterances if _segment(u) in keys]
    if same:
        yield _finding("shared audio", role, f"{len(same)} recordings of {role} are also in train", same)
    # Short transcripts such as commands repeat; a longer sentence that is also in train makes the WER too low.
    known = {u.transcript for u in train.utterances}
    same = [u for u in split.utterances if u.transcript in known and len(split_words(u.transcript)) > 3]
    if same:
        share = len(same) / len(split.utterances)
        sentence = f"{len(same)} transcripts of {role} ({share:.0%}) are identical to one in train"
        yield _finding("shared transcripts", role, sentence, same)


def _find_unwritable(role: str, split: Split, writable: set[str]) -> Iterator[Finding]:
    if unseen := [u for u in split.utterances if set(u.transcript) - writable - {" "}]:
        characters = sorted(set("".join(u.transcript for u in unseen)) - writable - {" "})
        sentence = f"{role} has characters that are not in the model's vocabulary: {' '.join(characters)}"
        yield _finding("unseen characters", role, sentence, unseen)


def _decode_split(role: str, split: Split, sampling_rate: int, listen: Listen) -> tuple[list[Finding], float]:
    """Findings that need decoding: truncated, clipped or almost silent audio; and the total seconds decoded."""
    place = {utterance.row: number for number, utterance in enumerate(split.utterances)}
    results = listen(split, sampling_rate)
    progress = tqdm(results, f"decoding {role}", len(split.utterances), leave=False, disable=None)
    all_heard = sorted(progress, key=lambda pair: place[pair[0].row])
    found: dict[tuple[str, bool], list[Utterance]] = {}
    for utterance, heard in all_heard:
        for kind in heard.kinds:
            found.setdefault((kind, heard.unusable), []).append(utterance)
    findings = [
        _finding(kind, role, f"{len(utterances)} utterances of {role}: {kind}", utterances, unusable)
        for (kind, unusable), utterances in sorted(found.items())
    ]
    return findings, sum(heard.seconds for _, heard in all_heard)


def _listen_here(split: Split, sampling_rate: int) -> Iterator[tuple[Utterance, Heard]]:
    def listen(utterance: Utterance) -> tuple[Utterance, Heard]:
        try:
            with fault_as_reason():
                recording = split.table.recording(utterance.row)
        except AudioError as error:
            return utterance, describe_unusable(error)
        return utterance, listen_to(recording, utterance.seconds, sampling_rate, split.preprocessing)

    # Decoding releases the global lock. Four threads more than cores wait for reads, as in Python's default.
    with ThreadPoolExecutor(count_threads() + 4) as pool:
        yield from pool.map(listen, split.utterances)


def listen_to(
    recording: Recording, seconds: float, sampling_rate: int, preprocessing: Sequence[AudioTransform]
) -> Heard:
    """Decode a recording that is to have a length, and judge it after preprocessing."""
    try:
        with fault_as_reason():
            decoded = decode_sound(recording, sampling_rate)
            kinds = [judge(preprocess_sound(preprocessing, decoded.waveform, sampling_rate))]
    except AudioError as error:
        return describe_unusable(error)
    if decoded.cancelled:
        kinds.append("channels that cancel each other, one of which is used")
    if abs(decoded.seconds - seconds) > _SAME_SECONDS:
        kinds.append("another length than in the header")
    return Heard(tuple(kind for kind in kinds if kind is not None), seconds=decoded.seconds)


def describe_unusable(error: AudioError) -> Heard:
    """The kind of problem of an utterance that can't be decoded."""
    return Heard((str(error).partition(":")[0],), unusable=True)


def judge(waveform: Waveform) -> str | None:
    """The problem of a waveform, (samples,) float32 with full scale 1, or None."""
    magnitude = np.abs(waveform)
    peak = float(magnitude.max())
    flat = magnitude >= 0.999 * peak
    if np.count_nonzero(flat[1:] & flat[:-1]) > _CLIPPED_SHARE * (len(flat) - 1):
        return "clipped audio"
    if 10 * np.log10(float(np.mean(waveform.astype(np.float64) ** 2)) + 1e-12) < _QUIET_DBFS:
        return "almost silent audio"
    return None


def _finding(kind: str, role: str, sentence: str, utterances: Sequence[Utterance], unusable: bool = False) -> Finding:
    return Finding(kind, role, sentence, tuple((u.row, u.name) for u in utterances), unusable)


def _quantiles(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(list(values), QUANTILES))
