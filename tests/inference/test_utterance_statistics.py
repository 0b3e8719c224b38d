"""The distributions of confidence and blank ratio in a model's folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inference.utterance_statistics import STATISTICS_FILE, Distribution, UtteranceStatistics
from finetune.publishing.model_files import is_model_file

HALVES = Distribution(7, (0.0,) * 51 + (1.0,) * 50)


def test_quantiles_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).permutation(np.linspace(0.2, 0.8, 601))
    found = Distribution.measure([None, *values.tolist(), None])
    assert found is not None and found.count == 601
    assert found.quantiles == pytest.approx(np.linspace(0.2, 0.8, 101))


def test_one_value_and_none() -> None:
    assert Distribution.measure([0.25]) == Distribution(1, (0.25,) * 101)
    assert Distribution.measure([None, None]) is Distribution.measure([]) is None


def test_quantiles_never_descend_by_rounding() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        found = Distribution.measure((1 - 1e-15 * rng.integers(0, 40, 7)).tolist())
        assert found is not None and list(found.quantiles) == sorted(found.quantiles) and found.quantiles[-1] <= 1


@pytest.mark.parametrize("statistics", [UtteranceStatistics(None, HALVES), UtteranceStatistics(HALVES, HALVES)])
def test_what_is_saved_is_loaded(statistics: UtteranceStatistics, tmp_path: Path) -> None:
    assert UtteranceStatistics.load(tmp_path) is None
    statistics.save(tmp_path)
    assert UtteranceStatistics.load(tmp_path) == statistics
    assert [path.name for path in tmp_path.iterdir()] == [STATISTICS_FILE]


def test_it_is_a_file_of_the_model_that_is_exported_and_published() -> None:
    assert is_model_file(STATISTICS_FILE)


def _damage(**values: Any) -> dict[str, Any]:
    return {"confidence": None, "blank_ratio": {"count": 7, "quantiles": [0.5] * 101, **values}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "expected confidence and blank_ratio"),
        ({**_damage(), "wer": 0.1}, "expected confidence and blank_ratio"),
        ({"confidence": [0.5], "blank_ratio": None}, "expected count and quantiles"),
        (_damage(count=0), "found the count 0"),
        (_damage(count=True), "found the count True"),
        (_damage(count=10**40), "a whole number from 1 to"),
        (_damage(quantiles=0.5), "a list of 101 quantiles"),
        (_damage(quantiles=[0.5] * 100), "a list of 101 quantiles"),
        (_damage(quantiles=[0.5] * 100 + [1.5]), "quantiles from 0 to 1"),
        (_damage(quantiles=[0.5] * 100 + ["1"]), "quantiles from 0 to 1"),
        (_damage(quantiles=[0.5] * 100 + [0.4]), "in ascending order"),
        ([], "expected an object"),
    ],
)
def test_a_damaged_file_is_refused(values: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / STATISTICS_FILE).write_text(json.dumps(values))
    with pytest.raises(UserError, match=said) as refused:
        UtteranceStatistics.load(tmp_path)
    assert STATISTICS_FILE in str(refused.value)
