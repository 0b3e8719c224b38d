"""Runs that learn and runs that collapse get the right verdicts, and leave plots."""

import re

from PIL import Image

from finetune.training.health import judge_run


def verdicts(errors):
    return re.findall(r"^step \d+/\d+: .* CER \S+ %; (.*)$", errors, re.MULTILINE)


def test_healthy_run_has_a_plateau_and_then_learns(learned_run, read_lines):
    lines = read_lines(learned_run / "metrics.jsonl")
    ends = [i + 1 for i, line in enumerate(lines) if "validation_wer" in line]
    words = [judge_run(lines[:end], max_steps=400) for end in ends]
    assert words[0].startswith("normal CTC plateau: wait")
    assert [word.partition(" (")[0] for word in words[1:]] == ["learning"] * 3


def test_run_with_an_absurd_learning_rate_has_collapsed(finetune_run, capsys):
    training = {"max_steps": 40, "batch_seconds": 5, "eval_steps": 20, "learning_rate": 1.0}
    finetune_run("collapsed", model={"freeze_feature_encoder": False, "dropout": 0.0}, training=training)
    words = verdicts(capsys.readouterr().err)
    assert len(words) == 2
    assert all(
        word.startswith("collapsed to ") and "lower training.learning_rate" in word and "the loss rose to" in word
        for word in words
    )


def test_plots_are_drawn_again_at_each_validation(finetune_run, interrupt_run, tmp_path):
    interrupt_run("run", 3)  # Validations are at steps 2 and 4.
    first = (tmp_path / "run" / "curves.png").read_bytes()
    last = finetune_run("run") / "curves.png"
    assert last.read_bytes() != first
    assert Image.open(last).size == (1200, 1350)
