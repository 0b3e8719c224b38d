"""Write, find, prune and restore checkpoints: each is complete or absent, and damaged ones are skipped."""

import json
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from finetune.errors import UserError
from finetune.files import delete, link_file, new_file, new_folder, write_json
from finetune.models.weights import match_weights
from finetune.training import manifest
from finetune.training.sharding import scatter_optimizer

_LOGGER = logging.getLogger(__name__)

_NAME = re.compile(r"step-([0-9]+)")
_WEIGHTS, _OPTIMIZER, _SCALER, _PROGRESS = "model.safetensors", "optimizer.pt", "scaler.pt", "progress.json"
# Raised for a file that is damaged or is not a checkpoint's.
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError, SafetensorError)


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    *,
    optimizer_state: dict[str, Any],
    scaler: Any,
    progress: dict[str, Any],
    keep: int,
    best: Mapping[str, str] | None = None,
) -> Path:
    """Write `folder/step-NNNNNN`, complete or not at all, and prune older checkpoints (`prune_checkpoints`).

    `progress` is JSON that the caller needs to resume (such as the best WER so far). The schedule, the place in the
    epoch and all random numbers follow from the step and the recipe's seed (`seed_step`). `best` are the digests of
    the best weights, which are needed to resume too, by their names (`name_best`); those of this step are hard links.
    """
    final, same = folder / _name(step), name_best(step)
    with new_folder(final) as partial:
        if same in (best or {}):
            link_file(folder / same, partial / _WEIGHTS)
        else:
            save_model(partial / _WEIGHTS, model)
        torch.save(optimizer_state, partial / _OPTIMIZER)
        if scaler is not None:
            torch.save(scaler.state_dict(), partial / _SCALER)
        write_json(partial / _PROGRESS, {"step": step, **progress})
        manifest.write_manifest(partial, best or {})
    _LOGGER.debug(f"saved {final}")
    prune_checkpoints(folder, step, keep)
    return final


def name_best(step: int) -> str:
    """The file of a step's weights while they are among the best, relative to the folder of all checkpoints."""
    return f"best/{_name(step)}.safetensors"


def prune_checkpoints(folder: Path, step: int, keep: int, ended: bool = False) -> None:
    """Delete all checkpoints but the newest `keep` up to a step, and best weights that none of these needs.

    Checkpoints of later steps are damaged: the run was resumed from an earlier one. When the run has `ended`, only the
    best weights of the newest checkpoint are needed.
    """
    checkpoints = list_checkpoints(folder)
    kept = [checkpoint for checkpoint in checkpoints if step_of(checkpoint) <= step][-keep:]
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            delete(checkpoint)
    try:
        found = [manifest.read_manifest(checkpoint) for checkpoint in (kept[-1:] if ended else kept)]
    except ValueError:
        return
    needed = {folder / name for each in found if each for name in each.beside}
    if all(found):  # It is not known what a checkpoint without a manifest needs.
        for file in (folder / "best").glob("step-*"):
            if file not in needed:
                file.unlink()


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [place for place in folder.glob("step-*") if _NAME.fullmatch(place.name) and place.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def _name(step: int) -> str:
    return f"step-{step:06d}"


def choose_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is not damaged; None if there are no checkpoints.

    Damaged ones are logged. Raises UserError where all are damaged, or one is of a later version.
    """
    problems: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        problem = _find_problem(checkpoint)
        if problem is None:
            if problems:
                damaged = "; ".join(problems)
                _LOGGER.warning(f"damaged since it was written: {damaged}: going on from {checkpoint.name} instead")
            if manifest.read_manifest(checkpoint) is None:
                _LOGGER.warning(f"{checkpoint} has no {manifest.FILE}, so whether it is as it was written is not known")
            return checkpoint
        problems.append(f"{checkpoint}, where {problem}")
    if problems:
        raise UserError(
            f"Every checkpoint has been damaged since it was written: {'; '.join(problems)}. Copy one back if you can; "
            f"without {folder} the same command begins anew."
        )
    return None


def _find_problem(checkpoint: Path) -> str | None:
    """Why training cannot resume from a checkpoint, or None; without a manifest its files must be readable."""
    try:
        listed = manifest.read_manifest(checkpoint)
    except ValueError as error:
        return str(error)
    if listed is not None:
        return manifest.find_damage(checkpoint, listed)
    try:
        with safe_open(checkpoint / _WEIGHTS, "pt"):
            pass
        torch.load(checkpoint / _OPTIMIZER, map_location="cpu", weights_only=True)
        json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8"))["step"]
    except _UNREADABLE as error:
        return _find_reason(error)
    return None


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """The `progress` of `save_checkpoint` with the key `step`; raises UserError for a damaged file."""
    try:
        progress: dict[str, Any] = json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8"))
        progress["step"] = int(progress["step"])
    except _UNREADABLE as error:
        raise _damaged(checkpoint, error) from error
    return progress


def read_digests(checkpoint: Path, names: Sequence[str]) -> dict[str, str]:
    """The digests of best weights by their names (`name_best`), from the manifest of a checkpoint.

    Without a manifest the files are measured, as far as they are there.
    """
    if (found := manifest.read_manifest(checkpoint)) is not None:
        return {name: found.beside[name] for name in names}
    folder = checkpoint.parent
    return {name: manifest.measure_digest(folder / name) for name in names if (folder / name).is_file()}


def has_shapes_of(checkpoint: Path, model: nn.Module) -> bool:
    """Whether a checkpoint's weights have the shapes of a model's; raises UserError for a damaged file."""
    expected = model.state_dict()
    try:
        with safe_open(checkpoint / _WEIGHTS, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except _UNREADABLE as error:
        raise _damaged(checkpoint, error) from error
    return all(list(expected[name].shape) == shape for name, shape in shapes.items() if name in expected)


def restore_checkpoint(checkpoint: Path, model: nn.Module, optimizer: Any, scaler: Any) -> dict[str, Any]:
    """Load the state of a checkpoint into the given objects; returns its progress with the key `step`.

    Raises UserError for a checkpoint that is damaged or of another model.
    """
    load_model([checkpoint / _WEIGHTS], model)
    try:
        # Tensors and plain containers only: no code in the file is run.
        state = torch.load(checkpoint / _OPTIMIZER, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(scatter_optimizer(state, optimizer))
        if scaler is not None and (checkpoint / _SCALER).is_file():
            scaler.load_state_dict(torch.load(checkpoint / _SCALER, map_location="cpu", weights_only=True))
    except torch.OutOfMemoryError:
        raise
    except _UNREADABLE as error:
        raise _damaged(checkpoint, error) from error
    return read_progress(checkpoint)


def save_model(file: Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors, complete or absent: the same bytes as `save_pretrained` writes."""
    save_weights(file, model.state_dict())


def save_weights(file: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict as `save_model` does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with new_file(file) as partial:
        save_file(plain, partial, metadata={"format": "pt"})


def load_model(files: Sequence[Path], model: nn.Module) -> None:
    """Load weights written by `save_model` into a model of the same shape; the average of several files.

    The average of the last or best checkpoints of a run is often better than each (Vaswani et al. 2017, section 6.1).
    Raises UserError for a file that is damaged or of another model.
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
    return UserError(
        f"{place} can't be read: {_find_reason(error)}. Remove this checkpoint, and the run goes on from another one."
    )


def _find_reason(error: Exception) -> str:
    if isinstance(error, UnpicklingError):
        return "it holds more than tensors and plain values, or is damaged, and could run code"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def saving(what: str, good: str) -> Iterator[None]:
    """Raise UserError with the reason of the system where `what` cannot be written; `good` says what is there."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError is what torch.save raises for a full disk.
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = _find_reason(error)
        raise UserError(
            f"{what} can't be written: {reason}. {good}; make room there, and the same command goes on."
        ) from error


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed all random generators for one step, so that a checkpoint needs no state of them."""
    mixed = int(np.random.SeedSequence((seed, step, rank)).generate_state(1, dtype=np.uint32)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
