"""Language models in the binary files of KenLM's `build_binary`.

The layout is that of KenLM's format version 5 (lm/binary_format.cc): a header, the hashes of the words, the n-grams,
and the words themselves; of the vocabulary only these are read. N-grams are in hash tables (lm/search_hashed.hh) or
in a trie (lm/search_trie.hh, lm/trie.cc) whose entries are packed bit by bit.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.hashed_ngram import LN_10, LONGEST, MIDDLE, WORD, HashedModel, build_tables
from finetune.decoding.ngram import END, START, UNKNOWN, Level, NGramModel
from finetune.errors import UserError

_MAGIC = b"mmap lm http://kheafield.com/code format version 5\n\0"
_BEFORE_VERSION = _MAGIC[: _MAGIC.index(b"5")]
# Numbers by which KenLM checks that the file was written on a machine with the same number formats.
_SANITY = struct.pack("<56s3f3IQ", _MAGIC, 0.0, 1.0, -0.5, 1, 2**32 - 1, 0, 1)
# Order, probing multiplier, model type, whether the words are included, version of the model type.
_PARAMETERS = struct.Struct("<B3xfI?3xI")
_PROBING, _RESTS, _TRIE, _QUANTIZED, _COMPRESSED, _QUANTIZED_COMPRESSED = range(6)
_VERSIONS = {_PROBING: 0, _TRIE: 1, _QUANTIZED: 1, _COMPRESSED: 1, _QUANTIZED_COMPRESSED: 1}
_MAX_ORDER = 16  # KenLM's own is 6 unless it was compiled for more.
_VOCABULARY_ENTRY_BYTES = 12
_TRIE_WORD = np.dtype([("prob", "<f4"), ("backoff", "<f4"), ("first_child", "<u8")])


class _Header(NamedTuple):
    size: int
    multiplier: float
    kind: int
    counts: list[int]


def read_kenlm(path: Path) -> HashedModel | NGramModel:
    """Read a binary file of KenLM.

    Hash tables stay in the file, which is mapped into memory and read once to check it. A trie of any kind is
    converted. Raises UserError for a file with rest costs, which our decoders do not use, a file without its words, and
    a truncated, damaged or unreadable file.
    """
    try:
        # An empty file can't be mapped.
        content = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)
        header = _read_header(content)
        return _read_probing(path, content, header) if header.kind == _PROBING else _read_trie(content, header)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(
            f"{path} can't be used as a binary file of KenLM: {error}. Build it again from its ARPA file with KenLM's "
            "build_binary, or use the ARPA file instead."
        ) from error


def _read_header(content: NDArray[np.uint8]) -> _Header:
    begin = bytes(content[: len(_SANITY) + _PARAMETERS.size])
    if not begin.startswith(_MAGIC):
        found = begin[: len(_MAGIC)].partition(b"\n")[0].decode("ascii", "replace")
        version = f"the version {found[len(_BEFORE_VERSION) :]!r}" if begin.startswith(_BEFORE_VERSION) else repr(found)
        raise ValueError(f"found {version} at its beginning, expected KenLM's format version 5")
    if len(begin) < len(_SANITY) + _PARAMETERS.size:
        raise ValueError(f"it ends within its header, at {len(content)} bytes")
    if not begin.startswith(_SANITY):
        raise ValueError("it was made on a machine with other number formats than this one's")
    order, multiplier, kind, has_words, version = _PARAMETERS.unpack(begin[len(_SANITY) :])
    if kind == _RESTS:
        raise ValueError("it was made with rest costs (option -r), expected it without")
    if _VERSIONS.get(kind) != version:
        raise ValueError(f"found version {version} of the model type {kind}, which is not known")
    if not has_words:
        raise ValueError("it was made without its words (option -v)")
    if not 2 <= order <= _MAX_ORDER or not 1 < multiplier < 1000:
        raise ValueError(f"found {order}-grams in tables {multiplier} times as large, expected 2 to {_MAX_ORDER}-grams")
    size = -(-(len(begin) + 8 * order) // 8) * 8
    counts = [int(count) for count in _Sections(content, len(begin)).take("counts", "<u8", order)]
    return _Header(size, multiplier, kind, counts)


class _Sections:
    """A file's content in parts, each checked to end within the file."""

    def __init__(self, content: NDArray[np.uint8], position: int) -> None:
        self.content, self.position = content, position

    def peek(self, name: str, size: int) -> NDArray[np.uint8]:
        """The next bytes, without advancing."""
        return _Sections(self.content, self.position).take(name, np.uint8, size)

    def take(self, name: str, dtype: Any, count: int) -> NDArray[Any]:
        """The next `count` values; advances behind them."""
        end = self.position + count * np.dtype(dtype).itemsize
        if end > len(self.content):
            raise ValueError(f"its {name} would end at byte {end}, but it has {len(self.content)} bytes")
        part = self.content[self.position : end].view(dtype)
        self.position = end
        return part


def _read_probing(path: Path, content: NDArray[np.uint8], header: _Header) -> HashedModel:
    sections = _Sections(content, header.size)
    counts = header.counts
    places = [_count_places(count, header.multiplier) for count in counts]
    version, num_words = (int(number) for number in sections.take("vocabulary", "<u4", 2))
    if version != 0:
        raise ValueError(f"found the vocabulary's version {version}, expected 0")
    # KenLM adds a missing <unk> without counting it.
    if not 0 < num_words <= counts[0] + 1:
        raise ValueError(f"found {num_words} words and {counts[0]} 1-grams, which don't match")
    sections.take("vocabulary", np.uint8, places[0] * _VOCABULARY_ENTRY_BYTES)
    words = sections.take("1-grams", WORD, counts[0] + 1)[:num_words]
    if num_words + sum(places[1:-1]) >= 2**31:  # int32 numbers them.
        raise ValueError(f"its tables have {sum(places[1:-1])} places, expected less than {2**31 - num_words}")
    first_place = np.cumsum([0, *places[1:-1]], dtype=np.int64)
    middle = sections.take("n-grams", MIDDLE, int(first_place[-1]))
    longest = sections.take(f"{len(counts)}-grams", LONGEST, places[-1])
    tables = build_tables(words, middle, longest, first_place)
    names = _read_words(sections, num_words)
    for table in (words["prob"], words["backoff"], middle["prob"], middle["backoff"], longest["prob"]):
        _require_finite(table)
    return HashedModel(names, tables, path)


def _count_places(count: int, multiplier: float) -> int:
    """The number of places of a hash table for `count` keys, computed in float32 as in KenLM."""
    return max(count + 1, int(np.float32(multiplier) * np.float32(count)))


def _read_words(sections: _Sections, num_words: int) -> tuple[str, ...]:
    spelled = bytes(sections.content[sections.position :])
    names = spelled.split(b"\0")[:-1]
    if names[:1] != [UNKNOWN.encode()] or len(names) != num_words:
        raise ValueError(f"found {len(names)} words at its end, expected {num_words}, of which {UNKNOWN} is the first")
    try:
        words = tuple(name.decode("utf-8") for name in names)
    except UnicodeDecodeError as error:
        raise ValueError(f"found the word {error.object!r}, expected UTF-8") from error
    if len(set(words)) != num_words:
        raise ValueError("it has words that occur twice")
    for name in (START, END):
        if name not in words:
            raise ValueError(f"found no word {name}, which sentences have")
    return words


def _require_finite(logarithms: NDArray[np.float32]) -> None:
    if not np.isfinite(logarithms).all():
        raise ValueError("it has n-grams whose logarithms are not finite")


def _read_trie(content: NDArray[np.uint8], header: _Header) -> NGramModel:
    """Convert a trie: in KenLM's, paths begin with an n-gram's last word, in ours with its first."""
    sections, counts = _Sections(content, header.size), header.counts
    num_words, order = counts[0], len(counts)
    if sum(counts) >= 2**31 - 1:
        raise ValueError(f"it has {sum(counts)} n-grams, expected less than {2**31 - 1}")
    found = int(sections.take("vocabulary", "<u8", 1 + num_words)[0]) + 1
    if found != num_words:
        raise ValueError(f"found {found} words and {num_words} 1-grams, which don't match")
    bins = _read_bins(sections, order) if header.kind in (_QUANTIZED, _QUANTIZED_COMPRESSED) else None
    words = sections.take("1-grams", _TRIE_WORD, num_words + 2)
    first_child = words["first_child"][: num_words + 1]
    compressed = header.kind in (_COMPRESSED, _QUANTIZED_COMPRESSED)
    array_bits = int(sections.peek("pointers", 2)[1]) if compressed and order > 2 else 0
    # Each n-gram's words, (rows, n), and their keys for all orders from 2, sorted as our levels are.
    ids = np.arange(num_words, dtype=np.int32)[:, None]
    keys: list[NDArray[np.int64]] = []
    levels = [_build_level(ids[:, 0], ids[:, 0], words["prob"][:num_words], words["backoff"][:num_words])]
    for n, count in enumerate(counts[1:], start=2):
        # An entry has the n-gram's first word, its values, and where the longer n-grams that end with it begin.
        word_bits = num_words.bit_length()
        value_bits = _count_value_bits(bins, n, order)
        pointer_bits, high_parts = 0, None
        if n < order:
            pointer_bits = counts[n].bit_length()
            if compressed:
                pointer_bits -= _count_chopped_bits(count + 1, counts[n], array_bits)
                high_parts = _take_high_parts(sections, (counts[n] >> pointer_bits) + 1)
        stride = word_bits + value_bits + pointer_bits
        entries = _Packed(sections.take(f"{n}-grams", np.uint8, ((1 + count) * stride + 7) // 8 + 8), stride)
        parents = _read_parents(first_child, count)
        word = entries.read(0, word_bits, count).astype(np.int64)
        if (word >= num_words).any():
            raise ValueError(f"it has {n}-grams of words that are not in its vocabulary")
        ids = np.column_stack([word.astype(np.int32), ids[parents]])
        prob, backoff = _read_values(entries, word_bits, count, None if bins is None else bins[n - 2], n == order)
        if n < order:
            first_child = entries.read(word_bits + value_bits, pointer_bits, count + 1)
            if high_parts is not None:
                high = np.searchsorted(high_parts, np.arange(count + 1, dtype=np.uint64), side="right") - 1
                first_child = first_child | (high.astype(np.uint64) << np.uint64(pointer_bits))
        levels.append(_sort_level(ids, prob, backoff, keys, num_words))
    return NGramModel.assemble(_read_words(sections, num_words), levels)


class _Packed:
    """Entries of `stride` bits each, packed with the lowest bits first and followed by 8 more bytes."""

    def __init__(self, section: NDArray[np.uint8], stride: int) -> None:
        self._windows = np.ndarray((len(section) - 7,), "<u8", section, strides=(1,))
        self._stride = stride

    def read(self, first: int, width: int, count: int) -> NDArray[np.uint64]:
        """Up to 57 bits of the first `count` entries."""
        at = np.arange(count, dtype=np.int64) * self._stride + first
        return (self._windows[at >> 3] >> (at & 7).astype(np.uint64)) & np.uint64((1 << width) - 1)


def _read_bins(sections: _Sections, order: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """The quantised values of the orders from 2: logarithms of probabilities and backoffs (KenLM has two zeros)."""
    version, *bits = (int(number) for number in sections.take("bins", np.uint8, 8)[:3])
    if version != 2 or not all(1 <= width <= 25 for width in bits):
        raise ValueError(f"found bins of version {version} with {bits} bits, expected version 2 with 1 to 25")
    sizes = [1 << width for width in bits]
    return [
        (sections.take("bins", "<f4", sizes[0]), sections.take("bins", "<f4", sizes[1] if n < order else 0))
        for n in range(2, order + 1)
    ]


def _count_value_bits(bins: list[tuple[NDArray[Any], NDArray[Any]]] | None, n: int, order: int) -> int:
    if bins is None:
        return 63 if n < order else 31
    return sum(len(table).bit_length() - 1 for table in bins[n - 2] if len(table))


def _read_values(
    entries: _Packed, first: int, count: int, bins: tuple[NDArray[Any], NDArray[Any]] | None, longest: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The decimal logarithms of the entries' probabilities and backoffs."""
    if bins is None:  # A probability is written without its sign.
        prob = (entries.read(first, 31, count).astype(np.uint32) | np.uint32(1 << 31)).view(np.float32)
        if longest:
            return prob, np.zeros(count, np.float32)
        return prob, entries.read(first + 31, 32, count).astype(np.uint32).view(np.float32)
    probs, backoffs = bins
    if longest:
        return probs[entries.read(first, len(probs).bit_length() - 1, count)], np.zeros(count, np.float32)
    backoff_bits = len(backoffs).bit_length() - 1
    prob = probs[entries.read(first + backoff_bits, len(probs).bit_length() - 1, count)]
    return prob, backoffs[entries.read(first, backoff_bits, count)]


def _count_chopped_bits(num_pointers: int, largest: int, most: int) -> int:
    """How many upper bits of a pointer KenLM moves out of the entries: the number that makes the file smallest."""
    width = largest.bit_length()
    # The size is 64 bits for each value of these bits, less the bits saved in each entry.
    return min(
        range(min(width, most) + 1), key=lambda chopped: (largest >> (width - chopped)) * 64 - num_pointers * chopped
    )


def _take_high_parts(sections: _Sections, size: int) -> NDArray[np.uint64]:
    """For each value of the pointers' upper bits, the first entry that has it."""
    begin = sections.position
    sections.take("pointers", np.uint8, 8 * (1 + size) + 7)
    begin = -(-begin // 8) * 8 + 8
    return sections.content[begin : begin + 8 * size].view("<u8")


def _read_parents(first_child: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """For each n-gram the row of the one without its first word, from where the longer n-grams of each begin."""
    if first_child[0] != 0 or first_child[-1] != count or (first_child[1:] < first_child[:-1]).any():
        raise ValueError("its n-grams are inconsistent")
    return np.repeat(np.arange(len(first_child) - 1), (first_child[1:] - first_child[:-1]).astype(np.int64))


def _sort_level(
    ids: NDArray[np.int32],
    prob: NDArray[np.float32],
    backoff: NDArray[np.float32],
    keys: list[NDArray[np.int64]],
    num_words: int,
) -> Level:
    """The n-grams of one order as a level; their keys are appended to those of the lower orders."""
    parent = ids[:, 0].astype(np.int64)
    for shorter, column in zip(keys, ids[:, 1:-1].T, strict=True):
        wanted = parent * num_words + column
        parent = np.searchsorted(shorter, wanted)
        if len(wanted) and (not len(shorter) or (shorter[np.minimum(parent, len(shorter) - 1)] != wanted).any()):
            raise ValueError(f"it has {ids.shape[1]}-grams that begin with words that are not an n-gram")
    key = parent * num_words + ids[:, -1]
    rows = np.argsort(key)
    key = key[rows]
    if (key[1:] == key[:-1]).any():
        raise ValueError(f"it has {ids.shape[1]}-grams that occur twice")
    keys.append(key)
    return _build_level(parent[rows].astype(np.int32), ids[rows, -1], prob[rows], backoff[rows])


def _build_level(
    parent: NDArray[np.int32], word: NDArray[np.int32], prob: NDArray[np.float32], backoff: NDArray[np.float32]
) -> Level:
    """A level, with logarithms converted from decimal to natural."""
    log_prob, log_backoff = ((each * np.float64(LN_10)).astype(np.float32) for each in (-np.abs(prob), backoff))
    _require_finite(log_prob)
    _require_finite(log_backoff)
    return Level(parent, word, log_prob, log_backoff)
