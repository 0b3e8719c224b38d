"""Slices: each utterance is in one slice of each property, ranges have units, counts add up."""

import numpy as np
import pytest

from finetune.evaluation import slices
from finetune.evaluation.results import Result, count_results
from finetune.evaluation.scores import Scores
from finetune.evaluation.slices import partition, score_slices


def make(name, **values):
    given = {"reference": "a b", "hypothesis": "a", "raw_reference": "", "seconds": 1.0, "speaker": None}
    return Result(name, **{**given, **values})


def test_columns_have_a_slice_for_each_value_and_one_for_none():
    results = [
        make("1", speaker="x", source="here", columns={"accent": "Scots"}),
        make("2", speaker="y", source="here", columns={"accent": "Welsh"}),
        make("3", speaker="y", source="there"),
    ]
    assert partition(results) == {
        "speaker": {"y": [1, 2], "x": [0]},
        "source": {"here": [0, 1], "there": [2]},
        "accent": {"Scots": [0], "Welsh": [1], "unknown": [2]},
    }


def test_seconds_and_noise_have_fixed_boundaries():
    results = [make(str(i), seconds=s, snr_db=d) for i, (s, d) in enumerate([(1.9, 30.0), (2.0, -1.0), (40, None)])]
    found = partition(results)
    assert found["seconds"] == {"under 2 s": [0], "2 to 5 s": [1], "20 s or more": [2]}
    assert found["snr_db"] == {"under 0 dB": [1], "30 dB or more": [0], "unknown": [2]}


def test_speaking_rate_has_its_quartiles_as_boundaries():
    results = [make(str(n), reference="ab " * n, seconds=2.0) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert partition(results)["characters_per_second"] == {
        "under 3 characters/s": [0, 1],
        "3 to 5 characters/s": [2, 3],
        "5 to 7 characters/s": [4, 5],
        "7 characters/s or more": [6, 7, 8],
    }


def test_unseen_words_are_a_property_if_the_training_words_are_known():
    results = [make("1", unseen_words=0), make("2", unseen_words=2), make("3", unseen_words=0)]
    found = {"all words seen in training": [0, 2], "words unseen in training": [1]}
    assert partition(results) == {"unseen_words": found}
    assert partition([make("1"), make("2")]) == {}


def test_a_column_with_the_name_of_a_property_is_kept():
    results = [make("1", speaker="x", columns={"speaker": "1"}), make("2", speaker="y", columns={"speaker": "2"})]
    assert partition(results) == {"speaker": {"x": [0], "y": [1]}, "column speaker": {"1": [0], "2": [1]}}


def test_rare_values_are_one_slice(monkeypatch):
    monkeypatch.setattr(slices, "MOST_VALUES", 3)
    results = [make(str(i), speaker=name) for i, name in enumerate("abbccd")]
    assert partition(results)["speaker"] == {"b": [1, 2], "c": [3, 4], "others": [0, 5]}


def test_every_utterance_is_in_one_slice_of_each_kind():
    rng = np.random.default_rng(0)
    results = [
        make(
            str(i),
            reference=" ".join(["ab"] * int(rng.integers(1, 20))),
            seconds=float(rng.uniform(0, 30)),
            speaker=rng.choice(["x", "y", None]),
            snr_db=float(rng.uniform(-10, 60)),
            unseen_words=int(rng.integers(0, 2)),
            columns={"accent": str(rng.integers(0, 300))},
        )
        for i in range(500)
    ]
    counts = count_results(results)
    whole = Scores.from_counts(counts, 0.0)
    found = score_slices(results, counts)
    assert set(found) == {"speaker", "seconds", "characters_per_second", "snr_db", "unseen_words", "accent"}
    for name, values in partition(results).items():
        assert sorted(row for rows in values.values() for row in rows) == list(range(500)), name
        parts = [each.scores for each in found[name]]
        assert sum(part.utterances for part in parts) == whole.utterances
        assert sum((part.words for part in parts[1:]), parts[0].words) == whole.words
        assert sum(part.audio_seconds for part in parts) == pytest.approx(sum(r.seconds for r in results))


def test_a_speakers_slice_is_resampled_over_utterances():
    results = [make(str(i), speaker="xy"[i % 2]) for i in range(4)]
    [x, _] = score_slices(results, count_results(results))["speaker"]
    assert (x.intervals.resampled, x.intervals.clusters) == ("utterances", 2)
    assert x.to_json()["intervals"]["wer"] == [0.5, 0.5]
    assert x.to_json()["value"] == "x" and x.to_json()["deletions"] == 2
