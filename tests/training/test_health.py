"""The verdict on the state of a run, with what to do about it."""

import math

import pytest

from finetune.training.health import judge_run

SILENT = (1.0, 1.0, 1.0)
DELIMITERS_ALONE = (1.0, 1.0, 0.95)
ONE_LETTER = (1.0, 0.9, 0.0)
KNOWS_LETTERS = (1.0, 0.6, 0.8)
GOOD, BETTER = (0.3, 0.1, 0.7), (0.2, 0.07, 0.7)
LOWER = "lower training.learning_rate or unfreeze (model.freeze_feature_encoder=false)"
WAIT = "normal CTC plateau: wait"


def history(*evaluations, losses=(3.0,), every=100):
    """The lines of a run with `evaluations` (WER, CER, blank ratio) each `every` steps; its last loss goes on."""
    lines = []
    for i, (wer, cer, blank_ratio) in enumerate(evaluations):
        step = every * (i + 1)
        loss = losses[min(i, len(losses) - 1)]
        training = {"learning_rate": 1e-3, "padding": 0.1}
        training |= {"skipped_steps": every} if loss is None else {"loss": loss, "gradient_norm": 1.0}
        lines.append({"step": step, **training})
        lines.append({"step": step, "validation_wer": wer, "validation_cer": cer, "blank_ratio": blank_ratio})
    return lines


@pytest.mark.parametrize("silent", [SILENT, DELIMITERS_ALONE, (0.96, 0.97, 0.99)])
def test_blanks_in_the_first_third_are_the_normal_plateau(silent):
    assert judge_run(history(*[silent] * 3, losses=(9.0, 3.1, 3.0)), max_steps=1000).startswith(WAIT)


def test_blanks_for_longer_are_a_collapse():
    words = judge_run(history(*[SILENT] * 4), max_steps=1000)
    assert words.startswith(f"collapsed to blank: {LOWER}")
    assert words.endswith("if the loss still falls, slowly, raise training.learning_rate or training.max_steps instead")


def test_blanks_in_a_short_run_may_be_the_plateau():
    words = judge_run(history(*[SILENT] * 3), max_steps=300)
    assert words.startswith("normal CTC plateau")
    assert "raise training.max_steps" in words


@pytest.mark.parametrize(("lost", "what"), [(SILENT, "blank"), (ONE_LETTER, "a few letters")])
def test_model_that_has_forgotten_its_letters_is_a_collapse_however_early(lost, what):
    words = judge_run(history(GOOD, lost), max_steps=10_000)
    assert words == f"collapsed to {what}: {LOWER}; WER was 30.0 % at step 100, whose weights are kept"
    assert judge_run(history(KNOWS_LETTERS, lost), max_steps=10_000).startswith(f"collapsed to {what}")


@pytest.mark.parametrize(("lost", "what"), [(SILENT, "blank"), (ONE_LETTER, "a few letters")])
def test_loss_that_has_risen_tells_a_collapse_from_a_beginning(lost, what):
    words = judge_run(history(lost, lost, losses=(5.0, 20.0)), max_steps=10_000)
    assert words == f"collapsed to {what}: {LOWER}; the loss rose to 4 times what it began with"
    assert not judge_run(history(lost, lost, losses=(5.0, 6.0)), max_steps=10_000).startswith("collapsed")


@pytest.mark.parametrize("untrained", [ONE_LETTER, (1.5, 0.9, 0.05), (1.1, 1.2, 0.85)])
def test_wrong_letters_are_usual_in_the_first_steps_alone(untrained):
    assert judge_run(history(untrained), max_steps=1000).endswith("as is normal in the first steps: wait")
    assert judge_run(history(*[untrained] * 4), max_steps=1000).startswith(f"collapsed to a few letters: {LOWER}")


@pytest.mark.parametrize(
    "state",
    [(0.1, 0.05, 0.7), (0.9, 0.8, 0.99), KNOWS_LETTERS, (1.2, 0.6, 0.5), (0.0, 0.0, 0.99), (0.99, 0.9, 0.91)],
    ids=[
        "good",
        "few words in long silence",
        "wrong words",
        "too many words",
        "perfect in long silence",
        "first words",
    ],
)
def test_other_states_are_learning(state):
    assert judge_run(history(*[state] * 9), max_steps=1000) == "learning"


def test_validation_that_gets_worse_while_the_loss_falls_is_overfitting():
    worse = [(0.23, 0.08, 0.7)] * 3
    words = judge_run(history(GOOD, BETTER, *worse, losses=(2.0, 1.0, 0.8, 0.6, 0.4)), max_steps=1000)
    assert words.startswith("validation is getting worse while the training loss falls (WER was 20.0 % at step 200")
    assert "stop here" in words
    words = judge_run(history(GOOD, BETTER, *worse, losses=(2.0, 1.0, 0.8, 0.6, 0.9)), max_steps=1000)
    assert words.startswith("validation is getting worse, and so is the training loss")
    assert words.endswith("lower training.learning_rate")


@pytest.mark.parametrize(
    "after",
    [
        [(0.3, 0.1, 0.7)] * 2,
        [(0.3, 0.1, 0.7), (0.21, 0.08, 0.7), (0.3, 0.1, 0.7)],
        [(0.22, 0.08, 0.7)] * 9,
        [(0.3, 0.07, 0.7)] * 9,
    ],
    ids=["twice", "with better ones between", "by little", "but not in characters"],
)
def test_validation_that_wavers_is_learning(after):
    words = judge_run(history(GOOD, BETTER, *after, losses=(1.0,)), max_steps=2000)
    assert words == "learning (WER was 20.0 % at step 200, whose weights are kept)"


def test_steps_that_change_nothing_are_in_the_verdict():
    words = judge_run(history(GOOD, GOOD, losses=(1.0, None)), max_steps=1000)
    assert words.startswith("no step since step 100 has changed the model")
    assert "lower training.learning_rate" in words
    some = history(GOOD, GOOD)
    some[2]["skipped_steps"] = 3  # As fp16's scaler does now and then.
    assert judge_run(some, max_steps=1000) == "learning"


def test_utterances_whose_loss_is_not_finite_are_counted():
    words = judge_run(history(GOOD), max_steps=1000, non_finite=3, utterances=1200)
    assert words == "learning; loss is not finite in 3 of 1,200 utterances: see rejected.csv"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_losses_that_are_not_finite_or_missing_are_ignored(loss):
    lines = history(SILENT, SILENT, losses=(3.0, loss))
    assert judge_run(lines, max_steps=1000).startswith(WAIT)
    assert judge_run([line for line in lines if "loss" not in line], max_steps=1000).startswith(WAIT)
