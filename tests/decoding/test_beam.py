"""The beam search: what an exhaustive search finds, whatever the width; times, hotwords, chunks, threads, bad input."""

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


def search_exhaustively(logits, model=None, weights=None):
    """Each text's scores and best alignment, from all paths through the toy alphabet."""
    log_probs = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    found = {}
    for path in itertools.product(range(len(TOY)), repeat=len(logits)):
        probability = sum(log_probs[frame, symbol] for frame, symbol in enumerate(path))
        text = " ".join("".join(TOY[s] for s, _ in itertools.groupby(path) if s != 0).replace("|", " ").split())
        mass, best, _ = found.get(text, (-math.inf, -math.inf, None))
        better = (probability, path) if probability > best else (best, found.get(text, (0, 0, None))[2])
        found[text] = (np.logaddexp(mass, probability), *better)
    scored = {}
    for text, (mass, _, path) in found.items():
        added, words = 0.0, text.split()
        if model is not None:
            log_prob = sum(model.score(words, bos=weights.score_boundary, eos=weights.score_boundary))
            unknown = sum(word not in model.word_ids for word in words)
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
