"""The inner loop of the beam search, compiled: frame by frame."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding import ngram
from finetune.decoding.compilation import compiled
from finetune.decoding.fusion import Search, add_nodes, begins_unit, end_word, score_unknown
from finetune.decoding.prefix_tree import BEAM, EMISSIONS, FRAMES, NODES, SIDE, Beams, Tree, add_emission

# The prefix at `slot` of the beam, unchanged (symbol -1) or continued by a symbol; `mass` is its acoustic score.
CANDIDATE = np.dtype([("slot", np.int32), ("symbol", np.int32), ("node", np.int32), ("mass", np.float64)], align=True)


class Candidates(NamedTuple):
    """A heap with the worst candidate first: its scores and entries, both (beam width,)."""

    scores: NDArray[np.float64]
    entries: NDArray[Any]  # CANDIDATE


class Frame(NamedTuple):
    """A frame's log-posteriors and likely symbols, and memory that each beam uses in turn."""

    log_probs: NDArray[np.float64]  # (vocabulary,)
    likely: NDArray[np.int32]  # (symbols,), from `_choose_symbols`.
    stays: NDArray[Any]  # (largest width,) BEAM: the prefixes that stay as they are.
    # (largest width, vocabulary): the last turn in which the continuation was in the beam.
    has_child: NDArray[np.int64]


@compiled
def add_logs(a: float, b: float) -> float:
    """The logarithm of the sum of two numbers that are given by their logarithms."""
    if a < b:
        a, b = b, a
    # A term below a double's last digit needs no exponential; -inf - -inf would be NaN.
    return a if b < a - 40.0 or b == -math.inf else a + math.log1p(math.exp(b - a))


@compiled
def _log_softmax(logits: NDArray[np.float32], output: NDArray[np.float64]) -> None:
    largest = np.float64(logits.max())
    total = 0.0
    for i in range(len(logits)):
        total += math.exp(np.float64(logits[i]) - largest)
    largest += math.log(total)
    for i in range(len(logits)):
        output[i] = np.float64(logits[i]) - largest


@compiled
def _stay(search: Search, tree: Tree, counts: NDArray[np.int64], beams: NDArray[Any], frame: Frame, turn: int) -> None:
    """Add a frame to each prefix that stays as it is, and the mass of its parent continued by its last symbol."""
    nodes, emissions, log_probs, stays = tree.nodes, tree.emissions, frame.log_probs, frame.stays
    delimiter, blank, has_child = search.delimiter, log_probs[search.blank], frame.has_child
    now = counts[FRAMES]
    for slot in range(len(beams)):
        nodes[beams[slot].node].slot = slot
    for slot in range(len(beams)):
        beam, stay = beams[slot], stays[slot]
        node = nodes[beam.node]
        symbol = node.symbol
        stay.node = beam.node
        stay.blank = beam.total + blank
        if beam.path_blank >= beam.path_symbol:
            stay.path_blank, stay.emission_blank = beam.path_blank + blank, beam.emission_blank
            stay.last_blank, stay.peak_blank = beam.last_blank, beam.peak_blank
        else:
            stay.path_blank, stay.emission_blank = beam.path_symbol + blank, beam.emission_symbol
            stay.last_blank, stay.peak_blank = beam.last_symbol, beam.peak_symbol
        stay.extended = stay.path_symbol = -math.inf
        stay.emission_symbol, stay.last_symbol, stay.peak_symbol = -1, -1, 0.0
        if symbol >= 0:
            log_prob = log_probs[symbol]
            stay.last_symbol = now
            if symbol == delimiter and beam.path_blank > beam.path_symbol:
                # Delimiters with only blanks between them count as one.
                stay.path_symbol, stay.emission_symbol = beam.path_blank + log_prob, beam.emission_blank
                stay.peak_symbol = max(beam.peak_blank, log_prob)
            else:
                stay.path_symbol, stay.emission_symbol = beam.path_symbol + log_prob, beam.emission_symbol
                stay.peak_symbol = max(beam.peak_symbol, log_prob)
            stay.extended = log_prob + (beam.total if symbol == delimiter else beam.extended)
        if node.parent >= 0 and nodes[node.parent].slot >= 0:
            parent_slot = nodes[node.parent].slot
            has_child[parent_slot, symbol] = turn
            parent = beams[parent_slot]
            same = nodes[node.parent].symbol == symbol
            stay.extended = add_logs(stay.extended, log_probs[symbol] + (parent.blank if same else parent.total))
            path = parent.path_blank if same else max(parent.path_blank, parent.path_symbol)
            if path + log_probs[symbol] > stay.path_symbol:
                add_emission(emissions, counts, parent, same, log_probs[symbol], stay)
        stay.total = add_logs(stay.blank, stay.extended)
        stay.score = stay.total + node.fused


@compiled
def _push(
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
def _keep_best(heap: Candidates, count: int, least: float) -> Candidates:
    """The candidates of a heap of `count` entries whose scores are at least `least`; the heap is used up."""
    scores, entries = heap
    kept = 0
    for i in range(count):
        if scores[i] >= least:
            scores[kept], entries[kept] = scores[i], entries[i]
            kept += 1
    return Candidates(scores[:kept], entries[:kept])


@compiled
def _sort(numbers: NDArray[np.int32], values: NDArray[np.float64]) -> None:
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


@compiled
def _choose_symbols(search: Search, log_probs: NDArray[np.float64], chosen: NDArray[np.int32]) -> int:
    """Write the symbols above the threshold, or else the likeliest: the delimiter, then letters, likeliest first."""
    best = log_probs[search.blank]
    if search.delimiter >= 0:
        best = max(best, log_probs[search.delimiter])
    for letter in search.letters:
        best = max(best, log_probs[letter])
    least = min(best, search.token_min_logp)
    count = 0
    if search.delimiter >= 0 and log_probs[search.delimiter] >= least:
        chosen[0] = search.delimiter
        count = 1
    first = count
    for letter in search.letters:
        if log_probs[letter] >= least:
            chosen[count] = letter
            count += 1
    _sort(chosen[first:count], log_probs)
    return count


@compiled
def _select(search: Search, tree: Tree, beams: NDArray[Any], frame: Frame, turn: int, heap: Candidates) -> Candidates:
    """The best of the prefixes that stay and of those that a symbol continues.

    No letter adds more to the score than `most_hot`, and a word's end adds at most `beta` besides. So most
    continuations are dropped before the lexicon or the language model is looked up.

    The loop is long since each call that passes named tuples of arrays, and each array taken from one, counts
    references: with the score in a function of its own the search took 1.6 to 5 times as long.
    """
    log_probs, stays, has_child, nodes = frame.log_probs, frame.stays, frame.has_child, tree.nodes
    scores, entries = heap
    width, count, best = len(scores), 0, -math.inf
    delimiter, unknown, prune = search.delimiter, search.unknown, search.beam_prune_logp
    following, bonus, potential = search.hotwords.following, search.hotwords.bonus, search.hotwords.potential
    first_child, symbol_of = search.lexicon.first_child, search.lexicon.symbol
    most_hot, parts_units, likely = search.most_hot, search.parts_units, frame.likely
    most_ended = most_hot + max(search.beta, 0.0)
    in_lexicon = np.full(len(log_probs), -1, np.int64)  # The last slot whose unfinished word the symbol continues.
    for slot in range(len(beams)):
        score = stays[slot].score
        best = max(best, score)
        _push(scores, entries, count, score, slot, -1, 0.0)
        count += 1
    for slot in range(len(beams)):
        beam = beams[slot]
        node = nodes[beam.node]
        before = node.words + node.hotwords
        listed = node.lexeme < 0
        for i in range(len(likely)):
            symbol = likely[i]
            is_end = symbol == delimiter
            least = best + prune
            if count == width and scores[0] > least:
                least = scores[0]
            mass = beam.total + log_probs[symbol]
            if mass + before + (most_ended if is_end or parts_units else most_hot) < least:
                if is_end:
                    continue
                break  # The letters that follow are even less likely.
            if has_child[slot, symbol] == turn or (is_end and node.symbol == symbol):
                continue
            if symbol == node.symbol:
                mass = beam.blank + log_probs[symbol]
            hot = following[node.hot, symbol]
            score = mass + node.hotwords + bonus[hot] + potential[hot]
            begins = parts_units and begins_unit(search, node.length, node.symbol, symbol)
            if is_end or begins:
                if math.isnan(node.ended):
                    end_word(search, nodes, beam.node)
                score += node.ended
                if begins and hot == 0 and ngram.find_child(first_child, symbol_of, 0, symbol) < 0:
                    score += score_unknown(unknown, 1)
            else:
                score += node.words
                if unknown < 0.0 and hot == 0:
                    if not listed:
                        for child in range(first_child[node.lexeme], first_child[node.lexeme + 1]):
                            in_lexicon[symbol_of[child]] = slot
                        listed = True
                    if in_lexicon[symbol] != slot:
                        score += score_unknown(unknown, node.length + 1)
            if score < least or score == -math.inf or (count == width and score <= scores[0]):
                continue
            _push(scores, entries, count, score, slot, symbol, mass)
            count = min(count + 1, width)
            best = max(best, score)
    return _keep_best(heap, count, best + prune)


@compiled
def _settle(
    tree: Tree, counts: NDArray[np.int64], beams: NDArray[Any], frame: Frame, kept: Candidates, after: NDArray[Any]
) -> None:
    """Write the beam after a frame."""
    nodes, emissions, log_probs, stays = tree.nodes, tree.emissions, frame.log_probs, frame.stays
    scores, entries = kept
    for slot in range(len(beams)):
        nodes[beams[slot].node].slot = -1
    for i in range(len(entries)):
        candidate, target = entries[i], after[i]
        symbol, beam = candidate.symbol, beams[candidate.slot]
        if symbol < 0:
            after[i] = stays[candidate.slot]
        else:
            target.node = candidate.node
            target.blank = target.path_blank = -math.inf
            target.emission_blank, target.last_blank, target.peak_blank = -1, -1, 0.0
            add_emission(emissions, counts, beam, nodes[beam.node].symbol == symbol, log_probs[symbol], target)
            target.extended = target.total = candidate.mass
            target.score = scores[i]


@compiled
def advance_frames(
    logits: NDArray[np.float32], search: Search, tree: Tree, beams: Beams, counts: NDArray[np.int64]
) -> int:
    """Decode (frames, vocabulary) logits until all frames are done or the tree is full; return how many were.

    For each frame and beam: first each prefix stays, by a blank or by its last symbol again, and gets the mass that its
    parent continued by that symbol has, so that no two candidates are the same prefix. Then each is continued by each
    likely symbol, and the best of all are the next beam.
    """
    widths, sizes = search.widths, beams.sizes
    width, vocabulary = widths[0], logits.shape[1]
    log_probs, chosen = np.empty(vocabulary), np.empty(vocabulary, np.int32)
    stays, entries, scores = np.empty(width, BEAM), np.empty(width, CANDIDATE), np.empty(width)
    has_child = np.full((width, vocabulary), -1, np.int64)
    for row in range(len(logits)):
        # A frame adds a node for each new prefix, and an emission for it or for a prefix that its parent is joined to.
        most = widths.sum()
        if counts[NODES] + most > len(tree.nodes) or counts[EMISSIONS] + 2 * most > len(tree.emissions):
            return row
        before, after = beams.entries[counts[SIDE]], beams.entries[1 - counts[SIDE]]
        _log_softmax(logits[row], log_probs)
        frame = Frame(log_probs, chosen[: _choose_symbols(search, log_probs, chosen)], stays, has_child)
        widest = sizes[0]
        for i in range(len(widths)):
            if sizes[i] == 0:
                if sizes[0] <= widths[i]:  # The widest beam's size after this frame.
                    continue
                sizes[i] = widest
                before[i, :widest] = before[0, :widest]
            beam, turn = before[i, : sizes[i]], counts[FRAMES] * len(widths) + i
            _stay(search, tree, counts, beam, frame, turn)
            kept = _select(search, tree, beam, frame, turn, Candidates(scores[: widths[i]], entries[: widths[i]]))
            add_nodes(search, tree, counts, beam, kept.entries)
            _settle(tree, counts, beam, frame, kept, after[i])
            sizes[i] = len(kept.entries)
        counts[SIDE] = 1 - counts[SIDE]
        counts[FRAMES] += 1
    return len(logits)
