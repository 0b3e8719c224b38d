"""What a beam search remembers: prefixes in a tree, when their symbols were emitted, and which are in a beam."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.compilation import compiled

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


class Tree(NamedTuple):
    """All prefixes and emissions, and a hash table to find a prefix by its parent and symbol."""

    nodes: NDArray[Any]
    table: NDArray[np.int32]  # A power of two of node numbers, -1 where free.
    emissions: NDArray[Any]


class Beams(NamedTuple):
    """The beams of several widths, each before a frame and after it in turn.

    A narrower beam is empty, and the same as the widest, until it first has to drop what the widest keeps.
    """

    entries: NDArray[Any]  # (2, beams, largest width)
    sizes: NDArray[np.int64]  # (beams,)


# What is in `counts`; SIDE is the half of the entries that is before the next frame.
NODES, EMISSIONS, FRAMES, SIDE = range(4)


def build_tree(room: int) -> Tree:
    """A tree of a root, with room for so many prefixes."""
    table_size = 2 ** math.ceil(math.log2(2 * room))
    return Tree(np.zeros(room, NODE), np.full(table_size, -1, np.int32), np.zeros(room, EMISSION))


@compiled
def find_place(table: NDArray[np.int32], nodes: NDArray[Any], parent: int, symbol: int) -> int:
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
def add_emission(
    emissions: NDArray[Any], counts: NDArray[np.int64], beam: Any, same_symbol: bool, log_prob: float, target: Any
) -> None:
    """Set the best alignment of `target` to that of `beam`, followed by the target's last symbol in this frame.

    With the `same_symbol` at its end, the beam's alignment has to end in a blank.
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
def make_room(tree: Tree, beams: NDArray[Any], counts: NDArray[np.int64], larger: Tree) -> None:
    """Copy what beams need to another tree: their prefixes, the prefixes' beginnings, and their alignments.

    `beams` has all prefixes of all beams, whose numbers are changed.
    """
    nodes, emissions = tree.nodes, tree.emissions
    new_node = np.full(counts[NODES], -1, np.int32)
    new_emission = np.full(counts[EMISSIONS], -1, np.int32)
    new_node[0] = 0
    for slot in range(len(beams)):
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
                larger.table[find_place(larger.table, larger.nodes, node.parent, node.symbol)] = count
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
    for slot in range(len(beams)):
        beam = beams[slot]
        beam.node = new_node[beam.node]
        if beam.emission_blank >= 0:
            beam.emission_blank = new_emission[beam.emission_blank]
        if beam.emission_symbol >= 0:
            beam.emission_symbol = new_emission[beam.emission_symbol]


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
