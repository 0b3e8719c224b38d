"""The inner loop of the beam search, compiled: frame by frame."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding import hashed_ngram, ngram
from finetune.decoding.compilation import compiled
from finetune.decoding.hotwords import Hotwords
from finetune.decoding.lexicon import Lexicon
from finetune.decoding.prefix_tree import BEAM, EMISSIONS, FRAMES, NODES, SIDE, Beams, Tree, find_place

# A prefix that may be in the next beam: the prefix at `slot` of this one, as it is (symbol -1) or with one more symbol.
CANDIDATE = np.dtype(
    [("slot", np.int32), ("symbol", np.int32), ("node", np.int32), ("mass", np.float64)],
    align=True,
)
# Symbols, as in pyctcdecode (AVG_TOKEN_LEN): an unknown word that is longer costs in proportion.
USUAL_LENGTH = 6


class Search(NamedTuple):
    """What a search looks for and by which rules; all logarithms are natural."""

    blank: int
    delimiter: int  # -1: there is none.
    letters: NDArray[np.int32]  # What else may be emitted.
    widths: NDArray[np.int64]  # Of the beams, the widest first.
    beam_prune_logp: float
    token_min_logp: float
    has_model: bool
    is_hashed: bool  # Which of the two the model is; the other one is empty.
    model: ngram.Trie
    hashed: hashed_ngram.HashTables
    end: int  # The number of `</s>`; -1: a text's end is not scored.
    alpha: float
    beta: float
    unknown: float
    lexicon: Lexicon
    hotwords: Hotwords
    most_hot: float  # The most that one symbol can gain by hotwords.
    parts_units: bool  # Whether the model's words are characters in scripts without spaces; then of each symbol:
    unspaced: NDArray[np.bool_]  # it is of such a script,
    attached: NDArray[np.bool_]  # it belongs to the symbol before it,
    stacking: NDArray[np.bool_]  # the symbol behind it belongs to it.


@compiled
def add_logs(a: float, b: float) -> float:
    """The logarithm of the sum of two numbers given by their logarithms."""
    if a < b:
        a, b = b, a
    # What is less than a double's last digit is not worth an exponential; also -inf - -inf.
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
def _price(unknown: float, length: int) -> float:
    """What an unknown word of so many symbols costs: more for a long one, or noise would become one long word."""
    return unknown * max(1.0, length / USUAL_LENGTH)


@compiled
def _advance(search: Search, state: int, word: int) -> tuple[float, int]:
    """The natural logarithm of a word's probability after a state of the language model, and the state after it."""
    if search.is_hashed:
        return hashed_ngram.advance(search.hashed, state, word)
    return ngram.advance(search.model, state, word)


@compiled
def _begins_unit(search: Search, length: int, last: int, symbol: int) -> bool:
    """Whether a symbol ends a word of so many symbols up to the last, without a delimiter, and begins another."""
    if length == 0 or symbol == search.delimiter or search.attached[symbol]:
        return False
    return (search.unspaced[last] or search.unspaced[symbol]) and not search.stacking[last]


@compiled
def _end_word(search: Search, nodes: NDArray[Any], number: int) -> None:
    """Score a node's unfinished word as if it ended there, once."""
    node = nodes[number]
    if not math.isnan(node.ended):
        return
    node.ended, node.ended_context = node.words, node.context
    if search.has_model:
        word = search.lexicon.word[node.lexeme] if node.lexeme >= 0 else -1
        log_prob, context = _advance(search, node.context, max(word, 0))
        known = word >= 0 or search.hotwords.is_word[search.hotwords.following[node.hot, search.delimiter]]
        node.ended += search.alpha * log_prob + search.beta + (0.0 if known else _price(search.unknown, node.length))
        node.ended_context = context


@compiled
def _add_emission(
    emissions: NDArray[Any], counts: NDArray[np.int64], beam: Any, same_symbol: bool, log_prob: float, target: Any
) -> None:
    """Let the best alignment of `target` be that of `beam`, followed by its last symbol in this frame.

    After the same symbol that is one that ends in a blank.
    """
    number = counts[EMISSIONS]
    counts[EMISSIONS] += 1
    emission = emissions[number]
    if same_symbol or beam.path_blank > beam.path_symbol:
        emission.previous, emission.previous_last = beam.emission_blank, beam.last_blank
        emission.previous_peak = beam.peak_blank
        target.path_symbol = beam.path_blank + log_prob
    else:
        emission.previous, emission.previous_last = beam.emission_symbol, beam.last_symbol
        emission.previous_peak = beam.peak_symbol
        target.path_symbol = beam.path_symbol + log_prob
    emission.first = counts[FRAMES]
    target.emission_symbol, target.last_symbol, target.peak_symbol = number, counts[FRAMES], log_prob


@compiled
def _stay(
    search: Search,
    tree: Tree,
    counts: NDArray[np.int64],
    beams: NDArray[Any],
    log_probs: NDArray[np.float64],
    stays: NDArray[Any],
    has_child: NDArray[np.int64],
    turn: int,
) -> None:
    """Let each prefix of the beam have one more frame, and join to it what its parent becomes by its last symbol."""
    nodes, emissions = tree.nodes, tree.emissions
    frame, delimiter, blank = counts[FRAMES], search.delimiter, log_probs[search.blank]
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
            stay.last_symbol = frame
            if symbol == delimiter and beam.path_blank > beam.path_symbol:
                # Delimiters with blanks between them are one.
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
                _add_emission(emissions, counts, parent, same, log_probs[symbol], stay)
        stay.total = add_logs(stay.blank, stay.extended)
        stay.score = stay.total + node.fused


@compiled
def _push(
    scores: NDArray[np.float64],
    candidates: NDArray[Any],
    count: int,
    score: float,
    slot: int,
    symbol: int,
    mass: float,
) -> None:
    """Put a candidate into a heap of `count` entries; into a full one in place of the worst, which is the first."""
    size = len(scores)
    if count < size:
        at = count
        while at > 0 and scores[(at - 1) // 2] > score:
            scores[at], candidates[at] = scores[(at - 1) // 2], candidates[(at - 1) // 2]
            at = (at - 1) // 2
    else:
        at = 0
        while True:
            child = 2 * at + 1
            if child + 1 < size and scores[child + 1] < scores[child]:
                child += 1
            if child >= size or scores[child] >= score:
                break
            scores[at], candidates[at] = scores[child], candidates[child]
            at = child
    scores[at] = score
    candidate = candidates[at]
    candidate.slot, candidate.symbol, candidate.mass = slot, symbol, mass


@compiled
def _sort(numbers: NDArray[np.int32], values: NDArray[np.float64]) -> None:
    """Sort numbers by their values, largest first (Shell 1959; compiles faster than numpy's, and they are few)."""
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
    """Write the symbols that are likely enough, or else the likeliest: the delimiter, then letters, likeliest first."""
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
def _select(
    search: Search,
    tree: Tree,
    beams: NDArray[Any],
    log_probs: NDArray[np.float64],
    chosen: NDArray[np.int32],
    stays: NDArray[Any],
    has_child: NDArray[np.int64],
    turn: int,
    scores: NDArray[np.float64],
    candidates: NDArray[Any],
) -> int:
    """Keep the best of the prefixes that stay and of those that a symbol continues, and return how many.

    `scores` and `candidates` are a heap of fixed size with the worst first. Since no letter can add more to the score
    than `most_hot`, and a word's end `beta` besides, most continuations are dropped before the lexicon or the language
    model is asked.
    """
    nodes = tree.nodes
    width, kept, best = len(scores), 0, -math.inf
    delimiter, unknown, prune = search.delimiter, search.unknown, search.beam_prune_logp
    following, bonus, potential = search.hotwords.following, search.hotwords.bonus, search.hotwords.potential
    first_child, letter_of = search.lexicon.first_child, search.lexicon.symbol
    most_hot, parts_units = search.most_hot, search.parts_units
    most_ended = most_hot + max(search.beta, 0.0)
    in_lexicon = np.full(len(log_probs), -1, np.int64)  # The last slot whose unfinished word goes on so.
    for slot in range(len(beams)):
        score = stays[slot].score
        best = max(best, score)
        _push(scores, candidates, kept, score, slot, -1, 0.0)
        kept += 1
    for slot in range(len(beams)):
        beam = beams[slot]
        node = nodes[beam.node]
        before = node.words + node.hotwords
        listed = False
        for i in range(len(chosen)):
            symbol = chosen[i]
            is_end = symbol == delimiter
            least = best + prune
            if kept == width and scores[0] > least:
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
            begins = parts_units and _begins_unit(search, node.length, node.symbol, symbol)
            if is_end or begins:
                if math.isnan(node.ended):
                    _end_word(search, nodes, beam.node)
                score += node.ended
                if begins and hot == 0 and ngram.find_child(first_child, letter_of, 0, symbol) < 0:
                    score += _price(unknown, 1)
            else:
                score += node.words
                if unknown < 0.0 and hot == 0:
                    if not listed and node.lexeme >= 0:
                        for child in range(first_child[node.lexeme], first_child[node.lexeme + 1]):
                            in_lexicon[letter_of[child]] = slot
                    listed = True
                    if in_lexicon[symbol] != slot:
                        score += _price(unknown, node.length + 1)
            if score < least or score == -math.inf or (kept == width and score <= scores[0]):
                continue
            _push(scores, candidates, kept, score, slot, symbol, mass)
            kept = min(kept + 1, width)
            best = max(best, score)
    count = 0
    for i in range(kept):
        if scores[i] >= best + prune:
            scores[count], candidates[count] = scores[i], candidates[i]
            count += 1
    return count


@compiled
def _add_nodes(
    search: Search, tree: Tree, counts: NDArray[np.int64], beams: NDArray[Any], candidates: NDArray[Any]
) -> None:
    """Find the nodes of all candidates that continue a prefix, and make those that are not there."""
    nodes, table, delimiter = tree.nodes, tree.table, search.delimiter
    following, bonus, potential = search.hotwords.following, search.hotwords.bonus, search.hotwords.potential
    first_child, letter_of, unknown = search.lexicon.first_child, search.lexicon.symbol, search.unknown
    for i in range(len(candidates)):
        candidate = candidates[i]
        symbol = candidate.symbol
        if symbol < 0:
            continue
        parent = beams[candidate.slot].node
        place = find_place(table, nodes, parent, symbol)
        if table[place] >= 0:
            candidate.node = table[place]
            continue
        number = counts[NODES]
        counts[NODES] += 1
        candidate.node = table[place] = number
        node, before = nodes[number], nodes[parent]
        hot = following[before.hot, symbol]
        node.parent, node.symbol, node.slot, node.hot, node.ended = parent, symbol, -1, hot, math.nan
        node.hotwords = before.hotwords + bonus[hot]
        if symbol == delimiter:
            node.lexeme, node.length, node.context, node.words = 0, 0, before.ended_context, before.ended
        elif search.parts_units and _begins_unit(search, before.length, before.symbol, symbol):
            node.length, node.context, node.words = 1, before.ended_context, before.ended
            node.lexeme = ngram.find_child(first_child, letter_of, 0, symbol)
        else:
            node.length = before.length + 1
            node.lexeme, node.context, node.words = -1, before.context, before.words
            if before.lexeme >= 0:
                node.lexeme = ngram.find_child(first_child, letter_of, before.lexeme, symbol)
        node.fused = node.words + node.hotwords + potential[hot]
        if node.lexeme < 0 and hot == 0:
            node.fused += _price(unknown, node.length)


@compiled
def _settle(
    tree: Tree,
    counts: NDArray[np.int64],
    beams: NDArray[Any],
    log_probs: NDArray[np.float64],
    stays: NDArray[Any],
    scores: NDArray[np.float64],
    candidates: NDArray[Any],
    after: NDArray[Any],
) -> None:
    """Write the beam after a frame."""
    nodes, emissions = tree.nodes, tree.emissions
    for slot in range(len(beams)):
        nodes[beams[slot].node].slot = -1
    for i in range(len(candidates)):
        candidate, target = candidates[i], after[i]
        symbol, beam = candidate.symbol, beams[candidate.slot]
        if symbol < 0:
            after[i] = stays[candidate.slot]
        else:
            target.node = candidate.node
            target.blank = target.path_blank = -math.inf
            target.emission_blank, target.last_blank, target.peak_blank = -1, -1, 0.0
            _add_emission(emissions, counts, beam, nodes[beam.node].symbol == symbol, log_probs[symbol], target)
            target.extended = target.total = candidate.mass
            target.score = scores[i]


@compiled
def advance_frames(
    logits: NDArray[np.float32], search: Search, tree: Tree, beams: Beams, counts: NDArray[np.int64]
) -> int:
    """Go over frames until all are done or the tree is full; return how many were.

    `logits` is (frames, vocabulary).

    For each frame and beam: first every prefix of the beam stays, by a blank or by its last symbol again, and takes in
    what its parent becomes by that symbol; thus no two candidates are the same prefix. Then each is continued by each
    likely symbol, and the best of all are the next beam.
    """
    widths, sizes = search.widths, beams.sizes
    width, vocabulary = widths[0], logits.shape[1]
    log_probs, chosen = np.empty(vocabulary), np.empty(vocabulary, np.int32)
    stays, candidates, scores = np.empty(width, BEAM), np.empty(width, CANDIDATE), np.empty(width)
    has_child = np.full((width, vocabulary), -1, np.int64)  # The last turn in which a continuation was in the beam.
    for row in range(len(logits)):
        # A frame adds a node for each new prefix, an emission for it or for the joined one.
        most = widths.sum()
        if counts[NODES] + most > len(tree.nodes) or counts[EMISSIONS] + 2 * most > len(tree.emissions):
            return row
        before, after = beams.entries[counts[SIDE]], beams.entries[1 - counts[SIDE]]
        _log_softmax(logits[row], log_probs)
        likely = chosen[: _choose_symbols(search, log_probs, chosen)]
        widest = sizes[0]
        for i in range(len(widths)):
            if sizes[i] == 0:
                if sizes[0] <= widths[i]:  # What the widest keeps of this frame.
                    continue
                sizes[i] = widest
                before[i, :widest] = before[0, :widest]
            beam, turn = before[i, : sizes[i]], counts[FRAMES] * len(widths) + i
            heap, kept = scores[: widths[i]], candidates[: widths[i]]
            _stay(search, tree, counts, beam, log_probs, stays, has_child, turn)
            count = _select(search, tree, beam, log_probs, likely, stays, has_child, turn, heap, kept)
            _add_nodes(search, tree, counts, beam, kept[:count])
            _settle(tree, counts, beam, log_probs, stays, heap, kept[:count], after[i])
            sizes[i] = count
        counts[SIDE] = 1 - counts[SIDE]
        counts[FRAMES] += 1
    return len(logits)


@compiled
def end_text(search: Search, tree: Tree, beams: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The node of each prefix without a delimiter at its end, and what is added to its acoustic score at the end."""
    ends, fused = np.empty(len(beams), np.int32), np.empty(len(beams))
    for i in range(len(beams)):
        node = tree.nodes[beams[i].node]
        ends[i], context = beams[i].node, node.context
        fused[i] = node.words + node.hotwords
        if search.delimiter >= 0 and node.symbol != search.delimiter:
            _end_word(search, tree.nodes, beams[i].node)
            hot = search.hotwords.following[node.hot, search.delimiter]
            fused[i], context = node.ended + node.hotwords + search.hotwords.bonus[hot], node.ended_context
        elif node.parent >= 0 and node.symbol == search.delimiter:
            ends[i] = node.parent
        if search.end >= 0:
            fused[i] += search.alpha * _advance(search, context, search.end)[0]
    return ends, fused
