"""A split larger than the disk: read from its source in windows, each bucketed and shuffled as a split of its own."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from finetune.data.augmentation import generator
from finetune.data.batching import ORDER, Batch, Key, SpeechBatches, bucket
from finetune.data.corpus import Rejection, Split
from finetune.data.sources import Table
from finetune.errors import UserError

SAMPLE = 1000
"""The first rows of a stream: what is known of it before training, its vocabulary among it."""

# Rows that are shuffled among each other, and rows that are bucketed together: of 15 s as FLAC some 250 MB each.
_SHUFFLED, _WINDOW = 1000, 1000


@dataclass(frozen=True)
class Stream:
    """The rows of a training split as they come (a `datasets.IterableDataset`), and how a window becomes a split."""

    rows: Any
    table: Table
    prepare: Callable[[Table], Split]


def keep_in_memory(rows: Any, limit: int | None = None) -> Any:
    """The first rows of a stream, or all of them, as a table with undecoded audio; raises UserError for none."""
    import datasets

    read = list(itertools.islice(undecoded(rows), limit))
    if not read:
        raise UserError("The stream holds no rows.")
    return datasets.Dataset.from_list(read)


def undecoded(rows: Any) -> Any:
    """A stream with its audio as bytes or paths."""
    import datasets

    for name, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Audio):
            rows = rows.cast_column(name, datasets.Audio(decode=False))
    return rows


class StreamedBatches(torch.utils.data.IterableDataset[Batch]):
    """One process's batches of a stream, the same as long as the seed, the source and `first_step` are.

    Every process reads the whole stream and collates its own batches; so does a resumed run up to where it goes on.
    """

    def __init__(
        self,
        stream: Stream,
        batches: SpeechBatches,
        batch_seconds: float,
        first_step: int,
        per_step: int,
        rank: int,
        num_processes: int,
    ) -> None:
        """`batches` says how utterances become a batch; the rest is as in `stream` and `deal` of `batching`."""
        self.stream = stream
        self.batches = batches
        self.batch_seconds = batch_seconds
        self.skipped = first_step * per_step
        self.rank = rank
        self.num_processes = num_processes

    def __iter__(self) -> Iterator[Batch]:
        missing: list[Rejection] = []
        position = 0
        for period, (epoch, first, split) in enumerate(self._windows()):
            # What can't be used is named once, with its place in the order of the first epoch.
            if self.rank == 0 and epoch == 0:
                missing += [replace(rejection, row=first + rejection.row) for rejection in split.rejected]
            data = copy.copy(self.batches)
            data.split = split
            seconds = [utterance.seconds for utterance in split.utterances]
            for indices in bucket(seconds, self.batch_seconds, generator(data.seed, period, 0, ORDER)):
                if position >= self.skipped and position % self.num_processes == self.rank:
                    keys: list[Key] = [(period, index, 0) for index in indices]
                    batch = data.collate([data[key] for key in keys])
                    unreadable = [replace(r, row=first + r.row) for r in batch.unreadable] if epoch == 0 else []
                    yield replace(batch, unreadable=(*missing, *unreadable))
                    missing = []
                elif position < self.skipped:
                    missing = []  # Known since before the interruption.
                position += 1

    def _windows(self) -> Iterator[tuple[int, int, Split]]:
        """Windows without end, with the epoch of each and its first row's place in that."""
        import datasets

        shuffled = undecoded(self.stream.rows).shuffle(seed=self.batches.seed, buffer_size=_SHUFFLED)
        for epoch in itertools.count():
            shuffled.set_epoch(epoch)
            rows, first, used = iter(shuffled), 0, 0
            while window := list(itertools.islice(rows, _WINDOW)):
                split = self.stream.prepare(replace(self.stream.table, rows=datasets.Dataset.from_list(window)))
                yield epoch, first, split
                first, used = first + len(window), used + len(split.utterances)
            if not used:
                raise UserError(f"No utterance of {self.stream.table.source.root} can be used.")

    def loader(self) -> "torch.utils.data.DataLoader[Any]":
        """A loader of these batches, always in one worker: two would read everything twice.

        And `datasets` shuffles a stream in another way where there is none.
        """
        return torch.utils.data.DataLoader(
            self,
            batch_size=None,
            num_workers=1,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4,
        )
