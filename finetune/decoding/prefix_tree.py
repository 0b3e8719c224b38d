"""The data of a beam search: a tree of prefixes, the times of their symbols, and the beams."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.compilation import compiled

# A prefix. All fields but `slot` follow from its symbols, so a prefix that was dropped can be built again.
NODE = np.dtype(
    [
        ("parent", np.int32),
        ("symbol", np.int32),  # The last one; the root has the word delimiter, since a word follows it.
        ("lexeme", np.int32),  # The unfinished word's node in the lexicon; -1 when no word has this beginning.
        ("context", np.int32),  # The language model's state before the unfinished word.
        ("hot", np.int32),  # The hotwords' state.
        ("slot", np.int32),  # Its place in the beam; -1 when it is not in it.
        ("length", np.int32),  # The unfinished word's number of symbols.
        ("ended_context", np.int32),
        ("words", np.float64),  # The score of the complete words.
        ("hotwords", np.float64),  # The boosts of the complete hotwords.
        ("fused", np.float64),  # The sum of all that is added to the acoustic score.
        ("ended", np.float64),  # `words` as if the unfinished word ended here, with `ended_context`; NaN until needed.
    ],
    align=True,
)
# The time of a symbol, linked to the symbol before it in the same alignment.
EMISSION = np.dtype(
    [
        ("previous", np.int32),
        ("first", np.int32),  # The first frame.
        ("previous_last", np.int32),  # The last frame of the previous symbol, and its largest log-posterior.
        ("previous_peak", np.float64),
    ],
    align=True,
)
# A prefix in the beam: most values are for the alignments that end in a blank and for those in its last symbol.
BEAM = np.dtype(
    [
        ("node", np.int32),
        ("emission_blank", np.int32),  # The last symbol of the best alignment: its emission,
        ("emission_symbol", np.int32),
        ("last_blank", np.int32),  # its last frame,
        ("last_symbol", np.int32),
        ("peak_blank", np.float64),  # its largest log-posterior,
        ("peak_symbol", np.float64),
        ("path_blank", np.float64),  # and the log-probability of the alignment.
        ("path_symbol", np.float64),
        ("blank", np.float64),  # Log-probabilities of all alignments.
        ("extended", np.float64),
        ("total", np.float64),
        ("score", np.float64),  # `total` and the node's `fused`.
    ],
    align=True,
)


class Tree(NamedTuple):
    """All prefixes and emissions, and a hash table that finds a prefix by its parent and symbol."""

    nodes: NDArray[Any]
    table: NDArray[np.int32]  # Node numbers, -1 where free; its size is a power of two.
    emissions: NDArray[Any]


class Beams(NamedTuple):
    """The beams of several widths, double-buffered: before and after a frame.

    A narrower beam is empty while it equals the widest: until it first has to drop a prefix that the widest keeps.
    """

    entries: NDArray[Any]  # (2, beams, largest width)
    sizes: NDArray[np.int64]  # (beams,)


# The indices of `counts`; SIDE is the half of `Beams.entries` that is before the next frame.
NODES, EMISSIONS, FRAMES, SIDE = range(4)


def build_tree(room: int) -> Tree:
    """A tree that has only a root, with room for `room` prefixes."""
    table_size = 2 ** math.ceil(math.log2(2 * room))
    return Tree(np.zeros(room, NODE), np.full(table_size, -1, np.int32), np.zeros(room, EMISSION))


@compiled
def find_place(table: NDArray[np.int32], nodes: NDArray[Any], parent: int, symbol: int) -> int:
    """The place of a prefix in the table, or the free place for it."""
    mask = len(table) - 1
    # Multiplicative hashing (Knuth, volume 3, section 6.4).
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
    """Copy all that the beams need to another tree: their prefixes with all ancestors, and their alignments.

    `beams` has all prefixes of all beams; they are renumbered.
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
    """The symbols of a prefix in its best alignment, with their first and last frames and largest log-posteriors."""
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
