"""A word n-gram language model with backoff, as an automaton for compiled code."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.compilation import compiled
from finetune.errors import UserError
from finetune.files import new_file

UNKNOWN, START, END = "<unk>", "<s>", "</s>"

_FORMAT = "finetune n-gram language model 1"


class Trie(NamedTuple):
    """The nodes of all n-grams, by order; the arrays are read-only, so that compiled code sees one type.

    A node is an n-gram; nodes 0 to V - 1 are the words, numbered as these. Logarithms are natural.

    - `word`: (nodes,) int32, the n-gram's last word;
    - `log_prob`: (nodes,) float32, of the last word given the others;
    - `backoff`: (nodes,) float32, added when a word without an n-gram here is looked up at `suffix`;
    - `suffix`: (nodes,) int32, the longest proper suffix of the n-gram that can be a state; -1 is the empty context;
    - `first_child`: (nodes + 1,) int32, where the node's children begin; they end where the next node's begin and are
      sorted by word.
    """

    word: NDArray[np.int32]
    log_prob: NDArray[np.float32]
    backoff: NDArray[np.float32]
    suffix: NDArray[np.int32]
    first_child: NDArray[np.int32]


@compiled
def find_child(first_child: NDArray[np.int32], word: NDArray[np.int32], node: int, wanted: int) -> int:
    """The node of an n-gram followed by a word, or -1, by binary search."""
    low, high = first_child[node], first_child[node + 1]
    end = high
    while low < high:
        middle = (low + high) // 2
        if word[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < end and word[low] == wanted else -1


@compiled
def advance(trie: Trie, state: int, word: int) -> tuple[float, int]:
    """The natural logarithm of a word's probability after a state, and the state after the word.

    A state is the node of the context, -1 for the empty one. The next state is the longest n-gram that can affect later
    words, that is with children or a backoff, so that histories which the model cannot distinguish share a state
    (Heafield 2011, KenLM, "Minimizing State").
    """
    log_prob = 0.0
    node = word
    while state >= 0:
        child = find_child(trie.first_child, trie.word, state, word)
        if child >= 0:
            node = child
            break
        log_prob += trie.backoff[state]
        state = trie.suffix[state]
    log_prob += trie.log_prob[node]
    if trie.first_child[node] == trie.first_child[node + 1] and trie.backoff[node] == 0:
        node = trie.suffix[node]
    return log_prob, node


@compiled
def _score(trie: Trie, state: int, words: NDArray[np.int32]) -> NDArray[np.float64]:
    scores = np.empty(len(words))
    for i in range(len(words)):
        scores[i], state = advance(trie, state, words[i])
    return scores


@compiled
def _link(
    first_child: NDArray[np.int32],
    word: NDArray[np.int32],
    backoff: NDArray[np.float32],
    parent: NDArray[np.int32],
    suffix: NDArray[np.int32],
) -> None:
    """Fill in the suffixes of all nodes after the words' nodes; a suffix is of a lower order."""
    for node in range(len(word) - len(parent), len(word)):
        context = suffix[parent[node - len(word) + len(parent)]]
        found = word[node]
        # The n-gram without its first word may be missing, as in a pruned model; then a shorter one is used.
        while context >= 0:
            child = find_child(first_child, word, context, word[node])
            if child >= 0:
                found = child
                break
            context = suffix[context]
        if first_child[found] == first_child[found + 1] and backoff[found] == 0:
            found = suffix[found]
        suffix[node] = found


class Level(NamedTuple):
    """All n-grams of one order, sorted by `parent`, then `word`; arrays of equal length, natural logarithms.

    `parent` is the row, in the order below, of the n-gram without its last word; unused for 1-grams.
    """

    parent: NDArray[np.int32]
    word: NDArray[np.int32]
    log_prob: NDArray[np.float32]
    backoff: NDArray[np.float32]


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text: sums of natural logarithms and counts, which add up over texts.

    A token is a word or the end of a sentence. `oov_log_prob` is the part of `log_prob` that the `num_oovs` words have
    which the model doesn't know.
    """

    num_sentences: int
    num_tokens: int
    num_oovs: int
    log_prob: float
    oov_log_prob: float

    @property
    def including_oovs(self) -> float | None:
        """Perplexity with unknown words at the probability of `<unk>`; None without a token."""
        return _perplexity(self.log_prob, self.num_tokens)

    @property
    def excluding_oovs(self) -> float | None:
        """Perplexity of the words that the model knows; None without one."""
        return _perplexity(self.log_prob - self.oov_log_prob, self.num_tokens - self.num_oovs)


def _perplexity(log_prob: float, count: int) -> float | None:
    return math.exp(min(-log_prob / count, 700.0)) if count else None


@dataclass(frozen=True, eq=False)
class NGramModel:
    """A backoff n-gram model: its words by their numbers, of which 0 is `<unk>`, and its n-grams."""

    words: tuple[str, ...]
    trie: Trie

    @classmethod
    def assemble(cls, words: Sequence[str], levels: Sequence[Level]) -> NGramModel:
        """A model of the n-grams of each order, the first level has one row for each word, in their order.

        Raises UserError for more n-grams than int32 counts.
        """
        sizes = [len(level.word) for level in levels]
        if sum(sizes) >= 2**31 - 1:
            raise UserError(f"The model has {sum(sizes)} n-grams; expected less than {2**31 - 1}: prune more.")
        starts = np.cumsum([0, *sizes])
        word, log_prob, backoff = (
            np.concatenate([getattr(level, name) for level in levels]) for name in ("word", "log_prob", "backoff")
        )
        first_child = np.full(starts[-1] + 1, starts[-1], np.int32)
        for order, level in enumerate(levels[1:], start=1):
            rows = np.arange(sizes[order - 1] + 1)
            # The last of these is where the next order's own continuations begin, or the end.
            first_child[starts[order - 1] : starts[order] + 1] = starts[order] + np.searchsorted(level.parent, rows)
        parents = [np.empty(0, np.int32), *(level.parent + starts[k] for k, level in enumerate(levels[1:]))]
        parent = np.concatenate(parents).astype(np.int32)
        suffix = np.full(starts[-1], -1, np.int32)
        for array in (word, log_prob, backoff, first_child, parent):
            array.setflags(write=False)
        _link(first_child, word, backoff, parent, suffix)
        suffix.setflags(write=False)
        return cls(tuple(words), Trie(word, log_prob, backoff, suffix, first_child))

    @cached_property
    def word_ids(self) -> dict[str, int]:
        """The words' numbers."""
        return {word: number for number, word in enumerate(self.words)}

    @property
    def start_state(self) -> int:
        """The state at the beginning of a sentence."""
        node = self.word_ids[START]
        first, end = self.trie.first_child[node : node + 2]
        return node if first < end or self.trie.backoff[node] != 0 else -1

    @property
    def counts(self) -> list[int]:
        """The number of n-grams of each order."""
        starts = [0, len(self.words)]
        while starts[-1] < len(self.trie.word):
            starts.append(int(self.trie.first_child[starts[-1]]))
        return [end - start for start, end in pairwise(starts)]

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.counts)

    def save(self, path: Path) -> None:
        """Write the model atomically as a safetensors file: the arrays, and the words in UTF-8."""
        from safetensors.numpy import save_file

        words = np.frombuffer("".join(f"{word}\n" for word in self.words).encode(), np.uint8)
        with new_file(path) as partial:
            save_file({**self.trie._asdict(), "words": words}, partial, {"format": _FORMAT})

    @classmethod
    def load(cls, path: Path) -> NGramModel:
        """Read a file of `save`; its arrays are mapped into memory, which processes share.

        Raises UserError for other files, and for a damaged file whose indices are out of bounds.
        """
        try:
            model = cls(*_map(path))
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise UserError(
                f"{path} can't be used as a language model of finetune lm build: {error}. Copy it or build it again."
            ) from error
        if not _is_sound(model):
            raise UserError(f"{path} is damaged: its n-grams are inconsistent. Copy it or build it again.")
        return model

    def score(self, words: Iterable[str], bos: bool = True, eos: bool = True) -> list[float]:
        """The natural logarithm of each word's probability after those before it, the sentence's end last.

        `bos` begins with the context `<s>`, else with the empty one; `eos` adds the sentence's end.
        """
        return [float(score) for score in self._score([*words, END] if eos else words, bos)[0]]

    def perplexity(self, sentences: Iterable[Iterable[str]]) -> Perplexity:
        """The perplexity of sentences of words, with their ends."""
        num_sentences = num_tokens = num_oovs = 0
        log_prob = oov_log_prob = 0.0
        for sentence in sentences:
            scores, ids = self._score([*sentence, END], bos=True)
            oovs = ids == 0
            num_sentences += 1
            num_tokens += len(ids)
            num_oovs += int(oovs.sum())
            log_prob += float(scores.sum())
            oov_log_prob += float(scores[oovs].sum())
        return Perplexity(num_sentences, num_tokens, num_oovs, log_prob, oov_log_prob)

    def _score(self, words: Iterable[str], bos: bool) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        ids = np.array([self.word_ids.get(word, 0) for word in words], np.int32)
        return _score(self.trie, self.start_state if bos else -1, ids), ids


def _map(path: Path) -> tuple[tuple[str, ...], Trie]:
    """The content of a file of `NGramModel.save`, mapped into memory; raises ValueError for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as checked:  # It checks the header and the file's length.
            metadata = checked.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"found the format {metadata.get('format')!r}, expected {_FORMAT!r}")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))[8 + length :]

    def tensor(name: str, code: str) -> NDArray[Any]:
        entry = header.get(name)
        if not entry or entry["dtype"] != code or len(entry["shape"]) != 1:
            raise ValueError(f"found {entry} for {name}, expected a vector of {code}")
        return mapped[slice(*entry["data_offsets"])].view({"I32": np.int32, "F32": np.float32, "U8": np.uint8}[code])

    words = bytes(tensor("words", "U8")).decode("utf-8").split("\n")[:-1]
    codes = {"word": "I32", "log_prob": "F32", "backoff": "F32", "suffix": "I32", "first_child": "I32"}
    return tuple(words), Trie(**{name: tensor(name, code) for name, code in codes.items()})


def _is_sound(model: NGramModel) -> bool:
    """Whether all indices are in bounds and every walk ends: compiled code checks neither."""
    trie, num_words, size = model.trie, len(model.words), len(model.trie.word)
    lengths = [len(array) for array in trie]
    if lengths != [size] * 4 + [size + 1] or size < num_words or len(model.word_ids) != num_words:
        return False
    if model.words[:1] != (UNKNOWN,) or not {START, END} <= model.word_ids.keys():
        return False
    nodes, first = np.arange(size), trie.first_child
    begins = np.zeros(size + 1, bool)
    begins[np.clip(first, 0, size)] = True
    return bool(
        (first[:-1] <= first[1:]).all()
        and first[0] == num_words
        and first[-1] == size
        and (first[:-1] > nodes).all()
        and (trie.word[:num_words] == nodes[:num_words]).all()
        and ((trie.word >= 0) & (trie.word < num_words)).all()
        and (begins[num_words + 1 : size] | (trie.word[num_words + 1 :] > trie.word[num_words:-1])).all()
        and (trie.suffix[:num_words] == -1).all()
        and ((trie.suffix >= -1) & (trie.suffix < nodes)).all()
        and np.isfinite(trie.log_prob).all()
        and np.isfinite(trie.backoff).all()
    )
