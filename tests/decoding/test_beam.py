"""The beam search finds what an exhaustive search finds, at any width; times, hotwords, chunks, threads, bad input."""

import functools
import itertools
import json
import math
import string
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2CTCTokenizer

from finetune.decoding.beam import BeamSearch, Weights
from finetune.decoding.greedy import decode_greedy
from finetune.decoding.ngram import Level, NGramModel
from finetune.errors import UserError
from finetune.text.word_units import split_words

TOY = ("_", "|", "a", "b")
ENGLISH = ("[PAD]", "|", *string.ascii_lowercase, "'", "[UNK]")
EXHAUSTIVE = {"beam_width": 5000, "beam_prune_logp": -math.inf, "token_min_logp": -math.inf}


def toy_search(model=None, **options):
    return BeamSearch(TOY, blank_id=0, delimiter_id=1, language_model=model, **options)


def english_search(model=None, **options):
    return BeamSearch(ENGLISH, blank_id=0, delimiter_id=1, special_ids=[29], language_model=model, **options)


def random_logits(seed, frames, vocabulary, sharpness=1.0):
    return (sharpness * np.random.default_rng(seed).standard_normal((frames, vocabulary))).astype(np.float32)


def spelled_logits(path, symbols, sharpness=10.0):
    """One symbol for each frame, "_" for the blank, the others less likely by `sharpness`."""
    ids = [0 if symbol == "_" else symbols.index(symbol) for symbol in path]
    return (sharpness * np.eye(len(symbols))[ids]).astype(np.float32)


def bigram_model(*words, seed=0):
    """A model that knows these words and some pairs of them, with random probabilities."""
    rng = np.random.default_rng(seed)
    words = ["<unk>", "<s>", "</s>", *words]
    count = len(words)
    pairs = [(a, b) for a in range(1, count) for b in range(2, count) if a != 2 and rng.random() < 0.6]
    unigrams = Level(
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int32),
        rng.uniform(-6, -1, count).astype(np.float32),
        rng.uniform(-1, 0, count).astype(np.float32),
    )
    bigrams = Level(
        np.array([a for a, _ in pairs], np.int32),
        np.array([b for _, b in pairs], np.int32),
        rng.uniform(-4, -0.1, len(pairs)).astype(np.float32),
        np.zeros(len(pairs), np.float32),
    )
    return NGramModel.assemble(words, [unigrams, bigrams])


def search_exhaustively(logits, model=None, weights=None, symbols=TOY):
    """Each text's scores and best alignment, from all paths through a toy alphabet."""
    log_probs = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    found = {}
    for path in itertools.product(range(len(symbols)), repeat=len(logits)):
        probability = sum(log_probs[frame, symbol] for frame, symbol in enumerate(path))
        text = " ".join("".join(symbols[s] for s, _ in itertools.groupby(path) if s != 0).replace("|", " ").split())
        mass, best, _ = found.get(text, (-math.inf, -math.inf, None))
        better = (probability, path) if probability > best else (best, found.get(text, (0, 0, None))[2])
        found[text] = (np.logaddexp(mass, probability), *better)
    scored = {}
    for text, (mass, _, path) in found.items():
        added, words = 0.0, split_words(text)
        if model is not None:
            log_prob = sum(model.score(words, bos=weights.score_boundary, eos=weights.score_boundary))
            unknown = sum(max(1, len(word) / 6) for word in words if word not in model.word_ids)
            added = weights.alpha * log_prob + weights.beta * len(words) + weights.unk_score_offset * unknown
        scored[text] = (mass, added, path)
    return scored


def times_of(path):
    """The first and last frame of each symbol of an alignment, delimiters left out."""
    times, before = [], 0
    for frame, symbol in enumerate(path):
        if symbol > 1 and symbol != before:
            times.append([TOY[symbol], frame, frame + 1])
        elif symbol > 1:
            times[-1][2] = frame + 1
        before = symbol
    return [tuple(time) for time in times]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weights", [None, Weights(0.7, 0.4, -3.0), Weights(1.5, -0.5, 0.0, score_boundary=False)])
def test_an_unlimited_beam_finds_what_an_exhaustive_search_finds(seed, weights):
    model = bigram_model("a", "ab", "bba", seed=seed) if weights else None
    logits = random_logits(seed, 6, 4, sharpness=1.5)
    expected = search_exhaustively(logits, model, weights)

    found = toy_search(model, weights=weights or Weights(), **EXHAUSTIVE).decode(logits, n_best=10**6)

    assert {one.text for one in found} == set(expected)
    assert len(found) == len(expected)
    for one in found:
        mass, added, path = expected[one.text]
        assert one.logit_score == pytest.approx(mass, abs=1e-9)
        assert one.lm_score == pytest.approx(added, abs=1e-5)
        characters = [character for word in one.words for character in word.characters]
        assert [(c.text, c.start_frame, c.end_frame) for c in characters] == times_of(path)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@pytest.mark.parametrize("symbols", [("_", "|", "我", "a"), ("_", "|", "ก", "\u0e31"), ("_", "我", "|", "爱")])
@pytest.mark.parametrize("seed", range(3))
def test_characters_without_spaces_are_words_of_the_language_model(symbols, seed):
    letters = [symbol for symbol in symbols if symbol not in "_|"]
    units = sorted({unit for pair in itertools.product(letters, repeat=2) for unit in split_words("".join(pair))})
    model, weights = bigram_model(*units[1:], seed=seed), Weights(0.7, 0.6, -2.0)  # The first one is unknown.
    search = BeamSearch(
        symbols, blank_id=0, delimiter_id=symbols.index("|"), language_model=model, weights=weights, **EXHAUSTIVE
    )
    logits = random_logits(seed, 5, len(symbols))
    expected = search_exhaustively(logits, model, weights, symbols)
    hypotheses = search.decode(logits, n_best=len(expected))
    assert {each.text for each in hypotheses} == set(expected)
    for hypothesis in hypotheses:
        mass, added, _ = expected[hypothesis.text]
        assert hypothesis.logit_score == pytest.approx(mass, abs=1e-6), hypothesis.text
        assert hypothesis.lm_score == pytest.approx(added, abs=1e-4), hypothesis.text


def test_a_language_model_of_whole_chinese_words_scores_at_delimiters():
    symbols = ("_", "|", "我", "爱", "你")
    model = bigram_model("我爱", "爱你", "你")
    search = BeamSearch(symbols, blank_id=0, delimiter_id=1, language_model=model)
    (found,) = search.decode(spelled_logits("我爱|你", symbols))
    score = sum(model.score(["我爱", "你"], bos=True, eos=True))
    assert found.text == "我爱 你" and found.lm_score == pytest.approx(0.5 * score + 2 * 1.5, abs=1e-4)


def test_a_hotword_counts_each_time_and_the_boost_of_partial_matches_is_taken_back():
    hotwords = {"ab": 2.0, "a b": 1.5, "a b a": 0.5, "b": -1.0}
    logits = random_logits(0, 7, 4, sharpness=1.5)
    expected = search_exhaustively(logits)

    found = toy_search(hotwords=hotwords, **EXHAUSTIVE).decode(logits, n_best=10**6)

    assert {one.text for one in found} == set(expected)
    for one in found:
        padded = f" {one.text} "
        starts = [at for at in range(len(padded)) if padded[at] == " "]
        boost = sum(boost for word, boost in hotwords.items() for at in starts if padded[at:].startswith(f" {word} "))
        assert one.lm_score == pytest.approx(boost)
        assert one.logit_score == pytest.approx(expected[one.text][0])


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(ENGLISH)}))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "word_delimiter_token": "|"}
    return Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), **special, bos_token=None, eos_token=None)


def test_a_beam_of_one_gives_the_greedy_text_for_peaky_logits(tokenizer):
    search = english_search(beam_width=1)
    rng = np.random.default_rng(0)
    for seed in range(50):
        # Many repeats, blanks and word delimiters; no [UNK], which the search does not write.
        path = rng.choice([0, 0, 0, 1, 1, *range(2, 29)], size=40).repeat(rng.integers(1, 4, 40))
        logits = random_logits(seed, len(path), len(ENGLISH)) + 15 * np.eye(len(ENGLISH), dtype=np.float32)[path]
        greedy = decode_greedy(torch.from_numpy(logits)[None], [len(path)], tokenizer)[0]
        assert search.decode(logits)[0].text == " ".join(greedy.split())
        assert english_search().decode(logits)[0].text == " ".join(greedy.split())


def test_double_letters_and_repeated_words_are_kept():
    logits = spelled_logits("_hhe_ll_l_oo_||_|b_oo_o_k_|", ENGLISH)
    assert english_search().decode(logits)[0].text == "hello book"


LOGITS = (
    st.integers(0, 8)
    .flatmap(
        lambda frames: st.lists(
            st.lists(st.floats(-12, 12, width=32), min_size=4, max_size=4), min_size=frames, max_size=frames
        )
    )
    .map(lambda rows: np.array(rows, np.float32).reshape(-1, 4))
)
UNPRUNED = {"beam_prune_logp": -math.inf, "token_min_logp": -math.inf}


@functools.cache
def small_model():
    return bigram_model("a", "ab", "bba")


@functools.cache
def searches_by_width():
    """Searches of increasing width, the last unlimited, without and with a language model."""
    return [
        [toy_search(model, beam_width=width, **UNPRUNED) for width in (1, 3, 10, 30, 5000)]
        for model in (None, small_model())
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(LOGITS)
def test_a_wider_beam_never_has_a_lower_score(logits):
    for searches in searches_by_width():
        scores = [search.decode(logits)[0].score for search in searches]
        assert (np.diff(scores) > -1e-9).all()


def test_a_wider_beam_never_has_a_lower_score_with_strong_pruning():
    # Searched alone, a width has a lower score than the next smaller one in 5 of these 160 cases.
    for model in (None, bigram_model("a", "to", "tea", "eat", "ate")):
        widths = [english_search(model, beam_width=width) for width in (1, 3, 10, 30, 100)]
        scores = []
        for seed in range(20):
            path = np.random.default_rng(seed).choice([0, 0, 0, 1, *range(2, 29)], size=30)
            logits = random_logits(seed, 30, len(ENGLISH)) + 2 * np.eye(len(ENGLISH), dtype=np.float32)[path]
            scores.append([search.decode(logits)[0].score for search in widths])
        assert (np.diff(scores, axis=1) > -1e-9).all()
        assert np.diff(scores, axis=1).mean() > 0


def test_other_widths_are_rounded_down():
    for asked, taken in ((1, 1), (2, 1), (9, 3), (100, 100), (128, 100), (500, 300)):
        assert english_search(beam_width=asked).beam_width == taken


@settings(max_examples=60, deadline=None, derandomize=True)
@given(LOGITS)
def test_times_increase_and_lie_within_the_audio(logits):
    for searches in searches_by_width():
        for search in searches[:4]:
            for one in search.decode(logits, n_best=5):
                assert one.text == " ".join(word.text for word in one.words)
                before = 0
                for word in one.words:
                    assert word.text == "".join(character.text for character in word.characters)
                    assert (word.start_frame, word.end_frame) == (
                        word.characters[0].start_frame,
                        word.characters[-1].end_frame,
                    )
                    assert word.start_seconds == pytest.approx(0.02 * word.start_frame)
                    assert word.end_seconds == pytest.approx(0.02 * word.end_frame)
                    assert 0 <= word.confidence <= 1
                    for character in word.characters:
                        assert before <= character.start_frame < character.end_frame <= len(logits)
                        before = character.end_frame


def test_times_are_those_of_the_frames_that_emit_the_symbols():
    best = english_search(small_model()).decode(spelled_logits("__aa_b__|_bb_|", ENGLISH))[0]
    assert [(word.text, word.start_frame, word.end_frame) for word in best.words] == [("ab", 2, 6), ("b", 10, 12)]
    assert [(c.text, c.start_frame, c.end_frame) for c in best.words[0].characters] == [("a", 2, 4), ("b", 5, 6)]


def test_an_ambiguous_word_has_less_confidence():
    logits = spelled_logits("_sure_|_maybe_", ENGLISH)
    logits[8, ENGLISH.index("k")] = 9.5  # "kaybe" is nearly as likely.
    sure, maybe = english_search().decode(logits)[0].words
    assert sure.confidence > 0.99
    assert 0.85 < maybe.confidence < 0.95


@pytest.mark.parametrize("model", [None, small_model])
def test_decoding_in_chunks_equals_decoding_at_once(model):
    logits = random_logits(0, 700, len(ENGLISH), sharpness=2.0)
    search = english_search(model and model(), hotwords={"a": 1.0})
    whole = search.decode(logits, n_best=100)
    state, first = search.start(), 0
    for size in itertools.cycle([1, 7, 0, 40]):
        state = search.advance(state, logits[first : first + size])
        search.finish(state)  # A result in between; it does not change the state.
        first += size
        if first >= len(logits):
            break
    assert state.num_frames == 700
    assert search.finish(state, n_best=100) == whole


def test_freeing_unused_prefixes_changes_nothing(monkeypatch):
    logits = random_logits(0, 400, len(ENGLISH), sharpness=2.0)
    search = english_search(small_model(), hotwords={"a": 1.0})
    monkeypatch.setattr("finetune.decoding.beam._FIRST_NODES", 2**17)
    roomy = search.advance(search.start(), logits)
    monkeypatch.setattr("finetune.decoding.beam._FIRST_NODES", 1)
    state = search.advance(search.start(), logits)
    assert search.finish(state, n_best=100) == search.finish(roomy, n_best=100)
    assert len(state.tree.nodes) < roomy.tree.nodes["parent"].argmax() / 2


def test_a_word_of_the_language_model_wins_over_a_likelier_spelling():
    logits = spelled_logits("_cad_|_b_", ENGLISH)
    logits[3, ENGLISH.index("t")] = 9.0
    model = bigram_model("cat", "b")
    assert english_search().decode(logits)[0].text == "cad b"
    assert english_search(model).decode(logits)[0].text == "cat b"
    # Unknown words are still possible where the acoustic score outweighs the penalty.
    logits[3, ENGLISH.index("t")] = -5.0
    assert english_search(model, token_min_logp=-20).decode(logits)[0].text == "cad b"
    strict = Weights(unk_score_offset=-30)
    assert english_search(model, token_min_logp=-20, weights=strict).decode(logits)[0].text != "cad b"


def test_the_beginning_of_an_unknown_word_has_the_penalty_of_the_word():
    search = english_search(bigram_model("cat"), weights=Weights(0.0, 0.0, -7.0, score_boundary=False))
    for text, cost in {"ca": -7.0, "cat": 0.0, "cats": -7.0, "x|cat": -7.0, "xylophones": -7.0 * 10 / 6}.items():
        state = search.advance(search.start(), spelled_logits(text, ENGLISH, sharpness=30.0))
        best = search.finish(state)[0]
        assert (best.text, best.lm_score) == (text.replace("|", " "), pytest.approx(cost))
        # "ca" is the beginning of a word, so there is no penalty before it ends.
        widest = state.prefixes()[0]
        assert widest["score"].max() - widest["total"].max() == pytest.approx(0 if text == "ca" else cost)


def test_a_hotword_is_found_without_being_in_the_language_model():
    logits = spelled_logits("_nyu_|_yolk_|_is_|_big_", ENGLISH)
    for frame, letter in ((2, "e"), (3, "w"), (9, "r")):
        logits[frame, ENGLISH.index(letter)] = 9.0
    model = bigram_model("is", "big", "yolk")
    assert english_search().decode(logits)[0].text == "nyu yolk is big"
    assert english_search(hotwords={"new york": 4.0}).decode(logits)[0].text == "new york is big"
    assert english_search(model, hotwords={"new york": 4.0}).decode(logits)[0].text == "new york is big"
    assert english_search(hotwords={"new yorker": 4.0}).decode(logits)[0].text == "nyu yolk is big"
    plain = english_search(model)
    assert plain.adjust(hotwords={"new york": 4.0}).decode(logits)[0].text == "new york is big"
    assert plain.decode(logits)[0].text == "nyu yolk is big"


def test_the_beginning_of_a_hotword_is_kept_in_a_narrow_beam():
    # A beam of one: without the boost of the partial match "ca" would be dropped before "t".
    logits = spelled_logits("_ced_", ENGLISH)
    logits[2, ENGLISH.index("a")] = logits[3, ENGLISH.index("t")] = 9.5
    assert english_search(beam_width=1, hotwords={"cat": 6.0}).decode(logits)[0].text == "cat"


def test_the_beginning_of_a_hotword_has_no_unknown_word_penalty():
    # A beam of one: with the unknown-word penalty no letter would be likelier than the blank.
    search = english_search(bigram_model("cat"), beam_width=1)
    logits = spelled_logits("_xyz_", ENGLISH, sharpness=8.0)
    assert search.decode(logits)[0].text == ""
    assert search.adjust(hotwords={"xyz": 0.1}).decode(logits)[0].text == "xyz"


def test_without_a_word_delimiter_a_text_is_one_word_and_hotwords_are_found_inside():
    symbols = ("_", "一", "二", "三")
    logits = spelled_logits("一_二_三", symbols)
    logits[2, 3] = 9.0
    search = BeamSearch(symbols, blank_id=0, delimiter_id=None)
    assert [word.text for word in search.decode(logits)[0].words] == ["一二三"]
    best = search.adjust(hotwords={"三三": 2.0}).decode(logits)[0]
    assert (best.text, best.lm_score) == ("一三三", 2.0)
    with pytest.raises(UserError, match="has none"):
        BeamSearch(symbols, blank_id=0, delimiter_id=None, language_model=small_model())


def test_a_batch_in_threads_equals_single_utterances():
    logits = np.stack([random_logits(seed, 80, len(ENGLISH)) for seed in range(9)])
    num_frames = [80, 0, 1, 30, 80, 79, 2, 80, 50]
    search = english_search(small_model(), beam_width=20)
    alone = [search.decode(one[:frames], n_best=3) for one, frames in zip(logits, num_frames, strict=True)]
    for threads in (1, 4):
        assert search.decode_batch(logits, num_frames, n_best=3, threads=threads) == alone
    assert search.decode_batch(torch.from_numpy(logits).double(), num_frames, n_best=3) == alone
    assert alone[1][0].text == "" and alone[1][0].words == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = np.zeros((2, 5, len(ENGLISH)), np.float32)
    logits[1, 3, 7] = bad
    search = english_search()
    with pytest.raises(UserError, match=r"Utterance 2 of 2 .* frame 3 "):
        search.decode_batch(logits, [5, 5])
    with pytest.raises(UserError, match=r"^tale .* frame 3 "):
        search.decode_batch(logits, [5, 5], names=["head", "tale"])
    assert len(search.decode_batch(logits, [5, 3])) == 2  # The rest is padding.
    with pytest.raises(UserError, match="frame 5 "):
        search.advance(search.advance(search.start(), logits[0]), np.full((1, len(ENGLISH)), bad))


def test_hotwords_that_cannot_be_written_are_refused():
    with pytest.raises(UserError, match="'Zoë' has characters that the model can't write: 'Z', 'ë'"):
        english_search(hotwords={"Zoë": 5.0})
    for hotwords in ({" ": 1.0}, {"a": math.nan}):
        with pytest.raises(UserError, match="expected a word and a finite number"):
            english_search(hotwords=hotwords)


def test_a_language_model_of_another_alphabet_is_refused():
    upper = [first + second for first in string.ascii_uppercase for second in "AB"]
    with pytest.raises(UserError, match=r"1 of its 53 words .* its words fit in lower case"):
        english_search(bigram_model("'", *upper))
    with pytest.raises(UserError, match=r"0 of its 2 words .* 'д'.*normalised"):
        english_search(bigram_model("да", "дом"))


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_width": 0},
        {"beam_prune_logp": 1.0},
        {"token_min_logp": math.nan},
        {"weights": Weights(alpha=-1.0)},
        {"weights": Weights(unk_score_offset=1.0)},
        {"weights": Weights(beta=math.inf)},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match="expected"):
        english_search(**settings)


def test_logits_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="needs"):
        english_search().decode(np.zeros((5, 7)))


def test_numba_is_imported_only_when_a_search_is_built():
    code = "import sys, finetune.decoding.beam; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
