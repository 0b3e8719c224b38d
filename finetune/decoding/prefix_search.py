"""The inner loop of the beam search, compiled: prefixes in a tree, frame by frame."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding import hashed_ngram, ngram
from finetune.decoding.compilation import compiled
from finetune.decoding.hotwords import Hotwords
from finetune.decoding.lexicon import Lexicon

# A prefix: all of it but `slot` follows from its symbols, so that one that was forgotten is made again as it was.
NODE = np.dtype(
    [
        ("parent", np.int32),
        ("symbol", np.int32),  # The last one; the root's is the word delimiter, for it is before a word.
        ("lexeme", np.int32),  # The unfinished word's node in the lexicon; -1 when no word begins so.
        ("context", np.int32),  # The language model's state before the unfinished word.
        ("hot", np.int32),  # The hotwords' state.
        ("slot", np.int32),  # Where in the beam it is; -1 when it is not.
        ("length", np.int32),  # How many symbols the unfinished word has.
        ("ended_context", np.int32),
        ("words", np.float64),  # The score of the words that are complete.
        ("hotwords", np.float64),  # The boosts of the hotwords that are complete.
        ("fused", np.float64),  # All that is added to the acoustic score.
        ("ended", np.float64),  # `words` if the unfinished word ended here, and `ended_context`; NaN until needed.
    ],
    align=True,
)
# When a symbol was emitted; linked to the one before it in the same alignment.
EMISSION = np.dtype(
    [
        ("previous", np.int32),
        ("first", np.int32),  # Frame.
        ("previous_last", np.int32),  # The last frame of the symbol before, and its largest posterior.
        ("previous_peak", np.float64),
    ],
    align=True,
)
# A prefix in the beam, each value for the alignments that end in a blank and for those that end in its last symbol.
BEAM = np.dtype(
    [
        ("node", np.int32),
        ("emission_blank", np.int32),  # The best alignment's last symbol: when it was emitted,
        ("emission_symbol", np.int32),
        ("last_blank", np.int32),  # in which frame for the last time,
        ("last_symbol", np.int32),
        ("peak_blank", np.float64),  # with what logarithm of its posterior at most,
        ("peak_symbol", np.float64),
        ("path_blank", np.float64),  # and the logarithm of that alignment's probability.
        ("path_symbol", np.float64),
        ("blank", np.float64),  # Logarithms of the probability of all alignments.
        ("extended", np.float64),
        ("total", np.float64),
        ("score", np.float64),  # `total` and the node's `fused`.
    ],
    align=True,
)
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
    beam_width: int
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


class Tree(NamedTuple):
    """All prefixes and emissions, and a hash table to find a prefix by its parent and symbol."""

    nodes: NDArray[Any]
    table: NDArray[np.int32]  # A power of two of node numbers, -1 where free.
    emissions: NDArray[Any]


# What is in `counts`.
BEAMS, NODES, EMISSIONS, FRAMES, SIDE = range(5)


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
def _place(table: NDArray[np.int32], nodes: NDArray[Any], parent: int, symbol: int) -> int:
    """Where in the table a prefix is, or belongs."""
    mask = len(table) - 1
    # Multiplying by an odd number and taking the upper bits spreads neighbours (Knuth, volume 3, section 6.4).
    place = (((parent * 40503 + symbol) * 2654435761) >> 16) & mask
    while True:
        node = table[place]
        if node < 0 or (nodes[node].parent == parent and nodes[node].symbol == symbol):
            return place
        place = (place + 1) & mask


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
) -> None:
    """Let each prefix of the beam have one more frame, and join to it what its parent becomes by its last symbol."""
    nodes, emissions = tree.nodes, tree.emissions
    frame, delimiter, blank = counts[FRAMES], search.delimiter, log_probs[search.blank]
    for slot in range(counts[BEAMS]):
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
            has_child[parent_slot, symbol] = frame
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
    frame: int,
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
    most_hot = search.most_hot
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
            if mass + before + (most_ended if is_end else most_hot) < least:
                if is_end:
                    continue
                break  # The letters that follow are even less likely.
            if has_child[slot, symbol] == frame or (is_end and node.symbol == symbol):
                continue
            if symbol == node.symbol:
                mass = beam.blank + log_probs[symbol]
            hot = following[node.hot, symbol]
            score = mass + node.hotwords + bonus[hot] + potential[hot]
            if is_end:
                if math.isnan(node.ended):
                    _end_word(search, nodes, beam.node)
                score += node.ended
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
        place = _place(table, nodes, parent, symbol)
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
        nodes[target.node].slot = i
    counts[BEAMS] = len(candidates)


@compiled
def advance_frames(
    logits: NDArray[np.float32], search: Search, tree: Tree, both: NDArray[Any], counts: NDArray[np.int64]
) -> int:
    """Go over frames until all are done or the tree is full; return how many were.

    `logits` is (frames, vocabulary); `both` is (2, beam width), the beam before a frame and after it in turn.

    For each frame: first every prefix of the beam stays, by a blank or by its last symbol again, and takes in what its
    parent becomes by that symbol; thus no two candidates are the same prefix. Then each is continued by each likely
    symbol, and the best of all are the next beam.
    """
    width, vocabulary = both.shape[1], logits.shape[1]
    log_probs, chosen = np.empty(vocabulary), np.empty(vocabulary, np.int32)
    stays, candidates, scores = np.empty(width, BEAM), np.empty(width, CANDIDATE), np.empty(width)
    has_child = np.full((width, vocabulary), -1, np.int64)  # The last frame in which a continuation was in the beam.
    for row in range(len(logits)):
        # A frame adds a node for each new prefix, an emission for it or for the joined one.
        if counts[NODES] + width > len(tree.nodes) or counts[EMISSIONS] + 2 * width > len(tree.emissions):
            return row
        before, after = both[counts[SIDE], : counts[BEAMS]], both[1 - counts[SIDE]]
        _log_softmax(logits[row], log_probs)
        likely = chosen[: _choose_symbols(search, log_probs, chosen)]
        _stay(search, tree, counts, before, log_probs, stays, has_child)
        kept = _select(search, tree, before, log_probs, likely, stays, has_child, counts[FRAMES], scores, candidates)
        _add_nodes(search, tree, counts, before, candidates[:kept])
        _settle(tree, counts, before, log_probs, stays, scores, candidates[:kept], after)
        counts[SIDE] = 1 - counts[SIDE]
        counts[FRAMES] += 1
    return len(logits)


@compiled
def make_room(tree: Tree, beams: NDArray[Any], counts: NDArray[np.int64], larger: Tree) -> None:
    """Copy what the beam needs to another tree: its prefixes, their beginnings, and their alignments."""
    nodes, emissions = tree.nodes, tree.emissions
    new_node = np.full(counts[NODES], -1, np.int32)
    new_emission = np.full(counts[EMISSIONS], -1, np.int32)
    new_node[0] = 0
    for slot in range(counts[BEAMS]):
        number = beams[slot].node
        while new_node[number] < 0:
            new_node[number] = 0
            number = nodes[number].parent
        for number in (beams[slot].emission_blank, beams[slot].emission_symbol):
            while number >= 0 and new_emission[number] < 0:
                new_emission[number] = 0
                number = emissions[number].previous
    larger.table[:] = -1
    count = 0
    for number in range(counts[NODES]):  # A parent comes before its children.
        if new_node[number] >= 0:
            larger.nodes[count] = nodes[number]
            new_node[number] = count
            if number > 0:
                node = larger.nodes[count]
                node.parent = new_node[node.parent]
                larger.table[_place(larger.table, larger.nodes, node.parent, node.symbol)] = count
            count += 1
    counts[NODES] = count
    count = 0
    for number in range(counts[EMISSIONS]):
        if new_emission[number] >= 0:
            larger.emissions[count] = emissions[number]
            new_emission[number] = count
            if emissions[number].previous >= 0:
                larger.emissions[count].previous = new_emission[emissions[number].previous]
            count += 1
    counts[EMISSIONS] = count
    for slot in range(counts[BEAMS]):
        beam = beams[slot]
        beam.node = new_node[beam.node]
        if beam.emission_blank >= 0:
            beam.emission_blank = new_emission[beam.emission_blank]
        if beam.emission_symbol >= 0:
            beam.emission_symbol = new_emission[beam.emission_symbol]


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


@compiled
def trace(tree: Tree, beam: Any) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """The symbols of a prefix in its best alignment: each one's first and last frame and its largest log-posterior."""
    depth, number = 0, beam.node
    while number > 0:
        depth += 1
        number = tree.nodes[number].parent
    symbols, first, last = np.empty(depth, np.int32), np.empty(depth, np.int32), np.empty(depth, np.int32)
    peak = np.empty(depth)
    number = beam.node
    if beam.path_blank > beam.path_symbol:
        at, last_frame, largest = beam.emission_blank, beam.last_blank, beam.peak_blank
    else:
        at, last_frame, largest = beam.emission_symbol, beam.last_symbol, beam.peak_symbol
    for i in range(depth - 1, -1, -1):
        emission = tree.emissions[at]
        symbols[i], first[i], last[i], peak[i] = tree.nodes[number].symbol, emission.first, last_frame, largest
        number, at = tree.nodes[number].parent, emission.previous
        last_frame, largest = emission.previous_last, emission.previous_peak
    return symbols, first, last, peak
