"""Each check of the gate refuses alone."""

from dataclasses import replace

import numpy as np
import pytest

from finetune.evaluation.comparison import compare
from finetune.evaluation.intervals import Interval
from finetune.evaluation.results import Result
from finetune.run.gate import (
    GateLimits,
    ModelSize,
    Speeds,
    WerChange,
    check_golden,
    check_parity,
    check_size,
    check_snapshot,
    check_speed,
    check_texts,
    measure_change,
    measure_domains,
)

LIMITS = GateLimits()
CHANGE = WerChange("golden", 50, 0.2, Interval(0.1, 0.3), 0.1, Interval(0.05, 0.2), -0.1, Interval(-0.2, -0.02), 0.01)


def result(name, hypothesis, domain="phone", speaker=None):
    return Result(name, "one two", hypothesis, "one two", 1.0, speaker, columns={"domain": domain})


@pytest.mark.parametrize(("high", "passed"), [(-0.01, True), (0.01, True), (0.011, False)])
def test_the_golden_set_may_be_worse_by_the_margin(high, passed):
    assert check_golden(replace(CHANGE, interval=Interval(-0.05, high)), LIMITS).passed is passed


@pytest.mark.parametrize(("high", "passed"), [(-0.001, True), (0.0, False), (0.01, False)])
def test_the_corrections_must_be_better(high, passed):
    assert check_snapshot(replace(CHANGE, interval=Interval(-0.3, high)), LIMITS).passed is passed


def test_the_corrections_are_better_as_compare_says_it_and_the_golden_set_needs_no_difference():
    """Of five utterances that differ all are better by chance once in 16 times; no interval knows that."""
    before = [result(str(i), "one" if i < 5 else "one two", speaker=f"s{i % 4}") for i in range(20)]
    after = [replace(each, hypothesis="one two") for each in before]
    change, compared = measure_change("corrections", before, after), compare(before, after).overall
    assert change.interval.high < 0 and compared.excludes_zero and not compared.is_significant
    check = check_snapshot(change, LIMITS)
    assert not check.passed and "p = 0.062" in check.found and "certain" not in check.found
    assert check_golden(change, LIMITS).passed
    assert check_snapshot(replace(change, p_value=0.04), LIMITS).passed
    assert not check_snapshot(measure_change("corrections", after, before), LIMITS).passed


def test_a_change_that_was_measured_without_a_p_value_can_be_read():
    values = CHANGE.to_json()
    del values["p_value"]
    assert WerChange.parse(values) == replace(CHANGE, p_value=None)


def test_an_uncertain_improvement_says_how_many_utterances_it_needs():
    uncertain = replace(CHANGE, utterances=120, difference=-0.04, interval=Interval(-0.08, 0.02))
    found = check_snapshot(uncertain, LIMITS).found
    # The upper half of the interval is 6 points wide, and has to be 4: (6 / 4)² times as many.
    assert found.endswith("; with some 270 utterances, of as many more speakers, such a difference would be certain")
    for other in (replace(uncertain, difference=0.01), replace(uncertain, interval=Interval(-0.08, -0.01))):
        assert "certain" not in check_snapshot(other, LIMITS).found


@pytest.mark.parametrize("check", [check_golden, check_snapshot])
def test_too_few_utterances_are_a_refusal_that_says_so(check):
    few = check(replace(CHANGE, utterances=19), LIMITS)
    assert not few.passed
    assert few.found == "too few utterances: 19 utterances, expected at least 20"
    assert not check(replace(CHANGE, interval=None), LIMITS).passed
    assert check(replace(CHANGE, utterances=20), LIMITS).passed


def test_texts_of_other_recordings_are_refused_though_the_model_knows_which_words_are_frequent():
    rng = np.random.default_rng(0)
    spoken = [" ".join(rng.choice(["one", "two", "three", "four"], size=4)) for _ in range(40)]

    def judge(references, hypotheses):
        named = enumerate(zip(references, hypotheses, strict=True))
        return check_texts([replace(result(str(n), heard), reference=text) for n, (text, heard) in named])

    assert judge(spoken, spoken).passed
    half = [text[: len(text) // 2] for text in spoken]
    assert judge(spoken, half).passed
    assert not judge([spoken[place] for place in rng.permutation(40)], spoken).passed
    assert not judge(spoken, ["two"] * 40).passed
    assert judge(["yes"] * 40, ["yes"] * 40).passed  # There is nothing to shuffle.
    assert not judge([], []).passed


def test_another_text_of_transformers_is_refused():
    assert check_parity(None, 5).passed
    assert check_parity("other texts", 5).found == "other texts"
    assert not check_parity("other texts", 5).passed


def test_other_shapes_and_another_size_of_the_file_are_refused():
    size = ModelSize({"a": (2, 3)}, 1000)
    assert check_size(size, ModelSize({"a": (2, 3)}, 1010), LIMITS).passed
    assert not check_size(size, ModelSize({"a": (2, 3)}, 1011), LIMITS).passed
    assert not check_size(size, ModelSize({"a": (2, 3)}, 989), LIMITS).passed
    other = check_size(size, ModelSize({"a": (3, 2)}, 1000), LIMITS)
    assert not other.passed
    assert other.found.endswith("another shape of a")


def test_a_slower_model_is_refused():
    assert check_speed(Speeds(1.0, 1.15), LIMITS).passed
    assert not check_speed(Speeds(1.0, 1.16), LIMITS).passed


def test_changes_are_paired_and_by_domain():
    before = [result("a", "one"), result("b", "two", "desk"), result("c", "one")]
    after = [result("a", "one two"), result("b", "two", "desk"), result("c", "one two")]
    change = measure_change("all", before, after)
    assert (change.before, change.after, change.difference) == (0.5, pytest.approx(1 / 6), pytest.approx(-1 / 3))
    desk, phone = measure_domains(before, after)
    assert (desk.name, desk.utterances, desk.difference) == ("desk", 1, 0.0)
    assert (phone.name, phone.utterances, phone.difference) == ("phone", 2, -0.5)
    assert WerChange.parse(phone.to_json()) == phone
    assert measure_change("none", [], []).before is None
