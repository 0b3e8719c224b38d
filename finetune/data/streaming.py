"""Streamed training data: read from its sources in windows, each shuffled and bucketed like a split."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from finetune.audio.augmentation import generator
from finetune.data.batching import (
    ORDER,
    ROWS,
    SHARES,
    Batch,
    BatchOptions,
    Key,
    Shard,
    SpeechBatches,
    bucket,
    leave_signals_to_training,
)
from finetune.data.corpus import SkippedUtterance, Split
from finetune.data.own_files import undecoded
from finetune.data.rows import build_typed_dataset
from finetune.data.sources import JoinedTables, Table
from finetune.errors import UserError
from finetune.resources.machine import choose_device

SAMPLE = 1000
"""The number of first rows that are read before training, for the vocabulary and statistics."""

# Rows in the shuffle buffer, and rows that are bucketed together: with 15 s of FLAC about 250 MB each.
_SHUFFLED, _WINDOW = 1000, 1000

# The number of a row after the first pass: unusable rows are reported once, with their number in the first pass.
_KNOWN = -1


@dataclass(frozen=True)
class Stream:
    """The tables of a training split, at least one of which is streamed (a `datasets.IterableDataset`).

    `prepare` makes a split of a window of rows. Each table contributes rows in proportion to its weight.
    """

    tables: tuple[Table, ...]
    prepare: Callable[[JoinedTables], Split]


def keep_in_memory(rows: Any, limit: int | None = None) -> Any:
    """The first `limit` rows of a stream, or all, as a table with undecoded audio; raises UserError if it is empty."""
    read = list(itertools.islice(undecoded(rows), limit))
    if not read:
        raise UserError("The stream has no rows.")
    return build_typed_dataset(read)


class StreamedBatches(torch.utils.data.IterableDataset[Batch]):
    """One process's batches of a stream; the same seed, source and `first_step` give the same batches.

    Every process reads the whole stream and collates its own batches. A resumed run also reads it from the beginning.
    """

    def __init__(
        self,
        stream: Stream,
        options: BatchOptions,
        batch_seconds: float,
        shard: Shard,
        kind: type[SpeechBatches] = SpeechBatches,
    ) -> None:
        self.stream, self.options, self.batch_seconds, self.shard = stream, options, batch_seconds, shard
        self.kind = kind

    def __iter__(self) -> Iterator[Batch]:
        missing: list[SkippedUtterance] = []
        position = 0
        for period, split in self._windows():
            if self.shard.rank == 0:
                missing += _select_new(split.rejected)
            data = self.kind(split, self.options)
            seconds = [utterance.seconds for utterance in split.utterances]
            for indices in bucket(seconds, self.batch_seconds, generator(self.options.seed, period, 0, ORDER)):
                if self.shard.holds(position):
                    keys: list[Key] = [(period, index, 0) for index in indices]
                    batch = data.collate([data[key] for key in keys])
                    yield replace(batch, unreadable=(*missing, *_select_new(batch.unreadable)))
                    missing = []
                elif self.shard.is_past(position):
                    missing = []  # Reported before the interruption.
                position += 1

    def _windows(self) -> Iterator[tuple[int, Split]]:
        """Windows without end, each with its number; with a single table a window ends at the end of the table."""
        tables, seed = self.stream.tables, self.options.seed
        weights = np.array([table.source.weight for table in tables])
        rows = [self._rows(number, table) for number, table in enumerate(tables)]
        passes, used = [0] * len(tables), 0
        for period in itertools.count():
            counts = generator(seed, period, 0, SHARES).multinomial(_WINDOW, weights / weights.sum())
            window: list[Table] = []
            for number, table in enumerate(tables):
                taken: list[tuple[int, dict[str, Any]]] = []
                while len(taken) < counts[number]:
                    row = next(rows[number])
                    if row is not None:
                        taken.append(row)
                        continue
                    passes[number] += 1
                    if len(tables) == 1:
                        break
                if taken:
                    places, cells = zip(*taken, strict=True)
                    window.append(replace(table, rows=build_typed_dataset(cells), places=places))
            if window:
                split = self.stream.prepare(JoinedTables(window))
                used += len(split.utterances)
                yield period, split
            if min(passes) and not used:
                roots = " and ".join(dict.fromkeys(table.source.name for table in tables))
                raise UserError(f"No utterance of {roots} can be used.")

    def _rows(self, number: int, table: Table) -> Iterator[tuple[int, dict[str, Any]] | None]:
        """A table's rows with their numbers, in another order in each pass; None marks the end of a pass."""
        import datasets

        seed = self.options.seed
        streamed = isinstance(table.rows, datasets.IterableDataset)
        shuffled = undecoded(table.rows).shuffle(seed=seed, buffer_size=_SHUFFLED) if streamed else None
        for epoch in itertools.count():
            if shuffled is not None:
                shuffled.set_epoch(epoch)
                rows: Iterator[tuple[int, dict[str, Any]]] = enumerate(shuffled)
            else:
                order = generator(seed, epoch, number, ROWS).permutation(len(table)).tolist()
                rows = ((place, table.rows[place]) for place in order)
            for place, row in rows:
                yield (_KNOWN if epoch else place), row
            yield None

    def loader(self) -> "torch.utils.data.DataLoader[Any]":
        """A loader of these batches with exactly one worker.

        Two would read everything twice, and without one `datasets` shuffles a stream in another order.
        """
        return torch.utils.data.DataLoader(
            self,
            batch_size=None,
            num_workers=1,
            pin_memory=choose_device().type == "cuda",
            prefetch_factor=4,
            worker_init_fn=leave_signals_to_training,
        )


def _select_new(rejected: Iterable[SkippedUtterance]) -> list[SkippedUtterance]:
    return [rejection for rejection in rejected if rejection.row != _KNOWN]
