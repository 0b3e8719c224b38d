"""The prefixes that may be in the next beam: the best of them in a heap of fixed size, compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.compilation import compiled

# The prefix at `slot` of the beam, unchanged (symbol -1) or continued by a symbol; `mass` is its acoustic score.
CANDIDATE = np.dtype(
    [("slot", np.int32), ("symbol", np.int32), ("node", np.int32), ("mass", np.float64)],
    align=True,
)


class Candidates(NamedTuple):
    """A heap with the worst candidate first: its scores and entries, both (beam width,)."""

    scores: NDArray[np.float64]
    entries: NDArray[Any]  # CANDIDATE


@compiled
def push(
    scores: NDArray[np.float64], entries: NDArray[Any], count: int, score: float, slot: int, symbol: int, mass: float
) -> None:
    """Put a candidate into a heap of `count` entries; into a full heap in place of the worst."""
    size = len(scores)
    if count < size:
        at = count
        while at > 0 and scores[(at - 1) // 2] > score:
            scores[at], entries[at] = scores[(at - 1) // 2], entries[(at - 1) // 2]
            at = (at - 1) // 2
    else:
        at = 0
        while True:
            child = 2 * at + 1
            if child + 1 < size and scores[child + 1] < scores[child]:
                child += 1
            if child >= size or scores[child] >= score:
                break
            scores[at], entries[at] = scores[child], entries[child]
            at = child
    scores[at] = score
    entry = entries[at]
    entry.slot, entry.symbol, entry.mass = slot, symbol, mass


@compiled
def keep_best(heap: Candidates, count: int, least: float) -> Candidates:
    """The candidates of a heap of `count` entries whose scores are at least `least`; the heap is used up."""
    scores, entries = heap
    kept = 0
    for i in range(count):
        if scores[i] >= least:
            scores[kept], entries[kept] = scores[i], entries[i]
            kept += 1
    return Candidates(scores[:kept], entries[:kept])


@compiled
def sort(numbers: NDArray[np.int32], values: NDArray[np.float64]) -> None:
    """Sort a few numbers by their values, largest first, with Shell sort: it compiles faster than numpy's sort."""
    gap = len(numbers) // 2
    while gap > 0:
        for i in range(gap, len(numbers)):
            number, at = numbers[i], i
            while at >= gap and values[numbers[at - gap]] < values[number]:
                numbers[at] = numbers[at - gap]
                at -= gap
            numbers[at] = number
        gap //= 2
