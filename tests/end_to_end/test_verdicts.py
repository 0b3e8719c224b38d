"""Runs that learn and runs that collapse get the right verdicts, and leave a picture."""

import re

import pytest
from PIL import Image

from finetune.run.trainer import Trainer
from finetune.training.health import describe


def verdicts(errors):
    return re.findall(r"^step \d+/\d+: .* CER \S+ %; (.*)$", errors, re.MULTILINE)


def test_healthy_run_is_on_the_plateau_and_then_learns(learned_run, read_lines):
    lines = read_lines(learned_run / "metrics.jsonl")
    ends = [i + 1 for i, line in enumerate(lines) if "validation_wer" in line]
    words = [describe(lines[:end], max_steps=400) for end in ends]
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


def test_picture_is_drawn_anew_at_each_evaluation(finetune_run, monkeypatch, tmp_path):
    log = Trainer._log

    def log_and_stop(self, step, values):
        log(self, step, values)
        if step == 3:  # Evaluations are at 2 and 4.
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log", log_and_stop)
        with pytest.raises(KeyboardInterrupt):
            finetune_run("run")
    first = (tmp_path / "run" / "curves.png").read_bytes()
    last = finetune_run("run") / "curves.png"
    assert last.read_bytes() != first
    assert Image.open(last).size == (1200, 1350)
