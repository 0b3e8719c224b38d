"""A split's audio in batches of similar lengths, and values computed from them, whatever single files fail."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

from finetune.audio.waveforms import AudioError, Waveform, fault_as_reason
from finetune.data.corpus import SkippedUtterance, Split, Utterance

Computed = TypeVar("Computed")


def read_batches(
    split: Split, batch_seconds: float, sampling_rate: int, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[list[tuple[Utterance, Waveform]], list[SkippedUtterance]]]:
    """Batches of similar lengths: the readable utterances of a split with their audio, and the skipped ones.

    `share` is (process, number of processes); an utterance is in exactly one share. The first process shows progress.
    """
    order = sorted(split.utterances, key=lambda utterance: (-utterance.seconds, utterance.row))
    process, num_processes = share
    mine = order[process::num_processes]
    hidden = True if process else None
    with tqdm(total=len(mine), desc=split.name, unit="utterance", leave=False, disable=hidden) as progress:
        while mine:
            # The longest comes first and determines the size of the batch.
            count = max(1, int(batch_seconds // mine[0].seconds))
            batch, mine = mine[:count], mine[count:]
            progress.update(len(batch))
            yield _read(split, batch, sampling_rate)


def _read(
    split: Split, utterances: Sequence[Utterance], sampling_rate: int
) -> tuple[list[tuple[Utterance, Waveform]], list[SkippedUtterance]]:
    """The readable utterances with their audio, and the skipped ones."""
    read: list[tuple[Utterance, Waveform]] = []
    rejected: list[SkippedUtterance] = []
    for utterance in utterances:
        try:
            read.append((utterance, split.read(utterance, sampling_rate)))
        except AudioError as error:
            rejected.append(split.reject(utterance.row, error))
    return read, rejected


def compute_each(
    split: Split,
    read: Sequence[tuple[Utterance, Waveform]],
    compute: Callable[[Sequence[tuple[Utterance, Waveform]]], Sequence[Computed]],
) -> tuple[list[tuple[Utterance, Waveform, Computed]], list[SkippedUtterance]]:
    """Compute a value for each utterance of a batch; utterances that fail are returned as skipped.

    If the batch fails, each utterance is computed alone, so that a fault affects only its own utterance.
    """
    try:
        with fault_as_reason():
            return [(*pair, value) for pair, value in zip(read, compute(read), strict=True)], []
    except AudioError as error:
        if len(read) == 1:
            return [], [split.reject(read[0][0].row, error)]
    parts = [compute_each(split, [each], compute) for each in read]
    return [value for values, _ in parts for value in values], [each for _, failed in parts for each in failed]
