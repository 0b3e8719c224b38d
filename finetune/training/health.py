"""The health of a run from its history: a verdict in words, and what to do."""

import math
from collections.abc import Mapping, Sequence

Line = Mapping[str, float]

# These constants were set on about thirty runs of 300 to 12,000 steps, most of them healthy.
# Every model below this CER had learned some letters.
_LEARNED_CER = 0.7
# Good runs predicted only blanks for up to so many steps, even short runs.
_PLATEAU_STEPS = 300
# In how many evaluations in a row the WER must be above the best WER, and by how much: a tenth of it plus half a point.
_WORSE_EVALUATIONS, _WORSE_SHARE, _WORSE_WER = 3, 0.1, 0.005


def judge_run(history: Sequence[Line], max_steps: int, non_finite: int = 0, utterances: int = 0) -> str:
    """The verdict on a run at its last validation, and what to do if something is wrong.

    `history` holds the lines of metrics.jsonl, with a validation among them. `non_finite` of the `utterances` that
    training has read had a loss that is not finite.

    CTC first learns to predict blanks only, and WER stays at 1 until letters appear within a few steps (the "peaky"
    behaviour of Zeyer et al. 2021, "Why does CTC result in peaky behavior?").
    """
    verdict = _judge(history, max_steps)
    if non_finite:
        verdict += f"; loss is not finite in {non_finite:,} of {utterances:,} utterances: see rejected.csv"
    return verdict


def _judge(history: Sequence[Line], max_steps: int) -> str:
    evaluations = [line for line in history if "validation_wer" in line]
    now, step = evaluations[-1], evaluations[-1]["step"]
    best = min(evaluations, key=lambda line: (line["validation_wer"], line["validation_cer"]))
    learned = min(line["validation_cer"] for line in evaluations) < _LEARNED_CER
    kept = f"WER was {100 * best['validation_wer']:.1f} % at step {best['step']:,}, whose weights are kept"

    since = evaluations[-2]["step"] if len(evaluations) > 1 else 0
    if any(line.get("skipped_steps") for line in history if line["step"] > since) and not _losses(history, since, step):
        return (
            f"no step since step {since:,} has changed the model, as no gradient was finite: "
            "lower training.learning_rate, or train without mixed_precision: fp16"
        )
    if _is_all_wrong(now):
        silent = now["blank_ratio"] > 0.9
        collapsed = (
            f"collapsed to {'blank' if silent else 'a few letters'}: lower training.learning_rate or unfreeze "
            "(model.freeze_feature_encoder=false)"
        )
        losses = _losses(history, 0, step)
        if learned:
            return f"{collapsed}; {kept}"
        if losses and max(losses) > 2 * losses[0]:
            return f"{collapsed}; the loss rose to {max(losses) / losses[0]:.0f} times what it began with"
        if step > max(max_steps / 3, _PLATEAU_STEPS):
            return (
                f"{collapsed}; if the loss still falls, slowly, raise training.learning_rate or training.max_steps "
                "instead"
            )
        if not silent:
            return "the model predicts wrong letters, as is normal in the first steps: wait"
        if step > max_steps / 3:
            return "normal CTC plateau, but it lasts hundreds of steps and this run is short: raise training.max_steps"
        return "normal CTC plateau: wait, letters come after some hundreds of steps"
    if learned and _is_worse(evaluations, best):
        after = evaluations[evaluations.index(best) + 1]["step"]
        if _mean(_losses(history, since, step)) < _mean(_losses(history, best["step"], after)):
            return (
                f"validation is getting worse while the training loss falls ({kept}): stop here, or raise "
                "model.dropout, training.mask_time_probability or augmentation"
            )
        return f"validation is getting worse, and so is the training loss ({kept}): lower training.learning_rate"
    return f"learning ({kept})" if best["validation_wer"] < now["validation_wer"] else "learning"


def _is_all_wrong(evaluation: Line) -> bool:
    """Whether letters are right only by chance, or nearly all frames are the most frequent letter."""
    wer, cer, blank_ratio = (evaluation[key] for key in ("validation_wer", "validation_cer", "blank_ratio"))
    return wer > 0.95 and (cer > 0.95 or (cer > _LEARNED_CER and blank_ratio < 0.2))


def _is_worse(evaluations: Sequence[Line], best: Line) -> bool:
    """Whether the last evaluations are worse than the best one by more than evaluations differ by chance."""
    bound = best["validation_wer"] * (1 + _WORSE_SHARE) + _WORSE_WER
    return len(evaluations) > _WORSE_EVALUATIONS and all(
        line["validation_wer"] > bound and line["validation_cer"] > best["validation_cer"]
        for line in evaluations[-_WORSE_EVALUATIONS:]
    )


def _losses(history: Sequence[Line], after: float, until: float) -> list[float]:
    lines = [line for line in history if "loss" in line and after < line["step"] <= until]
    return [line["loss"] for line in lines if math.isfinite(line["loss"])]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.inf
