"""Write, find, prune and restore checkpoints: each is whole or absent."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

_PREFIX = "step-"


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: Any, scaler: Any, progress: dict[str, Any], keep: int
) -> Path:
    """Write `folder/step-NNNNNN` beside its place, rename it, and delete all but the newest `keep`.

    `progress` is JSON: what the caller needs to go on (best WER so far and the like).
    """
    final = folder / f"{_PREFIX}{step:06d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(partial / "model.safetensors", model)
    torch.save(optimizer.state_dict(), partial / "optimizer.pt")
    if scaler is not None:
        torch.save(scaler.state_dict(), partial / "scaler.pt")
    (partial / "progress.json").write_text(json.dumps({"step": step, **progress}))
    if final.exists():  # A run that went on from an older checkpoint than its newest.
        shutil.rmtree(final)
    partial.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob(f"{_PREFIX}[0-9]*"), key=lambda checkpoint: int(checkpoint.name.removeprefix(_PREFIX)))


def restore_checkpoint(checkpoint: Path, model: nn.Module, optimizer: Any, scaler: Any) -> dict[str, Any]:
    """Put a checkpoint's state into the given objects; returns its progress, with the key `step`."""
    load_model(checkpoint / "model.safetensors", model)
    # Tensors and plain containers only: nothing in the file is run.
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True))
    if scaler is not None and (checkpoint / "scaler.pt").is_file():
        scaler.load_state_dict(torch.load(checkpoint / "scaler.pt", map_location="cpu", weights_only=True))
    progress: dict[str, Any] = json.loads((checkpoint / "progress.json").read_text())
    return progress


def save_model(file: Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors, beside and renamed."""
    partial = file.with_name(file.name + ".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, partial)
    partial.rename(file)


def load_model(file: Path, model: nn.Module) -> None:
    """Read weights written by `save_model` into a model of the same shape."""
    model.load_state_dict(load_file(file))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed every random generator for one step, so that dropout needs no state in a checkpoint."""
    mixed = int(np.random.SeedSequence((seed, step, rank)).generate_state(1, dtype=np.uint32)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
