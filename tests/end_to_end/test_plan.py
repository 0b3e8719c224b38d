"""The estimates before a run are logged, and measuring them does not change the run."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from finetune.cli import main
from finetune.errors import UserError
from finetune.recipe.load import load_recipe
from finetune.run.planning import resolve_length
from finetune.run.preparation import Preparation, prepare
from finetune.run.trainer import Trainer

# All that is random is switched on.
SECTIONS = {
    "model": {"dropout": 0.2, "layer_drop": 0.2},
    "augmentation": {"speed": [0.9, 1.1], "noise_snr_db": [5, 20]},
    "training": {"max_steps": None, "max_epochs": 2.5, "eval_steps": 3, "batch_seconds": 4, "learning_rate": 3e-3},
}


@pytest.mark.long
def test_a_run_is_the_same_with_a_plan_and_without_one(
    finetune_run: Callable[..., Path], write_recipe: Callable[..., Path], tmp_path: Path, logged: list[str]
) -> None:
    planned = finetune_run("planned", **SECTIONS)
    assert re.search(
        r"^time: about \d+ s on \d+ threads? of .+ in float32: \S+ s a step, \d+ s for eval", "\n".join(logged), re.M
    )
    del logged[:]
    recipe, plain = load_recipe(write_recipe(tmp_path, **SECTIONS)), tmp_path / "plain"
    plain.mkdir()
    (plain / "recipe.yaml").write_text(recipe.to_yaml())
    trainer = Trainer(recipe, plain, prepare(recipe), Accelerator(mixed_precision="no", cpu=True))
    trainer.train()
    trainer.finish()
    assert not [line for line in logged if line.startswith("time: about")]
    files = [str(path.relative_to(plain)) for path in plain.rglob("*") if path.suffix in (".safetensors", ".pt")]
    assert len(files) > 4
    for file in files:
        assert (planned / file).read_bytes() == (plain / file).read_bytes(), file


@pytest.mark.long
def test_epochs_become_steps_that_a_resumed_run_keeps(
    finetune_run: Callable[..., Path],
    interrupt_run: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    read_lines: Callable[[Path], list[dict[str, Any]]],
) -> None:
    whole = finetune_run("whole", **SECTIONS)
    steps = [line["step"] for line in read_lines(whole / "metrics.jsonl")][-1]
    said = capsys.readouterr().err
    epochs = re.search(rf"^training: {steps} steps of 4 s, about (\S+) epochs; evaluated every 3 steps$", said, re.M)
    assert epochs and float(epochs[1]) == pytest.approx(2.5, abs=0.1)
    written = load_recipe(whole / "recipe.yaml")
    assert (written.training.max_epochs, written.training.max_steps) == (2.5, None)
    assert written.provenance and written.provenance["length"]["max_steps"] == steps
    published = load_recipe(whole / "model" / "recipe.yaml").training
    assert (published.max_epochs, published.max_steps, published.eval_steps) == (None, steps, 3)

    interrupt_run("resumed", 5, **SECTIONS)
    # As on twice as many processes, an epoch has half as many steps.
    list_epoch = Preparation.list_epoch
    monkeypatch.setattr(Preparation, "list_epoch", lambda *arguments: list_epoch(*arguments)[::2])
    capsys.readouterr()
    resumed = finetune_run("resumed", **SECTIONS)
    assert f"; {steps - 3} are left; evaluated every 3 steps" in capsys.readouterr().err
    weights = "model/model.safetensors"
    assert (resumed / weights).read_bytes() == (whole / weights).read_bytes()


def test_check_plans_without_weights_and_writes_nothing(
    write_recipe: Callable[..., Path],
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = shutil.copytree(base_folder, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    recipe = write_recipe(tmp_path, model={"base": str(base)}, training={"max_steps": 5000, "batch_seconds": "auto"})
    before = set(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^training: 5000 steps of 80 s, about [\d,]+ epochs; evaluated every 2 steps$", said, re.M)
    assert re.search(r"^time: about .+ in float32: \S+ s a step, .+ for evaluations$", said, re.M)
    assert re.search(r"^space: about \S+ [GM]B of memory, up to \d+ MB on the disk$", said, re.M)
    assert "speech needs: lower training.max_steps (training.max_steps=1000)" in said
    assert set(tmp_path.rglob("*")) == before


def test_epochs_of_a_stream_are_refused(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(write_recipe(tmp_path, training={"max_steps": None, "max_epochs": 2}))
    preparation = prepare(recipe)
    assert (
        resolve_length(recipe, preparation, 8, 2).max_steps == 2 * resolve_length(recipe, preparation, 8, 4).max_steps
    )
    object.__setattr__(preparation, "stream", object())
    with pytest.raises(UserError, match=r"which is unknown of a stream: set training\.max_steps"):
        resolve_length(recipe, preparation, 8, 1)
