"""Average a candidate's weights with its champion's, and choose the candidate's share on validation alone.

The average of a model before and after fine-tuning keeps most of what fine-tuning gained and loses less of what the
model knew (WiSE-FT, Wortsman et al. 2021, arXiv 2109.01903; for speech recognition arXiv 2210.15282).
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from finetune.errors import UserError
from finetune.evaluation.comparison import compare
from finetune.evaluation.results import Result, add_up, count_results
from finetune.models.vocabulary import load_base_vocabulary
from finetune.training.checkpoints import save_weights

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ShareScores:
    """Validation WERs of an average with a `share` of the candidate, fractions: of the old data and of the snapshot.

    `old_rise` is the upper end of the 95 % interval of the old WER's difference from the champion's, or the difference
    itself where there is no interval.
    """

    share: float
    old_wer: float
    snapshot_wer: float
    old_rise: float


def average_weights(
    champion: Mapping[str, torch.Tensor], candidate: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """(1 - share) × champion + share × candidate in float32; what is not floating point is the candidate's.

    Raises UserError unless both have the same names and shapes.
    """
    if champion.keys() != candidate.keys():
        name = min(champion.keys() ^ candidate.keys())
        raise UserError(f"The weights of the champion and the candidate differ: only one of them has {name}.")
    averaged = {}
    for name, before in champion.items():
        after = candidate[name]
        if before.shape != after.shape:
            raise UserError(
                f"The weights {name} of the champion and the candidate differ in shape: found {tuple(before.shape)} "
                f"and {tuple(after.shape)}."
            )
        averaged[name] = torch.lerp(before.float(), after.float(), share) if after.is_floating_point() else after
    return averaged


def write_average(champion: Path, candidate: Path, share: float, folder: Path) -> None:
    """Write into an empty folder the candidate's model with averaged weights.

    Raises UserError where the two models differ in alphabet, names or shapes, or cannot be read.
    """
    vocabularies = [load_base_vocabulary(str(model), None, None) for model in (champion, candidate)]
    if vocabularies[0] != vocabularies[1]:
        raise UserError(f"{champion} and {candidate} have different alphabets, so their heads can't be averaged.")
    averaged = average_weights(read_weights(champion), read_weights(candidate), share)
    shutil.copytree(candidate, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
    save_weights(folder / WEIGHTS, averaged)


def score_shares(
    shares: Sequence[float], recognise: Callable[[float], tuple[Sequence[Result], Sequence[Result]]]
) -> list[ShareScores]:
    """The validation scores of the champion, which has the share 0, and of each share.

    `recognise` gives a share's results on the old data and on the snapshot. Raises UserError for validation splits
    without words.
    """
    scored: list[ShareScores] = []
    champion: Sequence[Result] = ()
    for share in [0.0, *sorted(shares)]:
        old, new = recognise(share)
        champion = champion or old
        change = compare(champion, old).overall
        snapshot_wer = add_up(new, count_results(new)).wer
        if change.wer_b is None or change.difference is None or snapshot_wer is None:
            raise UserError("A validation split has no words, so no share of the candidate can be chosen on it.")
        rise = change.difference if change.interval is None else change.interval.high
        scored.append(ShareScores(share, change.wer_b, snapshot_wer, rise))
    return scored


def choose_share(scored: Sequence[ShareScores]) -> float:
    """The share with the lowest WER on the snapshot among those whose `old_rise` is not above 0.

    That is more than the gate asks on test data, whose speakers are others: shares that just stayed within the gate's
    margin on validation data were refused by the gate. On few utterances every share may rise; then it is chosen among
    those whose old WER is not above the champion's, and if there are none it has the lowest old WER. Of equal ones it
    is the smallest, which has more of the champion.
    """
    champion = next(each.old_wer for each in scored if each.share == 0)
    shares = [each for each in scored if each.share > 0]
    for kept in (
        [each for each in shares if each.old_rise <= 0],
        [each for each in shares if each.old_wer <= champion],
    ):
        if kept:
            return min(kept, key=lambda each: (each.snapshot_wer, each.share)).share
    return min(shares, key=lambda each: (each.old_wer, each.share)).share


def read_weights(model: Path) -> dict[str, torch.Tensor]:
    """The weights of a model's folder; raises UserError if they cannot be read."""
    try:
        return dict(load_file(model / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{model / WEIGHTS} can't be read: {error}") from error
