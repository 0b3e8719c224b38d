"""Logits to words by a CTC prefix beam search with a word n-gram language model and hotwords."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.alphabet import Alphabet
from finetune.decoding.hotwords import build_hotwords, spell_phrase
from finetune.decoding.hypotheses import (
    SECONDS_PER_FRAME,
    Character,
    Hypothesis,
    build_word,
    check_logits,
    clean_words,
)
from finetune.decoding.lexicon import build_model_lexicon
from finetune.errors import UserError
from finetune.resources.machine import count_threads
from finetune.text.word_units import classify_characters, has_units

if TYPE_CHECKING:
    from finetune.decoding.hashed_ngram import HashedModel
    from finetune.decoding.ngram import NGramModel
    from finetune.decoding.prefix_tree import Beams, Tree

_FIRST_NODES = 2**14


@dataclass(frozen=True)
class Weights:
    """The weights of the language model against the acoustic model, named as in pyctcdecode's attrs.json.

    - `alpha`: the weight of the language model's natural logarithms, 0 or more;
    - `beta`: the word bonus, added for each complete word against the model's preference for few words;
    - `unk_score_offset`: the score of a word outside the model's vocabulary, 0 or less; it is added as soon as no word
      of the model has the same beginning; a natural logarithm, not weighted by `alpha`, and proportionally larger for a
      word of more than 6 symbols;
    - `score_boundary`: whether a text is scored with a sentence's beginning and end.

    The defaults are pyctcdecode's. pyctcdecode weights the offset of complete words by alpha × ln 10 and that of
    beginnings by 1 and their length; here the offset is the same before and after a word is complete.
    """

    alpha: float = 0.5
    beta: float = 1.5
    unk_score_offset: float = -10.0
    score_boundary: bool = True


class BeamState:
    """The state of a search after some frames; made by `BeamSearch.start`."""

    def __init__(self, tree: Tree, beams: Beams, counts: NDArray[np.int64]) -> None:
        self.tree, self.beams, self.counts = tree, beams, counts

    @property
    def num_frames(self) -> int:
        """The number of frames decoded so far."""
        from finetune.decoding.prefix_tree import FRAMES

        return int(self.counts[FRAMES])

    def prefixes(self) -> list[NDArray[Any]]:
        """The prefixes in each beam, the widest first; a narrower beam is empty while it equals the widest."""
        from finetune.decoding.prefix_tree import SIDE

        entries = self.beams.entries[self.counts[SIDE]]
        return [beam[:size] for beam, size in zip(entries, self.beams.sizes.tolist(), strict=True)]


class BeamSearch:
    """A CTC prefix beam search (Graves 2012, section 7.5.3; Hannun et al. 2014, arXiv 1408.2873, algorithm 1).

    A prefix's probability is the sum over its alignments, with those that end in a blank counted separately. The
    language model scores a word when it is complete: at a word delimiter, at the text's end, or at the next character
    of a script without spaces where the model's words are characters (`split_words`). Until then a word gets
    `unk_score_offset` if no word of the model has its beginning. The vocabulary is open. Word delimiters at the
    beginning and end are ignored, and those with only blanks between them are one: texts have single spaces.

    A search is immutable and can be used by several threads; the compiled part releases Python's global interpreter
    lock.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        blank_id: int,
        delimiter_id: int | None,
        special_ids: Iterable[int] = (),
        symbols_are_words: bool = False,
        clean_up: Callable[[str], str] | None = None,
        language_model: NGramModel | HashedModel | None = None,
        weights: Weights = Weights(),
        hotwords: Mapping[str, float] | None = None,
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        seconds_per_frame: float = SECONDS_PER_FRAME,
    ) -> None:
        """Prepare a search; with a language model of 200,000 words this takes half a second.

        `symbols` has the text of each column of the logits, of any number of characters; those in `special_ids` count
        as blanks, and `symbols_are_words` and `clean_up` are as in `Alphabet`. Without a `delimiter_id`, as for a
        language that is written without spaces, a text is one word, hotwords are found anywhere in it, and a language
        model can't be used. `hotwords` maps words, or phrases with spaces, to boosts, natural logarithms; their words
        are never unknown. `beam_prune_logp` drops prefixes that are worse than the best by more than this,
        `token_min_logp` drops symbols that are less likely in a frame (both are 0 or less; the defaults are
        pyctcdecode's).

        A wider beam never returns a text with a lower score. A single wider beam could, since additional prefixes can
        displace the one that wins in the end. So the widths 1, 3, 10, 30 and so on up to `beam_width` are searched
        together; another width is rounded down to one of these. A narrow beam costs little: it equals the widest until
        it has to drop a prefix that the widest keeps.

        Raises UserError for hotwords with characters outside the alphabet, a language model of another alphabet, and
        settings that are out of range.
        """
        alphabet = Alphabet(tuple(symbols), blank_id, delimiter_id, frozenset(special_ids), symbols_are_words, clean_up)
        if language_model is not None and delimiter_id is None:
            raise UserError(
                "A word language model needs a model with a word delimiter: this one's vocabulary has none."
            )
        self.alphabet, self.symbols = alphabet, alphabet.symbols
        self.blank_id, self.delimiter_id = blank_id, delimiter_id
        written = [*alphabet.letters.values(), *alphabet.marks.values()]
        self.letters = tuple(sorted(itertools.chain.from_iterable(written)))
        self.language_model = language_model
        self.seconds_per_frame = seconds_per_frame
        self._lexicon = build_model_lexicon(language_model.word_ids if language_model else {}, alphabet.letters)
        self._parts_units = has_units(language_model.words if language_model else ())
        classes = np.array(classify_characters(symbol or " " for symbol in self.symbols), np.bool_)
        self._units = tuple(_freeze(np.ascontiguousarray(column)) for column in classes.T)
        self._set(weights, hotwords or {}, beam_width, beam_prune_logp, token_min_logp)

    def adjust(
        self,
        *,
        weights: Weights | None = None,
        hotwords: Mapping[str, float] | None = None,
        beam_width: int | None = None,
        beam_prune_logp: float | None = None,
        token_min_logp: float | None = None,
    ) -> BeamSearch:
        """A copy of the search with some settings changed, which reuses the prepared language model.

        Raises UserError as the constructor does.
        """
        other = copy.copy(self)
        other._set(
            weights or self.weights,
            self.hotwords if hotwords is None else hotwords,
            self.beam_width if beam_width is None else beam_width,
            self.beam_prune_logp if beam_prune_logp is None else beam_prune_logp,
            self.token_min_logp if token_min_logp is None else token_min_logp,
        )
        return other

    def start(self) -> BeamState:
        """The state before the first frame."""
        from finetune.decoding.prefix_tree import BEAM, Beams, build_tree

        widths = self._search.widths
        tree = build_tree(max(_FIRST_NODES, 4 * int(widths.sum())))
        model = self.language_model
        root = tree.nodes[0]
        root["parent"], root["symbol"], root["slot"] = -1, self._search.delimiter, 0
        root["context"] = model.start_state if model and self.weights.score_boundary else -1
        root["hot"] = self._search.hotwords.start
        root["ended"] = math.nan
        beams = Beams(np.zeros((2, len(widths), widths[0]), BEAM), np.zeros(len(widths), np.int64))
        beams.sizes[0] = 1
        first = beams.entries[0, 0, 0]
        first["extended"] = first["path_symbol"] = -math.inf
        for name in ("emission_blank", "emission_symbol", "last_blank", "last_symbol"):
            first[name] = -1
        return BeamState(tree, beams, np.array([1, 0, 0, 0], np.int64))

    def advance(self, state: BeamState, logits: Any, name: str = "The utterance") -> BeamState:
        """Decode further frames, (frames, vocabulary), logits or log-probabilities; the state given is used up.

        The result does not depend on how the frames are divided, to the last bit. What no prefix in the beam needs is
        freed from time to time, so memory grows with the text and not with the frames.

        Raises UserError when a logit is not finite, with `name` and the frame.
        """
        from finetune.decoding.prefix_search import advance_frames
        from finetune.decoding.prefix_tree import EMISSIONS, NODES, build_tree, make_room

        logits = self.alphabet.fold_silent(check_logits(logits, len(self.symbols), name, state.num_frames))
        done = 0
        while True:
            done += advance_frames(logits[done:], self._search, state.tree, state.beams, state.counts)
            if done == len(logits):
                return state
            room = len(state.tree.nodes)
            for size in (room, 2 * room):
                larger, prefixes = build_tree(size), state.prefixes()
                together = np.concatenate(prefixes)
                make_room(state.tree, together, state.counts, larger)
                state.tree, first = larger, 0
                for beam in prefixes:
                    beam[:] = together[first : first + len(beam)]
                    first += len(beam)
                if max(state.counts[NODES], state.counts[EMISSIONS]) <= size // 2:
                    break

    def finish(self, state: BeamState, n_best: int = 1) -> list[Hypothesis]:
        """The best texts as if the audio ended here, best first; the state is not changed and can be advanced further.

        There are fewer than `n_best` where the beam has fewer, and always at least one.
        """
        from finetune.decoding.fusion import end_text
        from finetune.decoding.prefix_search import add_logs
        from finetune.decoding.prefix_tree import trace

        found: dict[int, _Ended] = {}
        for beams in state.prefixes():
            ends, added = end_text(self._search, state.tree, beams)
            texts: dict[int, _Ended] = {}
            for beam, end, lm_score in zip(beams, ends.tolist(), added.tolist(), strict=True):
                ended = _Ended(beam, float(beam["total"]), lm_score)
                # A prefix with a word delimiter at its end has the same text as without.
                if (same := texts.get(end)) is not None:
                    better = max(ended, same, key=lambda one: max(one.beam["path_blank"], one.beam["path_symbol"]))
                    ended = _Ended(better.beam, add_logs(ended.logit_score, same.logit_score), lm_score)
                texts[end] = ended
            for end, ended in texts.items():
                found[end] = max(found.get(end, ended), ended, key=lambda one: one.logit_score)
        best: dict[str, Hypothesis] = {}  # With symbols of several characters a text can have several spellings.
        for one in sorted(found.values(), key=lambda one: -one.logit_score - one.lm_score):
            hypothesis = self._read(one, *trace(state.tree, one.beam))
            best.setdefault(hypothesis.text, hypothesis)
            if len(best) >= n_best:
                break
        return list(best.values())

    def decode(self, logits: Any, n_best: int = 1, name: str = "The utterance") -> list[Hypothesis]:
        """The best texts of one utterance, (frames, vocabulary); the empty text for no frames.

        Raises UserError as `advance` does.
        """
        return self.finish(self.advance(self.start(), logits, name), n_best)

    def decode_batch(
        self,
        logits: Any,
        num_frames: Sequence[int],
        n_best: int = 1,
        threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best texts of each utterance of a batch, (batch, frames, vocabulary), with a thread for each usable core.

        `num_frames` has the number of valid frames of each utterance; the rest is padding.

        Raises UserError as `advance` does, with the utterance's name, or its number, counted from 1.
        """
        if len(logits) != len(num_frames):
            raise ValueError(f"Got {len(logits)} utterances and {len(num_frames)} lengths.")

        def decode_one(row: int) -> list[Hypothesis]:
            name = names[row] if names else f"Utterance {row + 1} of {len(num_frames)}"
            return self.decode(logits[row][: num_frames[row]], n_best, name)

        threads = threads or count_threads()
        if threads == 1 or len(num_frames) < 2:
            return [decode_one(row) for row in range(len(num_frames))]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(decode_one, range(len(num_frames))))

    def _set(
        self,
        weights: Weights,
        hotwords: Mapping[str, float],
        beam_width: int,
        beam_prune_logp: float,
        token_min_logp: float,
    ) -> None:
        """Check the settings that can be adjusted, and build the data of the compiled part."""
        from finetune.decoding.fusion import Search
        from finetune.decoding.hashed_ngram import LONGEST, MIDDLE, WORD, HashedModel, build_tables
        from finetune.decoding.ngram import END, NGramModel, Trie

        _check_settings(weights, beam_width, beam_prune_logp, token_min_logp)
        widths = _nest_widths(beam_width)
        self.weights, self.hotwords, self.beam_width = weights, dict(hotwords), widths[0]
        self.beam_prune_logp, self.token_min_logp = beam_prune_logp, token_min_logp
        ways = ((spell_phrase(phrase, boost, self.alphabet), boost) for phrase, boost in hotwords.items())
        phrases = [(list(way), boost) for spelled, boost in ways for way in spelled]
        automaton = build_hotwords(phrases, self.delimiter_id, len(self.symbols))
        model = self.language_model
        numbers, scores = np.zeros(2, np.int32), np.zeros(1, np.float32)
        nothing = Trie(*map(_freeze, (numbers[:1], scores, scores, numbers[:1], numbers)))
        no_tables = build_tables(np.empty(0, WORD), np.empty(0, MIDDLE), np.empty(0, LONGEST), np.empty(0, np.int64))
        self._search = Search(
            blank=self.blank_id,
            delimiter=-1 if self.delimiter_id is None else self.delimiter_id,
            letters=_freeze(np.array(self.letters, np.int32)),
            widths=_freeze(np.array(widths, np.int64)),
            beam_prune_logp=float(beam_prune_logp),
            token_min_logp=float(token_min_logp),
            has_model=model is not None,
            is_hashed=isinstance(model, HashedModel),
            model=model.trie if isinstance(model, NGramModel) else nothing,
            hashed=model.tables if isinstance(model, HashedModel) else no_tables,
            end=model.word_ids[END] if model and weights.score_boundary else -1,
            alpha=float(weights.alpha),
            beta=float(weights.beta) if model else 0.0,
            unknown=float(weights.unk_score_offset) if model else 0.0,
            lexicon=self._lexicon,
            hotwords=automaton,
            most_hot=float((automaton.bonus + automaton.potential).max()),
            parts_units=self._parts_units,
            unspaced=self._units[0],
            attached=self._units[1],
            stacking=self._units[2],
        )

    def _read(
        self,
        ended: _Ended,
        symbols: NDArray[np.int32],
        first: NDArray[np.int32],
        last: NDArray[np.int32],
        peak: NDArray[np.float64],
    ) -> Hypothesis:
        """A hypothesis from its symbols, their frames and the logarithms of their posteriors."""
        edges = [-1, *np.flatnonzero(symbols == self._search.delimiter).tolist(), len(symbols)]
        spans = [(before + 1, after) for before, after in pairwise(edges)]
        if self.alphabet.symbols_are_words:
            spans = [(place, place + 1) for place in range(len(symbols))]
        texts = [self.symbols[symbol] for symbol in symbols.tolist()]
        starts, ends, posteriors = first.tolist(), (last + 1).tolist(), np.exp(peak)
        words = []
        for begin, end in spans:
            if begin == end:
                continue
            span = slice(begin, end)
            characters = map(Character, texts[span], starts[span], ends[span], posteriors[span].tolist())
            delimiter_frame = ends[begin - 1] if begin and self.delimiter_id is not None else None
            words.append(build_word(tuple(characters), self.seconds_per_frame, delimiter_frame))
        cleaned = clean_words(words, self.alphabet.clean_up, self.seconds_per_frame)
        return Hypothesis(" ".join(word.text for word in cleaned), cleaned, ended.logit_score, ended.lm_score)


class _Ended(NamedTuple):
    """A text at its end: the beam whose alignment is best, and its scores."""

    beam: Any
    logit_score: float
    lm_score: float


def _freeze(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array read-only: for Numba, writable and read-only arrays have different types."""
    array.setflags(write=False)
    return array


def _nest_widths(beam_width: int) -> list[int]:
    """The widths 1, 3, 10, 30 and so on up to a width, the widest first."""
    widths = [digit * 10**power for power in range(len(str(beam_width))) for digit in (1, 3)]
    return [width for width in reversed(widths) if width <= beam_width]


def _check_settings(weights: Weights, beam_width: int, beam_prune_logp: float, token_min_logp: float) -> None:
    """Raise UserError for settings out of range; the search relies on language-model scores of at most 0."""
    offset = weights.unk_score_offset
    problems = [
        (beam_width >= 1, f"beam_width is {beam_width}: expected 1 or more"),
        (beam_prune_logp <= 0, f"beam_prune_logp is {beam_prune_logp}: expected 0 or less"),
        (token_min_logp <= 0, f"token_min_logp is {token_min_logp}: expected 0 or less"),
        (0 <= weights.alpha < math.inf, f"alpha is {weights.alpha}: expected 0 or more"),
        (math.isfinite(weights.beta), f"beta is {weights.beta}: expected a finite number"),
        (-math.inf < offset <= 0, f"unk_score_offset is {offset}: expected 0 or less"),
    ]
    if found := [problem for right, problem in problems if not right]:
        raise UserError(f"The beam search can't use its settings: {'; '.join(found)}.")
