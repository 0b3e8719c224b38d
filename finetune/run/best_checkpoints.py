"""The best weights of a run so far, by their WER on the validation split and then their CER."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from finetune.evaluation.scores import Scores
from finetune.inference.utterance_statistics import UtteranceStatistics
from finetune.training.checkpoints import name_best, read_digests, save_model
from finetune.training.manifest import measure_digest


class Best(NamedTuple):
    """The validation error rates of the weights after a step, as fractions."""

    wer: float
    cer: float
    step: int


class BestCheckpoints:
    """The `keep` best weights, best first. Their files are in `folder`; only the main process knows their digests."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep
        self.best: list[Best] = []
        self._digests: dict[str, str] = {}  # by `name_best`
        self._statistics: dict[int, UtteranceStatistics] = {}  # by step

    def add(self, scores: Scores, step: int, statistics: UtteranceStatistics) -> bool:
        """Add the scores of a step, and the statistics of the validation split.

        Returns whether its weights are among the best. Of equal scores the first wins.
        """
        mine = Best(*rank(scores), step)
        self.best = sorted([*self.best, mine], key=lambda best: (best.wer, best.cer))[: self._keep]
        self._statistics[step] = statistics
        kept = {best.step for best in self.best}
        self._statistics = {step: each for step, each in self._statistics.items() if step in kept}
        return mine in self.best

    def save(self, step: int, model: nn.Module) -> None:
        """Write the weights of a step that is among the best."""
        save_model(self.find_file(step), model)
        self._digests[name_best(step)] = measure_digest(self.find_file(step))

    def restore(self, checkpoint: Path, best: Sequence[Sequence[float]], statistics: Mapping[str, Any]) -> None:
        """Restore the list `best` and the result of `describe_statistics` that a checkpoint holds.

        Weights whose file is missing are left out. Earlier versions wrote no statistics.
        """
        found = [Best(wer, cer, int(step)) for wer, cer, step in best]
        self._digests = read_digests(checkpoint, [name_best(each.step) for each in found])
        self.best = [each for each in found if name_best(each.step) in self._digests]
        self._statistics = {int(step): UtteranceStatistics.parse(values) for step, values in statistics.items()}

    def list_digests(self) -> dict[str, str]:
        """The digest of each kept file, by `name_best`."""
        return {name: self._digests[name] for name in (name_best(each.step) for each in self.best)}

    def describe_statistics(self) -> dict[str, Any]:
        """The statistics of the best weights as JSON, by the step."""
        return {str(step): statistics.to_json() for step, statistics in self._statistics.items()}

    def find_statistics(self, step: int) -> UtteranceStatistics | None:
        """The statistics of the validation split with the weights of a step, while they are among the best.

        None if an earlier version of this package evaluated them.
        """
        return self._statistics.get(step)

    def find_file(self, step: int) -> Path:
        """The file of the weights of a step, while they are among the best."""
        return self.folder / name_best(step)

    def is_stale(self, step: int, patience_steps: int | None) -> bool:
        """Whether the best weights are `patience_steps` or more steps old; False without a patience."""
        return patience_steps is not None and bool(self.best) and step - self.best[0].step >= patience_steps


def rank(scores: Scores) -> tuple[float, float]:
    """WER, then CER; a missing score counts as 1."""
    return (1.0 if scores.wer is None else scores.wer, 1.0 if scores.cer is None else scores.cer)
