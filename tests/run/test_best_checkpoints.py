"""The best weights of a run, and the statistics of the validation split with them."""

import json
from pathlib import Path

from torch import nn

from finetune.evaluation.scores import Scores, count_errors
from finetune.inference.utterance_statistics import Distribution, UtteranceStatistics
from finetune.run.best_checkpoints import BestCheckpoints


def _measure(confidence: float) -> UtteranceStatistics:
    return UtteranceStatistics(Distribution.measure([confidence]), Distribution.measure([0.5]))


def _score(hypothesis: str) -> Scores:
    return Scores.from_counts(count_errors(["a b c d"], [hypothesis]), 1.0)


def test_statistics_are_kept_with_the_weights_and_restored(tmp_path: Path) -> None:
    best = BestCheckpoints(tmp_path, keep=2)
    for step, hypothesis in ((1, "x"), (2, "a b c"), (3, "a b"), (4, "")):
        if best.add(_score(hypothesis), step, _measure(step / 10)):
            best.save(step, nn.Linear(1, 1))
    assert [each.step for each in best.best] == [2, 3]
    assert [best.find_statistics(step) for step in (1, 2, 3, 4)] == [None, _measure(0.2), _measure(0.3), None]
    described = json.loads(json.dumps(best.describe_statistics()))
    (tmp_path / "step-000004").mkdir()
    restored = BestCheckpoints(tmp_path, keep=2)
    restored.restore(tmp_path / "step-000004", best.best, described)
    assert restored.best == best.best and restored.find_statistics(2) == _measure(0.2)


def test_checkpoints_of_earlier_versions_have_no_statistics(tmp_path: Path) -> None:
    best = BestCheckpoints(tmp_path, keep=1)
    best.save(2, nn.Linear(1, 1))
    (tmp_path / "step-000002").mkdir()
    best.restore(tmp_path / "step-000002", [[0.5, 0.2, 2]], {})
    assert [each.step for each in best.best] == [2] and best.find_statistics(2) is None
    assert not best.add(_score(""), 3, _measure(0.3)) and best.describe_statistics() == {}
