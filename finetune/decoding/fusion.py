"""What the language model, unknown words and hotwords add to a prefix's score (shallow fusion), compiled."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding import hashed_ngram, ngram
from finetune.decoding.compilation import compiled
from finetune.decoding.hotwords import Hotwords
from finetune.decoding.lexicon import Lexicon
from finetune.decoding.prefix_tree import NODES, Tree, find_place

# Symbols, as in pyctcdecode (AVG_TOKEN_LEN): the penalty of a longer unknown word grows in proportion.
USUAL_LENGTH = 6


class Search(NamedTuple):
    """A search's models and settings; all logarithms are natural."""

    blank: int
    delimiter: int  # -1 where there is none.
    letters: NDArray[np.int32]  # The other symbols that can be emitted.
    widths: NDArray[np.int64]  # The beams' widths, the widest first.
    beam_prune_logp: float
    token_min_logp: float
    has_model: bool
    is_hashed: bool  # Which of the two models is used; the other one is empty.
    model: ngram.Trie
    hashed: hashed_ngram.HashTables
    end: int  # The number of `</s>`; -1 where the text's end is not scored.
    alpha: float
    beta: float
    unknown: float
    lexicon: Lexicon
    hotwords: Hotwords
    most_hot: float  # The largest score that hotwords can add with one symbol.
    parts_units: bool  # Whether the model's words are characters in scripts without spaces; then for each symbol:
    unspaced: NDArray[np.bool_]  # it is of such a script,
    attached: NDArray[np.bool_]  # it belongs to the symbol before it,
    stacking: NDArray[np.bool_]  # the symbol after it belongs to it.


@compiled
def score_unknown(unknown: float, length: int) -> float:
    """The penalty of an unknown word of `length` symbols: larger for long ones, or noise would become one long word."""
    return unknown * max(1.0, length / USUAL_LENGTH)


@compiled
def advance(search: Search, state: int, word: int) -> tuple[float, int]:
    """The natural logarithm of a word's probability after a state of the language model, and the next state."""
    if search.is_hashed:
        return hashed_ngram.advance(search.hashed, state, word)
    return ngram.advance(search.model, state, word)


@compiled
def begins_unit(search: Search, length: int, last: int, symbol: int) -> bool:
    """Whether a symbol completes the word of `length` symbols up to `last` and begins another, without a delimiter."""
    if length == 0 or symbol == search.delimiter or search.attached[symbol]:
        return False
    return (search.unspaced[last] or search.unspaced[symbol]) and not search.stacking[last]


@compiled
def end_word(search: Search, nodes: NDArray[Any], number: int) -> None:
    """Compute a node's `ended`, the score with its unfinished word as a complete one, unless it is there."""
    node = nodes[number]
    if not math.isnan(node.ended):
        return
    node.ended, node.ended_context = node.words, node.context
    if search.has_model:
        word = search.lexicon.word[node.lexeme] if node.lexeme >= 0 else -1
        log_prob, context = advance(search, node.context, max(word, 0))
        known = word >= 0 or search.hotwords.is_word[search.hotwords.following[node.hot, search.delimiter]]
        penalty = 0.0 if known else score_unknown(search.unknown, node.length)
        node.ended += search.alpha * log_prob + search.beta + penalty
        node.ended_context = context


@compiled
def add_nodes(
    search: Search, tree: Tree, counts: NDArray[np.int64], beams: NDArray[Any], candidates: NDArray[Any]
) -> None:
    """Find the nodes of all candidates that continue a prefix, and add the missing ones to the tree."""
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
        elif search.parts_units and begins_unit(search, before.length, before.symbol, symbol):
            node.length, node.context, node.words = 1, before.ended_context, before.ended
            node.lexeme = ngram.find_child(first_child, letter_of, 0, symbol)
        else:
            node.length = before.length + 1
            node.lexeme, node.context, node.words = -1, before.context, before.words
            if before.lexeme >= 0:
                node.lexeme = ngram.find_child(first_child, letter_of, before.lexeme, symbol)
        node.fused = node.words + node.hotwords + potential[hot]
        if node.lexeme < 0 and hot == 0:
            node.fused += score_unknown(unknown, node.length)


@compiled
def end_text(search: Search, tree: Tree, beams: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The node of each prefix without its final delimiter, and what is added to its acoustic score at the end."""
    ends, fused = np.empty(len(beams), np.int32), np.empty(len(beams))
    for i in range(len(beams)):
        node = tree.nodes[beams[i].node]
        ends[i], context = beams[i].node, node.context
        fused[i] = node.words + node.hotwords
        if search.delimiter >= 0 and node.symbol != search.delimiter:
            end_word(search, tree.nodes, beams[i].node)
            hot = search.hotwords.following[node.hot, search.delimiter]
            fused[i], context = node.ended + node.hotwords + search.hotwords.bonus[hot], node.ended_context
        elif node.parent >= 0 and node.symbol == search.delimiter:
            ends[i] = node.parent
        if search.end >= 0:
            fused[i] += search.alpha * advance(search, context, search.end)[0]
    return ends, fused
