"""A model and a split to scores, each utterance on exactly one process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from finetune.data.audio import AudioError, Waveform
from finetune.data.corpus import Limits, Rejection, Split, Utterance, prepare_split, require_any
from finetune.data.features import encoder_convolutions
from finetune.data.preprocessing import load_preprocessing
from finetune.data.sources import Source, load_splits, select_table
from finetune.data.transcripts import DEFAULT_STEPS, Step, load_normalization
from finetune.decoding.greedy import count_blanks, decode_greedy
from finetune.errors import UserError
from finetune.evaluation.report import Result
from finetune.evaluation.scores import Scores, score
from finetune.inference.transcriber import MIN_SECONDS, Transcriber


@dataclass(frozen=True)
class Evaluation:
    """Scores of one split with what was said about each utterance; `blank_ratio` is the share of blank frames."""

    scores: Scores
    results: list[Result]
    rejected: list[Rejection]
    blank_ratio: float


def evaluate(name: str, source: Source, split: str | None, batch_seconds: float = 80.0) -> Evaluation:
    """Score a model (a folder or a hub name) on a split of a source, each utterance once.

    The split is the test split, or the only one, unless named. References are normalised as saved with the model.
    Raises UserError for a model or a source that can't be used.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    tables = load_splits(source)
    split = split or ("test" if "test" in tables else None) or (next(iter(tables)) if len(tables) == 1 else None)
    if split is None:
        raise UserError(f"{source.root} has the splits {', '.join(sorted(tables))}: name one with --split.")
    table = select_table(tables, split, source)
    transcriber = Transcriber.load(name, str(accelerator.device))
    steps = load_normalization(name) or _guess_normalization(transcriber)
    config = transcriber.model.config
    limits = Limits(transcriber.sampling_rate, encoder_convolutions(config), min_seconds=MIN_SECONDS)
    prepared = prepare_split(split, table, steps, limits, preprocessing=load_preprocessing(name))
    evaluation = evaluate_split(transcriber, prepared, batch_seconds, accelerator)
    return replace(evaluation, rejected=[*prepared.rejected, *evaluation.rejected])


def evaluate_split(
    transcriber: Transcriber, split: Split, batch_seconds: float, accelerator: Accelerator
) -> Evaluation:
    """Transcribe and score a split, each utterance on exactly one process, whatever their number.

    Raises UserError when no utterance could be read.
    """
    order = sorted(split.utterances, key=lambda utterance: (-utterance.seconds, utterance.row))
    mine = order[accelerator.process_index :: accelerator.num_processes]
    transcriber.model.eval()
    results: list[tuple[int, Result]] = []
    rejected: list[Rejection] = []
    blanks = frames = 0
    shown = None if accelerator.is_main_process else True
    progress = tqdm(total=len(mine), desc=split.name, unit="utterance", leave=False, disable=shown)
    while mine:
        # The longest comes first, so it alone says how many fit.
        count = max(1, int(batch_seconds // mine[0].seconds))
        batch, mine = mine[:count], mine[count:]
        progress.update(len(batch))
        read, unreadable = _read(split, batch, transcriber.sampling_rate)
        rejected += unreadable
        if not read:
            continue
        logits, num_frames = transcriber.logits([waveform for _, waveform in read])
        counted = count_blanks(logits, num_frames, transcriber.model.config.pad_token_id)
        blanks, frames = blanks + counted[0], frames + counted[1]
        texts = decode_greedy(logits, num_frames, transcriber.tokenizer)
        for (u, _), text in zip(read, texts, strict=True):
            result = Result(u.name, u.transcript, text, u.raw_transcript, u.seconds, u.speaker, u.columns)
            results.append((u.row, result))
    progress.close()
    gathered = [result for _, result in sorted(gather_object(results), key=lambda item: item[0])]
    rejected = gather_object(rejected)
    require_any(replace(split, utterances=split.utterances if gathered else (), rejected=tuple(rejected)))
    seconds = sum(result.seconds for result in gathered)
    scores = score([r.reference for r in gathered], [r.hypothesis for r in gathered], seconds)
    counts = gather_object([(blanks, frames)])
    ratio = sum(b for b, _ in counts) / max(sum(f for _, f in counts), 1)
    return Evaluation(scores, gathered, rejected, ratio)


def _read(
    split: Split, utterances: Sequence[Utterance], sampling_rate: int
) -> tuple[list[tuple[Utterance, Waveform]], list[Rejection]]:
    read: list[tuple[Utterance, Waveform]] = []
    rejected: list[Rejection] = []
    for utterance in utterances:
        try:
            read.append((utterance, split.read(utterance, sampling_rate)))
        except AudioError as error:
            rejected.append(split.reject(utterance.row, error))
    return read, rejected


def _guess_normalization(transcriber: Transcriber) -> tuple[Step, ...]:
    """The default steps, in capitals for a model that writes capitals."""
    letters = [token for token in transcriber.tokenizer.get_vocab() if len(token) == 1 and token.isalpha()]
    if letters and all(letter == letter.upper() for letter in letters):
        return tuple("uppercase" if step == "lowercase" else step for step in DEFAULT_STEPS)
    return DEFAULT_STEPS
