"""Anchors between the recognised words of a long recording and its text, between which each part is aligned by itself.

Moreno et al. 1998 ("A recursive algorithm for the forced alignment of very long audio segments") align between runs of
words that were recognised as they are in the text. Here a run must occur once in each, as in patience diff.
"""

from bisect import bisect_left
from collections.abc import Sequence

_RUN = 5


def find_anchors(heard: Sequence[str], words: Sequence[str], run: int = _RUN) -> list[tuple[int, int]]:
    """Places in `heard` and in `words` from which `run` equal words follow that occur nowhere else in either.

    The longest chain of them that ascends in both is returned, in order.
    """
    places = _find_unique(words, run)
    pairs = [(place, places[key]) for key, place in _find_unique(heard, run).items() if key in places]
    return _find_chain(sorted(pairs))


def _find_unique(words: Sequence[str], run: int) -> dict[tuple[str, ...], int]:
    """The place of each run of words that occurs once."""
    places: dict[tuple[str, ...], int] = {}
    repeated: set[tuple[str, ...]] = set()
    for place in range(len(words) - run + 1):
        key = tuple(words[place : place + run])
        if key in places:
            repeated.add(key)
        places[key] = place
    return {key: place for key, place in places.items() if key not in repeated}


def _find_chain(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of pairs, sorted by their first, whose second ascend (patience sorting)."""
    ends: list[int] = []  # The least second of a chain of each length, and the pair that it is of.
    tops: list[int] = []
    before: list[int] = []
    for number, (_, second) in enumerate(pairs):
        length = bisect_left(ends, second)
        before.append(tops[length - 1] if length else -1)
        ends[length : length + 1] = [second]
        tops[length : length + 1] = [number]
    chain: list[tuple[int, int]] = []
    place = tops[-1] if tops else -1
    while place >= 0:
        chain.append(pairs[place])
        place = before[place]
    return chain[::-1]
