"""Write, find, prune and restore checkpoints: each is whole or absent."""

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from finetune.errors import UserError
from finetune.files import new_file, new_folder, write_json
from finetune.training.sharding import scatter_optimizer
from finetune.weights import match_weights

_PREFIX = "step-"


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer_state: dict[str, Any],
    scaler: Any,
    progress: dict[str, Any],
    keep: int,
) -> Path:
    """Write `folder/step-NNNNNN`, whole or not at all, and delete all but the newest `keep`.

    `progress` is JSON: what the caller needs to go on (best WER so far and the like). The schedule, the place in the
    epoch and all random numbers follow from the step and the recipe's seed (`seed_step`).
    """
    final = folder / f"{_PREFIX}{step:06d}"
    with new_folder(final) as partial:
        save_model(partial / "model.safetensors", model)
        torch.save(optimizer_state, partial / "optimizer.pt")
        if scaler is not None:
            torch.save(scaler.state_dict(), partial / "scaler.pt")
        write_json(partial / "progress.json", {"step": step, **progress})
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob(f"{_PREFIX}[0-9]*"), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def restore_checkpoint(checkpoint: Path, model: nn.Module, optimizer: Any, scaler: Any) -> dict[str, Any]:
    """Put a checkpoint's state into the given objects; returns its progress, with the key `step`.

    Raises UserError for a checkpoint that is damaged or another model's.
    """
    load_model([checkpoint / "model.safetensors"], model)
    try:
        # Tensors and plain containers only: nothing in the file is run.
        state = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(scatter_optimizer(state, optimizer))
        if scaler is not None and (checkpoint / "scaler.pt").is_file():
            scaler.load_state_dict(torch.load(checkpoint / "scaler.pt", map_location="cpu", weights_only=True))
        progress: dict[str, Any] = json.loads((checkpoint / "progress.json").read_text())
    except torch.OutOfMemoryError:
        raise
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        raise _damaged(checkpoint, error) from error
    return progress


def save_model(file: Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors, whole or absent: the same bytes as Transformers' `save_pretrained`."""
    save_weights(file, model.state_dict())


def save_weights(file: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """The same of a model's state."""
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with new_file(file) as partial:
        save_file(plain, partial, metadata={"format": "pt"})


def load_model(files: Sequence[Path], model: nn.Module) -> None:
    """Read weights written by `save_model` into a model of the same shape; of several files, their average.

    The average of the last or best checkpoints of one run often beats each (Vaswani et al. 2017, section 6.1).
    Raises UserError for a file that is damaged or another model's.
    """
    expected = model.state_dict()
    weights = _read_weights(files[0], expected)
    for number, file in enumerate(files[1:], start=1):
        for name, tensor in _read_weights(file, expected).items():
            if tensor.is_floating_point():
                weights[name] += (tensor - weights[name]) / (number + 1)
    model.load_state_dict(weights)


def _read_weights(file: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise _damaged(file, error) from error
    return match_weights(str(file), found, expected)


def _damaged(place: Path, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, UnpicklingError):
        reason = "it holds more than tensors and plain values, or is damaged, and could run code"
    return UserError(f"{place} can't be read: {reason}. Remove this checkpoint, and the run goes on from another one.")


@contextmanager
def saving(what: str, good: str) -> Iterator[None]:
    """Raise UserError with the disk's own reason where `what` can't be written; `good` says what is there already."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: torch.save's own word for a full disk.
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{what} can't be written: {reason}. {good}; make room there, and the same command goes on."
        ) from error


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed every random generator for one step, so that dropout needs no state in a checkpoint."""
    mixed = int(np.random.SeedSequence((seed, step, rank)).generate_state(1, dtype=np.uint32)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
