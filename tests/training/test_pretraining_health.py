"""The verdict on pre-training says in words what is wrong, and what to do."""

import pytest

from finetune.training.pretraining_health import Codes, judge_pretraining

CODES = Codes(640, 100)


def validation(step, loss=3.0, accuracy=0.4, perplexity=200.0, frames=5000.0):
    names = ("loss", "contrastive_accuracy", "codebook_perplexity", "masked_frames")
    values = (loss, accuracy, perplexity, frames)
    return {"step": step, **{f"validation_{name}": value for name, value in zip(names, values, strict=True)}}


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([validation(500)], "learning"),
        (
            [validation(500, perplexity=4)],
            "codebook perplexity fell to 4 of 640: the codes have collapsed; raise pretr",
        ),
        ([validation(500, perplexity=4, accuracy=1.0, loss=0.0)], "have collapsed"),
        ([validation(100, accuracy=0.012)], "as is normal in the first steps"),
        ([validation(900, accuracy=0.012)], "contrastive accuracy is 1.2 %, and that of a guess 1.0 %: raise"),
        ([validation(step, loss) for step, loss in ((1, 3.0), (2, 3.3), (3, 3.4), (4, 3.5))], "since step 1: give"),
        ([validation(step, loss) for step, loss in ((1, 3.0), (2, 3.3), (3, 3.1), (4, 3.5))], "learning"),
        ([validation(1), {"step": 2, "skipped_steps": 1}, validation(3)], "no step since step 1 has changed"),
        ([validation(1), {"step": 2, "skipped_steps": 1, "loss": 3.0}, validation(3)], "learning"),
    ],
)
def test_verdicts(history, words):
    assert words in judge_pretraining(history, 1000, CODES)


def test_few_frames_cannot_use_many_codes():
    assert judge_pretraining([validation(500, perplexity=20, frames=90)], 1000, CODES) == "learning"
    assert CODES.find_collapse(31.9) and not CODES.find_collapse(32)
