"""One run of the tiny encoder that really learned, for all tests that look at what a run leaves."""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from hub import TOKEN, Hub, serve
from huggingface_hub import constants

from finetune.run.callbacks import TrainerCallback

# The tiny encoder says nothing for about 150 of these steps, then learns the tones within 50 more.
LEARNING = {
    "max_steps": 400,
    "batch_seconds": 5,
    "learning_rate": 5e-3,
    "warmup_ratio": 0.05,
    "mask_time_probability": 0.05,
    "mask_time_length": 2,
    "eval_steps": 100,
    "log_steps": 50,
    "num_workers": 0,
    "mixed_precision": "no",
}


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, corpus_folder: Path) -> Path:
    """A finished run's folder: the tiny base fine-tuned until it knows the tones; about ten seconds."""
    from finetune.recipe.load import load_recipe
    from finetune.run.experiment import run

    folder = tmp_path_factory.mktemp("learned")
    values = {
        "model": {"base": str(base_folder), "freeze_feature_encoder": False, "dropout": 0.0},
        "data": {"root": str(corpus_folder)},
        "training": LEARNING,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    run(load_recipe(folder / "recipe.yaml"), folder / "run")
    return folder / "run"


@pytest.fixture
def writable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, which commands of this process and of others may write to."""
    with serve(tmp_path / "hub") as served:
        for name, value in (
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("ENDPOINT", served.endpoint),
            ("HF_TOKEN_PATH", str(tmp_path / "no token")),
        ):
            monkeypatch.setattr(constants, name, value)
        for name, value in (
            ("HF_HUB_OFFLINE", "0"),
            ("HF_HUB_DISABLE_XET", "1"),
            ("HF_ENDPOINT", served.endpoint),
            ("HF_HOME", str(tmp_path / "home")),
            ("HF_TOKEN", TOKEN),
            ("NO_PROXY", "127.0.0.1"),
        ):
            monkeypatch.setenv(name, value)
        huggingface_hub.close_session()
        yield served
    huggingface_hub.close_session()


@pytest.fixture(scope="session")
def finetune_run_in(write_recipe: Callable[..., Path]) -> Callable[..., Path]:
    """`finetune_run_in(folder, "name", training={…})` runs a recipe of a few steps and returns the run's folder.

    A `callback` is passed on to the run.
    """
    from finetune.commands.console import log_to_console
    from finetune.recipe.load import load_recipe
    from finetune.run.experiment import run

    def train(folder: Path, name: str, callback: TrainerCallback | None = None, **sections: dict[str, Any]) -> Path:
        with log_to_console(Namespace()):
            run(load_recipe(write_recipe(folder, **sections)), folder / name, callback)
        return folder / name

    return train


@pytest.fixture
def finetune_run(finetune_run_in: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`finetune_run("name", training={…})` runs a recipe of a few steps in the test's folder."""
    return partial(finetune_run_in, tmp_path)


class Interruption(TrainerCallback):
    """Ends a run as Ctrl-C does: when a line of `step` or a later one is logged, or without a step at a checkpoint."""

    def __init__(self, step: int | None) -> None:
        self._step = step

    def on_log(self, step: int, values: Mapping[str, float]) -> None:
        if self._step is not None and step >= self._step:
            raise KeyboardInterrupt

    def on_save(self, step: int) -> None:
        if self._step is None:
            raise KeyboardInterrupt


@pytest.fixture
def interrupt_run(finetune_run: Callable[..., Path]) -> Callable[..., None]:
    """`interrupt_run("name", step, training={…})` starts a run of `finetune_run`, and an `Interruption` ends it."""

    def interrupt(name: str, step: int | None = None, **sections: dict[str, Any]) -> None:
        with pytest.raises(KeyboardInterrupt):
            finetune_run(name, Interruption(step), **sections)

    return interrupt


@pytest.fixture(scope="session")
def read_lines() -> Callable[[Path], list[dict[str, Any]]]:
    """Each line of a JSONL file."""
    return lambda file: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
