"""The best weights of a run so far, by their WER on the validation split and then their CER."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from finetune.evaluation.scores import Scores
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

    def add(self, scores: Scores, step: int) -> bool:
        """Add the scores of a step; returns whether its weights are among the best. Of equal scores the first wins."""
        mine = Best(*rank(scores), step)
        self.best = sorted([*self.best, mine], key=lambda best: (best.wer, best.cer))[: self._keep]
        return mine in self.best

    def save(self, step: int, model: nn.Module) -> None:
        """Write the weights of a step that is among the best."""
        save_model(self.find_file(step), model)
        self._digests[name_best(step)] = measure_digest(self.find_file(step))

    def restore(self, checkpoint: Path, best: Sequence[Sequence[float]]) -> None:
        """Restore the list `best` that a checkpoint holds, without weights whose file is missing."""
        found = [Best(wer, cer, int(step)) for wer, cer, step in best]
        self._digests = read_digests(checkpoint, [name_best(each.step) for each in found])
        self.best = [each for each in found if name_best(each.step) in self._digests]

    def list_digests(self) -> dict[str, str]:
        """The digest of each kept file, by `name_best`."""
        return {name: self._digests[name] for name in (name_best(each.step) for each in self.best)}

    def find_file(self, step: int) -> Path:
        """The file of the weights of a step, while they are among the best."""
        return self.folder / name_best(step)

    def is_stale(self, step: int, patience_steps: int | None) -> bool:
        """Whether the best weights are `patience_steps` or more steps old; False without a patience."""
        return patience_steps is not None and bool(self.best) and step - self.best[0].step >= patience_steps


def rank(scores: Scores) -> tuple[float, float]:
    """WER, then CER; a missing score counts as 1."""
    return (1.0 if scores.wer is None else scores.wer, 1.0 if scores.cer is None else scores.cer)
