"""The parser of an ARPA file's n-grams, compiled."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.compilation import compiled

MAX_LINE_BYTES = 1 << 16
LN_10 = math.log(10)

# What `parse_block` can find wrong with a line; 0 is nothing.
FIELDS, NUMBER, NOT_FINITE, POSITIVE, UNKNOWN_WORD, LAST_BACKOFF, TOO_LONG = range(1, 8)
EXPECTED = {
    FIELDS: "a logarithm, the n-gram's words, and except for the longest n-grams another logarithm",
    NUMBER: "logarithms as decimal numbers",
    NOT_FINITE: "logarithms that are finite",
    POSITIVE: "the logarithm of a probability, which is 0 or less",
    UNKNOWN_WORD: "words that are among the 1-grams",
    LAST_BACKOFF: "no backoff at the longest n-grams",
    TOO_LONG: f"a line of up to {MAX_LINE_BYTES} bytes",
}


class WordTable(NamedTuple):
    """The words' spellings in UTF-8, each followed by a newline, where each begins, and a hash table of them."""

    spelling: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    slots: NDArray[np.int32]


@compiled
def parse_block(
    block: NDArray[np.uint8],
    at: int,
    longest: bool,
    words: WordTable,
    ids: NDArray[np.int32],
    logarithms: NDArray[np.float32],
    spelled: NDArray[np.uint8],
) -> tuple[int, int, int, int]:
    """Parse n-grams up to an empty line, a backslash or the block's end: (position, rows, spelled bytes, problem)."""
    order = ids.shape[1]
    starts = np.empty(order + 2, np.int64)
    ends = np.empty(order + 2, np.int64)
    length = 0
    row = 0
    while at < len(block):
        count, end = _split_fields(block, at, starts, ends)
        if end - at > MAX_LINE_BYTES:
            return at, row, length, TOO_LONG
        if count == 0 or block[starts[0]] == 92:
            break
        if count != order + 1 and count != order + 2:
            return at, row, length, FIELDS
        logarithms[1, row] = 0
        for i in range(count - order):
            value, problem = _parse_number(block, starts[i * (order + 1)], ends[i * (order + 1)])
            if problem == NOT_FINITE and order == 1 and i == 0 and _is_start(block, starts, ends):
                value, problem = -np.inf, 0
            if problem:
                return at, row, length, problem
            logarithms[i, row] = value
        if logarithms[0, row] > 0:
            return at, row, length, POSITIVE
        if longest and logarithms[1, row] != 0:
            return at, row, length, LAST_BACKOFF
        if order == 1:
            for i in range(starts[1], ends[1]):
                spelled[length] = block[i]
                length += 1
            spelled[length] = 10
            length += 1
        else:
            for i in range(order):
                slot = _find_slot(words, block, starts[i + 1], ends[i + 1])
                if words.slots[slot] < 0:
                    return at, row, length, UNKNOWN_WORD
                ids[row, i] = words.slots[slot]
        row += 1
        at = end + 1
    return at, row, length, 0


@compiled
def _split_fields(
    block: NDArray[np.uint8], at: int, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[int, int]:
    """Write where the fields of a line begin and end, as far as there is room: (number of fields, line end)."""
    count = 0
    end = at
    while block[end] != 10:
        if block[end] == 32 or block[end] == 9 or block[end] == 13:
            end += 1
            continue
        start = end
        while block[end] != 10 and block[end] != 32 and block[end] != 9 and block[end] != 13:
            end += 1
        if count < len(starts):
            starts[count] = start
            ends[count] = end
        count += 1
    return count, end


@compiled
def _parse_number(block: NDArray[np.uint8], at: int, end: int) -> tuple[float, int]:
    """A decimal logarithm as a natural one, and its problem or 0."""
    negative = block[at] == 45
    if block[at] == 43 or block[at] == 45:
        at += 1
    mantissa = 0
    exponent = 0
    digits = 0
    point = False
    first = at
    while at < end and (48 <= block[at] <= 57 or (block[at] == 46 and not point)):
        if block[at] == 46:
            point = True
        else:
            digits += 1
            if mantissa < 10**17:
                mantissa = mantissa * 10 + int(block[at]) - 48
                exponent -= point
            else:
                exponent += not point
        at += 1
    if digits == 0:
        letter = at < end and at == first and block[at] | 32
        return 0.0, NOT_FINITE if letter == 105 or letter == 110 else NUMBER  # inf, nan
    if at + 1 < end and block[at] | 32 == 101:  # e
        at += 1
        sign = -1 if block[at] == 45 else 1
        if (block[at] == 43 or block[at] == 45) and at + 1 < end:
            at += 1
        power = 0
        while at < end and 48 <= block[at] <= 57:
            power = min(power * 10 + int(block[at]) - 48, 9999)
            at += 1
        exponent += sign * power
    if at != end:
        return 0.0, NUMBER
    value = 0.0
    if mantissa:
        # The quotient of two exact numbers is the nearest float; a product with 0.1 is not.
        value = mantissa / 10.0**-exponent if exponent < 0 else mantissa * 10.0**exponent
    value *= -LN_10 if negative else LN_10
    return value, 0 if np.isfinite(np.float32(value)) else NOT_FINITE


@compiled
def _is_start(block: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bool:
    """Whether a 1-gram is `-inf <s>`."""
    number, word = starts[0], starts[1]
    if ends[0] - number < 4 or ends[1] - word != 3 or block[number] != 45 or block[number + 1] | 32 != 105:
        return False
    return bool(block[word] == 60 and block[word + 1] == 115 and block[word + 2] == 62)


@compiled
def _find_slot(words: WordTable, block: NDArray[np.uint8], start: int, end: int) -> int:
    """The slot of a word that is spelled in the block, or the empty slot for it."""
    key = np.uint64(14695981039346656037)
    for i in range(start, end):  # FNV-1a.
        key = (key ^ np.uint64(block[i])) * np.uint64(1099511628211)
    slot = np.int64((key ^ (key >> np.uint64(32))) & np.uint64(len(words.slots) - 1))
    while words.slots[slot] >= 0:
        begin = words.offsets[words.slots[slot]]
        if words.offsets[words.slots[slot] + 1] - begin == end - start + 1:
            same = True
            for i in range(end - start):
                if words.spelling[begin + i] != block[start + i]:
                    same = False
                    break
            if same:
                break
        slot = (slot + 1) & (len(words.slots) - 1)
    return int(slot)


@compiled
def fill_slots(words: WordTable) -> int:
    """Put all words into the hash table; returns a word that occurs twice, or -1."""
    for word in range(len(words.offsets) - 1):
        slot = _find_slot(words, words.spelling, words.offsets[word], words.offsets[word + 1] - 1)
        if words.slots[slot] >= 0:
            return word
        words.slots[slot] = word
    return -1
