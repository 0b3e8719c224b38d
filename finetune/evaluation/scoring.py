"""Score a model on a split, each utterance on exactly one process."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from finetune.audio.preprocessing import load_preprocessing
from finetune.audio.snr import estimate_snr
from finetune.audio.waveforms import AudioError, Recording, Waveform, fault_as_reason
from finetune.data.corpus import AudioSpec, SkippedUtterance, Split, Utterance, prepare_split, require_any
from finetune.data.sources import JoinedTables, Source, load_splits, select_table
from finetune.data.split_reader import compute_each, read_batches
from finetune.decoding.decoder import build_greedy_search, choose_search, describe_decoder, format_decoder
from finetune.decoding.greedy import GreedySearch, count_blanks, measure_confidence
from finetune.errors import UserError
from finetune.evaluation.results import Result, add_up, count_results
from finetune.evaluation.scores import Counts, Scores
from finetune.inference.recogniser import Recogniser
from finetune.inference.utterance_statistics import Distribution, UtteranceStatistics
from finetune.models.configuration import encoder_convolutions
from finetune.resources.cluster import ClusterOptions, join_cluster
from finetune.resources.machine import choose_device, describe_device, describe_machine, format_machine
from finetune.resources.repositories import fetch_model
from finetune.resources.storage import find_place, is_url
from finetune.text.training_words import load_training_words
from finetune.text.transcripts import Transform, build_normalizer, describe_transforms
from finetune.text.word_units import split_words

BATCH_SECONDS = 80.0  # Default seconds of audio in a batch.


@dataclass(frozen=True)
class Speed:
    """Seconds of forward passes and decoding, summed over the processes, and of audio."""

    compute_seconds: float
    audio_seconds: float
    processes: int
    device: str

    @property
    def real_time_factor(self) -> float:
        """Computing seconds of one process per second of audio."""
        return self.compute_seconds / self.audio_seconds if self.audio_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields, and the real-time factor."""
        return {**vars(self), "real_time_factor": self.real_time_factor}

    def summary(self) -> str:
        """The speed as one line of text."""
        shared = f", of each of {self.processes} processes" if self.processes > 1 else ""
        return (
            f"real-time factor {self.real_time_factor:.2g}{shared} on {self.device} ({self.compute_seconds:.1f} s of "
            f"forward passes and decoding for {self.audio_seconds:.1f} s of audio)"
        )


@dataclass(frozen=True)
class Evaluation:
    """Scores of one split with the result of each utterance; `blank_ratio` is the share of blank frames.

    `counts`, (utterances, columns), and `rows`, the rows of the split's table, are in the order of the results.
    `normalization` was applied to references and hypotheses; `decoder` describes the decoding.
    """

    scores: Scores
    results: list[Result]
    counts: Counts
    rejected: list[SkippedUtterance]
    blank_ratio: float
    speed: Speed
    normalization: tuple[Transform, ...]
    decoder: dict[str, Any]
    split: Split
    rows: list[int]
    precision: str

    @property
    def statistics(self) -> UtteranceStatistics:
        """The distributions of confidence and blank ratio over the utterances."""
        return UtteranceStatistics(
            confidence=Distribution.measure(result.confidence for result in self.results),
            blank_ratio=Distribution.measure(result.blank_ratio for result in self.results),
        )

    def recording(self, place: int) -> Recording:
        """The audio of the result at an index, not read yet; raises AudioError."""
        return self.split.table.recording(self.rows[place])

    def evaluated(self) -> dict[str, Any]:
        """What was evaluated, for `scores.json`: the split and its sources, normalisation and decoder."""
        table = self.split.table
        tables = table.tables if isinstance(table, JoinedTables) else (table,)
        return {
            "sources": [
                {
                    "root": source.name,
                    **{name: getattr(source, name) for name in ("configuration", "revision")},
                    "local": not is_url(source.root) and find_place(source.root).exists(),
                }
                for source in (each.source for each in tables)
            ],
            "split": self.split.name,
            "normalization": describe_transforms(self.normalization),
            "decoder": self.decoder,
        }

    def details(self) -> dict[str, str]:
        """How the scores were computed, as names and texts."""
        return {
            "Split": self.split.name,
            "Decoder": format_decoder(self.decoder),
            "Normalisation": ", ".join(describe_transforms(self.normalization)) or "none",
            "Speed": self.speed.summary(),
            "Machine": format_machine(describe_machine()),
            "Precision": self.precision,
        }


@dataclass(frozen=True)
class Decoding:
    """How to decode, if not as saved with the model: see `choose_search`."""

    decoder: str | None = None
    beam_width: int | None = None
    hotwords: Mapping[str, float] = field(default_factory=dict)

    def apply(self, recogniser: Recogniser) -> None:
        """Set a recogniser's search."""
        recogniser.search = choose_search(recogniser.search, recogniser.tokenizer, recogniser.num_symbols, **vars(self))


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is evaluated.

    `split` is the test split, or the only one, unless named. References and hypotheses are normalised as saved with the
    model unless `normalization` is given. `precision` and `language` are those of `Recogniser.load`. With a `cluster`
    its actors compute.
    """

    split: str | None = None
    normalization: Sequence[Transform] | None = None
    batch_seconds: float = BATCH_SECONDS
    decoding: Decoding = Decoding()
    precision: str = "float32"
    language: str | None = None
    cluster: ClusterOptions | None = None


def evaluate(
    name: str, sources: Sequence[Source], options: EvaluationOptions = EvaluationOptions()
) -> Iterator[Evaluation]:
    """Score a model on a split of each source in turn, each utterance once.

    The model is a folder, or on a hub USER/NAME or USER/NAME@REVISION. Raises UserError for a model or a source that
    cannot be used.

    >>> from finetune.data.sources import Source
    >>> from finetune.evaluation.scoring import evaluate
    >>> [evaluation] = evaluate("runs/quickstart/model", [Source("corpus")])
    >>> evaluation.scores.utterances, evaluation.split.name
    (6, 'test')
    """
    accelerator = Accelerator(cpu=choose_device().type == "cpu")
    model = fetch_model(name)
    recogniser, splits, steps = open_model(model, sources, accelerator.device, options)
    options.decoding.apply(recogniser)
    training_words = load_training_words(model)
    with join_cluster(options.cluster.address) if options.cluster else nullcontext():
        for prepared in splits:
            if options.cluster:
                from finetune.evaluation.cluster_scoring import score_on_cluster

                part = score_on_cluster(name, prepared, replace(options, normalization=steps), options.cluster)
                evaluation = _join_parts(recogniser, prepared, [part], steps)
            else:
                evaluation = evaluate_split(
                    recogniser, prepared, options.batch_seconds, accelerator, steps, training_words
                )
            yield replace(evaluation, rejected=[*prepared.rejected, *evaluation.rejected])


def open_model(
    model: Path, sources: Sequence[Source], device: torch.device, options: EvaluationOptions = EvaluationOptions()
) -> tuple[Recogniser, Iterator[Split], tuple[Transform, ...]]:
    """A folder's model, a split of each source, prepared lazily as the model needs it, and the normalisation.

    `batch_seconds` and `decoding` of the options are not used. Raises UserError as `evaluate` does.
    """
    splits = [load_splits(source) for source in sources]
    names = [options.split or _choose_split(source, tables) for source, tables in zip(sources, splits, strict=True)]
    tables = [select_table(*each) for each in zip(splits, names, sources, strict=True)]
    recogniser = Recogniser.load(model, str(device), options.precision, options.language)
    steps = recogniser.normalization if options.normalization is None else tuple(options.normalization)
    convolutions = encoder_convolutions(recogniser.model.config)
    spec = AudioSpec(recogniser.sampling_rate, convolutions, min_seconds=recogniser.min_seconds)
    preprocessing = load_preprocessing(model)
    prepared = (
        prepare_split(name, table, steps, replace(spec, max_seconds=each.max_seconds), preprocessing=preprocessing)
        for name, table, each in zip(names, tables, sources, strict=True)
    )
    return recogniser, prepared, steps


def evaluate_pair(a: str, b: str, source: Source, options: EvaluationOptions) -> tuple[Evaluation, Evaluation]:
    """Score two models on one split, both normalised as saved with A: otherwise their references could differ.

    Raises UserError as `evaluate` does.
    """
    first = next(evaluate(a, [source], options))
    return first, next(evaluate(b, [source], replace(options, normalization=first.normalization)))


def _choose_split(source: Source, tables: dict[str, object]) -> str:
    if "test" in tables:
        return "test"
    if len(tables) == 1:
        return next(iter(tables))
    raise UserError(f"{source.name} has the splits {', '.join(sorted(tables))}: name one with --split.")


def evaluate_split(
    recogniser: Recogniser,
    split: Split,
    batch_seconds: float,
    accelerator: Accelerator,
    normalization: Sequence[Transform] = (),
    training_words: frozenset[str] | None = None,
) -> Evaluation:
    """Transcribe and score a split, each utterance on exactly one process.

    Hypotheses are normalised as the split's transcripts were. Raises UserError if no utterance can be read.
    """
    share = (accelerator.process_index, accelerator.num_processes)
    part = score_part(recogniser, split, batch_seconds, normalization, training_words, share)
    return _join_parts(recogniser, split, gather_object([part]), normalization)


@dataclass(frozen=True)
class ScoredPart:
    """What one process has scored of a split: rows with results, what it skipped, and sums over the others."""

    results: list[tuple[int, Result]]
    rejected: list[SkippedUtterance]
    blanks: int
    frames: int
    compute_seconds: float
    device: str


def score_part(
    recogniser: Recogniser,
    split: Split,
    batch_seconds: float,
    normalization: Sequence[Transform],
    training_words: frozenset[str] | None,
    share: tuple[int, int] = (0, 1),
) -> ScoredPart:
    """Transcribe and score a share of a split: (process, number of processes)."""
    normalize = build_hypothesis_normalizer(normalization, recogniser)
    recogniser.model.eval()
    compute_seconds = 0.0
    results: list[tuple[int, Result]] = []
    rejected: list[SkippedUtterance] = []
    blanks = frames = 0
    recognise = partial(_recognise, recogniser, build_greedy_search(recogniser.tokenizer, recogniser.num_symbols))
    for read, unreadable in read_batches(split, batch_seconds, recogniser.sampling_rate, share):
        rejected += unreadable
        if not read:
            continue
        began = time.perf_counter()  # The logits are returned on the CPU, so no GPU work is pending.
        recognised, failed = compute_each(split, read, recognise)
        compute_seconds += time.perf_counter() - began
        rejected += failed
        for utterance, waveform, heard in recognised:
            try:
                with fault_as_reason():
                    snr_db = estimate_snr(waveform, recogniser.sampling_rate)
                    result = _build_result(utterance, heard, normalize(heard.text), snr_db, training_words)
            except AudioError as error:
                rejected.append(split.reject(utterance.row, error))
                continue
            blanks, frames = blanks + heard.blanks, frames + heard.frames
            results.append((utterance.row, result))
    return ScoredPart(results, rejected, blanks, frames, compute_seconds, describe_device(recogniser.device))


def _join_parts(
    recogniser: Recogniser, split: Split, parts: Sequence[ScoredPart], normalization: Sequence[Transform]
) -> Evaluation:
    """The evaluation of a split from what processes have scored of it; raises UserError if that is nothing."""
    numbered = sorted((each for part in parts for each in part.results), key=lambda item: item[0])
    gathered = [result for _, result in numbered]
    rejected = [each for part in parts for each in part.rejected]
    require_any(replace(split, utterances=split.utterances if gathered else (), rejected=tuple(rejected)))
    gathered_counts = count_results(gathered)
    scores = add_up(gathered, gathered_counts)
    blanks, frames = sum(part.blanks for part in parts), sum(part.frames for part in parts)
    compute_seconds = sum(part.compute_seconds for part in parts)
    return Evaluation(
        scores=scores,
        results=gathered,
        counts=gathered_counts,
        rejected=rejected,
        blank_ratio=blanks / max(frames, 1),
        speed=Speed(compute_seconds, scores.audio_seconds, len(parts), parts[0].device),
        normalization=tuple(normalization),
        decoder=describe_decoder(recogniser.search),
        split=split,
        rows=[row for row, _ in numbered],
        precision=str(recogniser.dtype).removeprefix("torch."),
    )


@dataclass(frozen=True)
class _Recognised:
    """An utterance's text, its numbers of blank frames and of frames, and the mean confidence of its words."""

    text: str
    blanks: int
    frames: int
    confidence: float | None


def _build_result(
    utterance: Utterance,
    heard: _Recognised,
    hypothesis: str,
    snr_db: float | None,
    training_words: frozenset[str] | None,
) -> Result:
    words = split_words(utterance.transcript)
    return Result(
        name=utterance.name,
        reference=utterance.transcript,
        hypothesis=hypothesis,
        raw_reference=utterance.raw_transcript,
        seconds=utterance.seconds,
        speaker=utterance.speaker,
        columns=utterance.columns,
        raw_hypothesis=heard.text,
        source=utterance.source,
        snr_db=snr_db,
        unseen_words=None if training_words is None else sum(word not in training_words for word in words),
        confidence=heard.confidence,
        blank_ratio=heard.blanks / heard.frames if heard.frames else None,
    )


def _recognise(
    recogniser: Recogniser, greedy: GreedySearch, read: Sequence[tuple[Utterance, Waveform]]
) -> list[_Recognised]:
    logits, num_frames = recogniser.logits([waveform for _, waveform in read])
    texts = recogniser.decode(logits, num_frames, ["the utterance"] * len(read))
    blank = recogniser.model.config.pad_token_id
    return [
        _Recognised(
            text,
            *count_blanks(logits[i : i + 1], num_frames[i : i + 1], blank),
            confidence=measure_confidence(greedy, logits[i, : num_frames[i]]),
        )
        for i, text in enumerate(texts)
    ]


def build_hypothesis_normalizer(steps: Sequence[Transform], recogniser: Recogniser) -> Callable[[str], str]:
    """The normalisation of hypotheses, in which the unknown character and other marks are characters of a word."""
    normalize, marks = build_normalizer(steps), recogniser.alphabet.marks

    def normalize_around(text: str) -> str:
        # Normalisation would remove their brackets as punctuation, and one wrong character would become three words.
        # Private-use characters stay as they are; `numbers_to_words` uses one of those from 0xE000 on itself.
        for number, mark in enumerate(marks):
            text = text.replace(mark, chr(0xF0000 + number))
        text = normalize(text)
        for number, mark in enumerate(marks):
            text = text.replace(chr(0xF0000 + number), mark)
        return text

    return normalize_around
