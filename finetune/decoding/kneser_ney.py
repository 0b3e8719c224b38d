"""Estimating n-gram language models by interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998).

Where the paper is ambiguous this follows lmplz (Heafield et al. 2013), so both estimate the same model from a text.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.ngram import END, START, UNKNOWN, Level, NGramModel
from finetune.errors import UserError

# lmplz --discount_fallback, for counts of one, two, and three or more.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)

# SRILM's decimal logarithm of 0: the probability of <s>, which is never predicted.
_NEVER_LOG10 = -99.0

# The model's special words, which no text may contain.
MARKS = (UNKNOWN, START, END)

_MAX_ORDER = 20
_UNKNOWN_ID, _START_ID, _END_ID = range(3)


@dataclass(frozen=True)
class Estimate:
    """A model, and the statistics of its estimation in each order.

    `counts` are the numbers of distinct n-grams before pruning; `discounts` those of counts of one, two, and three or
    more, (orders, 3); `fallbacks` the orders with FALLBACK_DISCOUNTS, since the text is too small to estimate them.
    """

    model: NGramModel
    counts: tuple[int, ...]
    discounts: tuple[tuple[float, ...], ...]
    fallbacks: tuple[int, ...]


@dataclass(frozen=True)
class _Counts:
    """The distinct n-grams of one order, sorted by `parent`, then `word`; each array has a value for each n-gram.

    `parent` and `suffix` are the rows, in the order below, of the n-gram without its last and without its first word;
    `raw` is its number of occurrences, `adjusted` the count that Kneser-Ney smoothing uses instead in lower orders.
    """

    parent: NDArray[np.int64]
    suffix: NDArray[np.int64]
    word: NDArray[np.int64]
    raw: NDArray[np.int64]
    adjusted: NDArray[np.int64]


def estimate(sentences: Iterable[str], order: int, prune: Sequence[int] = ()) -> Estimate:
    """Estimate a model of n-grams of up to `order` words from sentences of words with spaces between them.

    N-grams that occur `prune[n - 1]` times or less are pruned; the last value applies to longer ones too, as in lmplz
    --prune. An unknown word has the probability of a known word without occurrences. Empty sentences are skipped. The
    model's order is lower where the text has no longer n-grams or none is kept. A million words of text take some 300
    MB of memory.

    Raises UserError for a text without words or with one of the words `<unk>`, `<s>`, `</s>`, and for an order or
    thresholds that can't be used.
    """
    thresholds = check_thresholds(order, prune)
    tokens, words = _read(sentences)
    orders = _count(tokens, len(words), order)
    discounts = [_estimate_discounts(grams.adjusted) for grams in orders]
    # Each order is interpolated with the order below, the first with a uniform distribution over the words.
    probabilities = [np.full(1, 1 / (len(words) - 1))]
    backoffs = list[NDArray[np.float64]]()
    kept = [np.ones(1, bool)]
    for n, grams in enumerate(orders, start=1):
        kept.append(grams.raw > thresholds[n - 1] if n > 1 else np.ones(len(words), bool))
        discount = np.array([0.0, *(discounts[n - 1] or FALLBACK_DISCOUNTS)])[np.minimum(grams.adjusted, 3)]
        contexts = len(probabilities[-1])
        total = np.bincount(grams.parent, grams.adjusted, contexts)
        # The discounted mass goes to the backoff, and so does that of pruned n-grams.
        freed = np.bincount(grams.parent, np.where(kept[-1], discount, grams.adjusted), contexts)
        backoffs.append(np.divide(freed, total, out=np.ones(contexts), where=total > 0))
        seen = (grams.adjusted - discount) / total[grams.parent]
        probabilities.append(seen + backoffs[-1][grams.parent] * probabilities[-1][grams.suffix])
    backoffs.append(np.ones(len(probabilities[-1])))
    probabilities[1][_START_ID] = 0

    levels = []
    for n, grams in enumerate(orders, start=1):
        keep = kept[n]
        if not keep.any():
            break
        parent = (np.cumsum(kept[n - 1]) - 1)[grams.parent[keep]]
        word = grams.word[keep].astype(np.int32)
        levels.append(Level(parent.astype(np.int32), word, _log(probabilities[n][keep]), _log(backoffs[n][keep])))
    return Estimate(
        NGramModel.assemble(words, levels),
        tuple(len(grams.word) for grams in orders),
        tuple(found or FALLBACK_DISCOUNTS for found in discounts),
        tuple(n for n, found in enumerate(discounts, start=1) if found is None),
    )


def check_thresholds(order: int, prune: Sequence[int]) -> list[int]:
    """The pruning threshold of each order; raises UserError for an order or thresholds that can't be used."""
    if not 1 <= order <= _MAX_ORDER:
        raise UserError(f"Found the order {order}; expected 1 to {_MAX_ORDER}.")
    thresholds = [*prune, *[prune[-1] if prune else 0] * (order - len(prune))]
    if len(prune) > order or thresholds[0] != 0 or thresholds != sorted(thresholds):
        raise UserError(
            f"Found the pruning thresholds {' '.join(map(str, prune))}; expected up to {order}, "
            "the first 0 and none below the one before it, as in 0 0 1."
        )
    return thresholds


def _read(sentences: Iterable[str]) -> tuple[NDArray[np.int32], list[str]]:
    """The numbers of all words, each sentence between `<s>` and `</s>`, and the words in order of appearance."""
    numbers = {UNKNOWN: _UNKNOWN_ID, START: _START_ID, END: _END_ID}
    tokens = array("i")
    for number, sentence in enumerate(sentences, start=1):
        words = sentence.split()
        if mark := next((mark for mark in MARKS if mark in words), None):
            raise UserError(f"Sentence {number} has the word {mark}, which is reserved for the model: remove it.")
        if words:
            tokens.append(_START_ID)
            tokens.extend([numbers.setdefault(word, len(numbers)) for word in words])
            tokens.append(_END_ID)
    if not tokens:
        raise UserError("The text has no words; expected a sentence on each line.")
    return np.frombuffer(tokens, np.int32), list(numbers)


def _count(tokens: NDArray[np.int32], num_words: int, order: int) -> list[_Counts]:
    """The n-grams of each order that has any."""
    nothing = np.zeros(num_words, np.int64)
    raw = np.bincount(tokens, minlength=num_words)
    raw[_START_ID] = 0  # It is never predicted.
    orders = [_Counts(nothing, nothing, np.arange(num_words), raw, raw)]
    begins = np.arange(num_words) == _START_ID
    rows = tokens  # For each place in the text, the row of the n-gram that begins there.
    places = np.arange(len(tokens))
    for n in range(2, order + 1):
        places = places[tokens[places + n - 2] != _END_ID]
        if not len(places):
            break
        keys = rows[places].astype(np.int64) * num_words + tokens[places + n - 1]
        distinct, row, raw = np.unique(keys, return_inverse=True, return_counts=True)
        parent, word = np.divmod(distinct, num_words)
        place = np.empty(len(distinct), np.int64)
        place[row] = places
        suffix = rows[place + 1].astype(np.int64)
        # In lower orders the count is the number of different words before the n-gram; before <s> there is none.
        below = orders[-1]
        preceded = np.bincount(suffix, minlength=len(below.word))
        orders[-1] = replace(below, adjusted=np.where(begins, below.raw, preceded))
        orders.append(_Counts(parent, suffix, word, raw, raw))
        begins = begins[parent]
        rows = np.zeros(len(tokens), np.int32)
        rows[places] = row
    return orders


def _estimate_discounts(counts: NDArray[np.int64]) -> tuple[float, ...] | None:
    """The discounts of Chen and Goodman's equation 26 for counts of one, two, and three or more; None as in lmplz."""
    found = [int(np.count_nonzero(counts == n)) for n in range(5)]
    if not all(found[1:4]):
        return None
    y = found[1] / (found[1] + 2 * found[2])
    discounts = tuple(n - (n + 1) * y * found[n + 1] / found[n] for n in (1, 2, 3))
    return discounts if all(0 <= discount <= n for n, discount in enumerate(discounts, start=1)) else None


def _log(probabilities: NDArray[np.float64]) -> NDArray[np.float32]:
    """Natural logarithms, clipped so that none is above 0 by rounding and none infinite."""
    return np.log(np.clip(probabilities, 10**_NEVER_LOG10, 1)).astype(np.float32)
