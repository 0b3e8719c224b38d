"""The health of pre-training from its history: a verdict in words, and what to do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Line = Mapping[str, float]

# Below this share of the codes they have collapsed: on AN4 a run that did had 4 %, and one that learned 36 %.
_COLLAPSED_SHARE = 0.05
# Telling the right frame from the wrong ones so many times as often as by chance is more than luck.
_LEARNED = 3.0
# In how many validations in a row the loss must be above the best one, and by how much.
_WORSE_VALIDATIONS, _WORSE_SHARE = 3, 0.05


@dataclass(frozen=True)
class Codes:
    """The codebook and the comparison: all codes, and the negatives of each frame."""

    entries: int
    num_negatives: int

    @property
    def chance(self) -> float:
        """The contrastive accuracy of a guess."""
        return 1 / (1 + self.num_negatives)

    def find_collapse(self, perplexity: float, frames: float = math.inf) -> str | None:
        """A sentence where few of the codes are in use, None otherwise; so many `frames` can't use more codes."""
        if perplexity >= _COLLAPSED_SHARE * min(self.entries, frames):
            return None
        return (
            f"codebook perplexity fell to {perplexity:.0f} of {self.entries}: the codes have collapsed; raise "
            "pretraining.diversity_weight or lower training.learning_rate"
        )


def judge_pretraining(history: Sequence[Line], max_steps: int, codes: Codes) -> str:
    """The verdict on pre-training at its last validation, and what to do if something is wrong.

    `history` holds the lines of metrics.jsonl, with a validation among them.
    """
    validations = [line for line in history if "validation_loss" in line]
    now, step = validations[-1], validations[-1]["step"]
    since = validations[-2]["step"] if len(validations) > 1 else 0
    recent = [line for line in history if since < line["step"] <= step]
    if any(line.get("skipped_steps") for line in recent) and not any("loss" in line for line in recent):
        return (
            f"no step since step {since:,} has changed the model, as no gradient was finite: lower "
            "training.learning_rate, or train without mixed_precision: fp16"
        )
    collapse = codes.find_collapse(now["validation_codebook_perplexity"], now["validation_masked_frames"])
    if collapse:
        return collapse
    accuracy = now["validation_contrastive_accuracy"]
    if accuracy < _LEARNED * codes.chance:
        if step <= max_steps / 3:
            return "the right frames are not told from others yet, as is normal in the first steps: wait"
        return (
            f"contrastive accuracy is {100 * accuracy:.1f} %, and that of a guess {100 * codes.chance:.1f} %: raise "
            "training.max_steps, training.learning_rate or training.batch_seconds"
        )
    best = min(validations, key=lambda line: line["validation_loss"])
    bound = (1 + _WORSE_SHARE) * best["validation_loss"]
    last = validations[-_WORSE_VALIDATIONS:]
    if len(validations) > _WORSE_VALIDATIONS and all(line["validation_loss"] > bound for line in last):
        return (
            f"validation is getting worse since step {best['step']:,}: give training more speech, fewer steps "
            "(training.max_steps) or a lower training.learning_rate"
        )
    return "learning"
