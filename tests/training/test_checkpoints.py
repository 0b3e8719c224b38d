"""Checkpoints are whole or absent, restore every bit, and run no code that lies in them."""

import json
import random
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.errors import UserError
from finetune.models.build import CTCObjective
from finetune.training.checkpoints import (
    choose_checkpoint,
    list_checkpoints,
    load_model,
    name_best,
    prune_checkpoints,
    restore_checkpoint,
    save_checkpoint,
    save_model,
    seed_step,
)
from finetune.training.loop import train_step
from finetune.training.manifest import measure_digest, read_manifest
from finetune.training.optimization import build_optimizer


@pytest.fixture
def trained(accelerator, build, make_batch):
    """A model and an optimizer that have made one step."""
    model = build(seed=1)
    optimizer = build_optimizer(model, 1e-2, 0.1)
    train_step(accelerator, CTCObjective(model.train()), optimizer, [make_batch(0, 1)], 1.0)
    return model, optimizer


def assert_same(left, right):
    """Nested containers with tensors, equal to the last bit."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    else:
        assert left == right


def test_round_trip_restores_weights_optimizer_and_progress(trained, build, tmp_path):
    model, optimizer = trained
    checkpoint = save_checkpoint(
        tmp_path,
        7,
        model,
        optimizer_state=optimizer.state_dict(),
        scaler=None,
        progress={"best": [0.5, 0.2], "best_step": 6},
        keep=2,
    )
    other = build(seed=2)
    other_optimizer = build_optimizer(other, 1e-3, 0.0)
    progress = restore_checkpoint(checkpoint, other, other_optimizer, None)
    assert progress == {"step": 7, "best": [0.5, 0.2], "best_step": 6}
    assert_same(dict(other.state_dict()), dict(model.state_dict()))
    assert_same(other_optimizer.state_dict(), optimizer.state_dict())


def test_step_after_a_restore_equals_the_step_without_it(trained, accelerator, build, make_batch, tmp_path):
    model, optimizer = trained
    checkpoint = save_checkpoint(
        tmp_path, 1, model, optimizer_state=optimizer.state_dict(), scaler=None, progress={}, keep=1
    )
    restored = build(seed=2).train()
    restored_optimizer = build_optimizer(restored, 1e-2, 0.1)
    restore_checkpoint(checkpoint, restored, restored_optimizer, None)
    for each, its_optimizer in ((model, optimizer), (restored, restored_optimizer)):
        train_step(accelerator, CTCObjective(each), its_optimizer, [make_batch(2, 3)], 1.0)
    assert_same(dict(restored.state_dict()), dict(model.state_dict()))


def test_a_scalers_state_is_kept(trained, build, tmp_path):
    model, optimizer = trained
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (128.0, 2.0))
    checkpoint = save_checkpoint(
        tmp_path, 1, model, optimizer_state=optimizer.state_dict(), scaler=scaler, progress={}, keep=1
    )
    restore_checkpoint(checkpoint, model, optimizer, other)
    assert other.state_dict() == scaler.state_dict()


def test_only_the_newest_are_kept_in_order_of_their_steps(trained, tmp_path):
    for step in (2, 10, 999_998, 1_000_000):
        save_checkpoint(
            tmp_path, step, trained[0], optimizer_state=trained[1].state_dict(), scaler=None, progress={}, keep=2
        )
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-999998", "step-1000000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-999998"]


def test_the_best_weights_are_not_pruned(trained, tmp_path):
    (tmp_path / "best").mkdir()
    save_model(tmp_path / "best" / "model.safetensors", trained[0])
    for step in (1, 2):
        save_checkpoint(
            tmp_path, step, trained[0], optimizer_state=trained[1].state_dict(), scaler=None, progress={}, keep=1
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-000002"]


def test_a_step_written_again_replaces_the_old_one(trained, tmp_path):
    for best in (1, 2):
        save_checkpoint(
            tmp_path,
            3,
            trained[0],
            optimizer_state=trained[1].state_dict(),
            scaler=None,
            progress={"best": best},
            keep=2,
        )
    (checkpoint,) = list_checkpoints(tmp_path)
    assert json.loads((checkpoint / "progress.json").read_text())["best"] == 2


def test_left_overs_of_an_interrupted_write_are_ignored_and_replaced(trained, tmp_path):
    left_over = tmp_path / ".step-000002.partial"
    left_over.mkdir()
    (left_over / "model.safetensors").write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    checkpoint = save_checkpoint(
        tmp_path, 2, trained[0], optimizer_state=trained[1].state_dict(), scaler=None, progress={}, keep=1
    )
    assert list_checkpoints(tmp_path) == [checkpoint]
    assert not left_over.exists()


def test_interrupted_write_leaves_no_checkpoint(trained, tmp_path):
    model, _ = trained

    class Failing:
        def __reduce__(self):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, model, optimizer_state=Failing(), scaler=None, progress={}, keep=1)
    assert list_checkpoints(tmp_path) == []


def test_a_folder_that_does_not_exist_has_no_checkpoints(tmp_path):
    assert list_checkpoints(tmp_path / "checkpoints") == []


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scaler.pt"])
def test_nothing_in_a_checkpoint_is_run(trained, tmp_path, name):
    model, optimizer = trained
    scaler = torch.amp.GradScaler("cpu")
    checkpoint = save_checkpoint(
        tmp_path, 1, model, optimizer_state=optimizer.state_dict(), scaler=scaler, progress={}, keep=1
    )
    torch.save({"state": Bomb(tmp_path / "exploded")}, checkpoint / name)
    with pytest.raises(UserError, match="could run code"):
        restore_checkpoint(checkpoint, model, optimizer, scaler)
    assert not (tmp_path / "exploded").exists()


def test_model_file_keeps_every_bit_and_leaves_nothing_beside_it(trained, build, tmp_path):
    save_model(tmp_path / "model.safetensors", trained[0])
    other = build(seed=2)
    load_model([tmp_path / "model.safetensors"], other)
    assert_same(dict(other.state_dict()), dict(trained[0].state_dict()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_model_of_another_shape_is_refused(trained, build, tmp_path):
    save_model(tmp_path / "model.safetensors", trained[0])
    other = build(vocabulary={"[PAD]": 0, "|": 1, "[UNK]": 2})
    before = deepcopy(other.lm_head.weight)
    with pytest.raises(
        UserError, match=r"2 of another shape \(lm_head.bias 7, not 3, lm_head.weight 7 × 32, not 3 × 32"
    ):
        load_model([tmp_path / "model.safetensors"], other)
    assert torch.equal(other.lm_head.weight, before)


def test_step_seed_depends_on_seed_step_and_rank_alone():
    def draw(*place):
        seed_step(*place)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw(0, 5, 0)
    others = [draw(1, 5, 0), draw(0, 6, 0), draw(0, 5, 1)]
    assert draw(0, 5, 0) == first
    for i in range(3):
        assert len({first[i], *(other[i] for other in others)}) == 4


@pytest.fixture
def two_checkpoints(trained, tmp_path):
    """Those of the steps 1 and 2, each counting on the weights of step 1, which are the best."""
    model, optimizer = trained
    save_model(tmp_path / name_best(1), model)
    best = {name_best(1): measure_digest(tmp_path / name_best(1))}
    for step in (1, 2):
        save_checkpoint(
            tmp_path,
            step,
            model,
            optimizer_state=optimizer.state_dict(),
            scaler=None,
            progress={"best": step},
            keep=2,
            best=best,
        )
    return list_checkpoints(tmp_path)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "progress.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(two_checkpoints, name, damage, logged):
    older, newer = two_checkpoints
    assert choose_checkpoint(older.parent) == newer and not logged
    damage(newer / name)
    if (name, damage) == ("manifest.json", Path.unlink):  # As older versions wrote it.
        assert choose_checkpoint(older.parent) == newer
        assert logged == [f"note: {newer} has no manifest.json, so whether it is as it was written is not known"]
        return
    assert choose_checkpoint(older.parent) == older
    [line] = logged
    assert line.startswith("note: damaged since it was written: ") and name in line
    assert line.endswith("going on from step-000001 instead")
    damage(older / name)
    with pytest.raises(UserError, match="Every checkpoint has been damaged since it was written"):
        choose_checkpoint(older.parent)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "progress.json"])
def test_one_without_a_manifest_must_be_readable(two_checkpoints, name):
    older, newer = two_checkpoints
    (newer / "manifest.json").unlink()
    truncate(newer / name)
    assert choose_checkpoint(older.parent) == older


def test_damaged_best_weights_count_too(two_checkpoints):
    folder = two_checkpoints[0].parent
    truncate(folder / name_best(1))
    with pytest.raises(UserError, match=r"step-000001.safetensors has changed since it was written"):
        choose_checkpoint(folder)


def test_one_of_a_later_version_is_refused(two_checkpoints):
    file = two_checkpoints[1] / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(UserError, match="is of format 2, and this version of finetune knows formats up to 1"):
        choose_checkpoint(two_checkpoints[1].parent)


def test_a_manifest_names_nothing_elsewhere(two_checkpoints, tmp_path):
    file = two_checkpoints[1] / "manifest.json"
    for name in ("../../secret", "/dev/zero"):
        file.write_text(json.dumps({"format": 1, "files": {}, "beside": {name: "0"}}))
        with pytest.raises(ValueError, match="names what no checkpoint has"):
            read_manifest(two_checkpoints[1])


def test_what_a_checkpoint_counts_on_stays_as_long_as_it_does(trained, tmp_path):
    """And the newer ones go that were passed over, once there is another."""
    model, optimizer = trained

    def save(step, *best):
        for each in best:
            if not (tmp_path / name_best(each)).exists():
                save_model(tmp_path / name_best(each), model)
        digests = {name_best(each): measure_digest(tmp_path / name_best(each)) for each in best}
        save_checkpoint(
            tmp_path,
            step,
            model,
            optimizer_state=optimizer.state_dict(),
            scaler=None,
            progress={},
            keep=2,
            best=digests,
        )
        files = sorted(
            str(file.relative_to(tmp_path)) for pattern in ("step-*", "best/*") for file in tmp_path.glob(pattern)
        )
        return [file.removesuffix(".safetensors").replace("step-00000", "") for file in files]

    assert save(1, 1) == ["best/1", "1"]
    assert save(2, 2) == ["best/1", "best/2", "1", "2"]
    assert save(4, 2) == ["best/2", "2", "4"]
    assert save(3, 3) == ["best/2", "best/3", "2", "3"]
    prune_checkpoints(tmp_path, 3, keep=2, ended=True)
    assert [file.name for file in (tmp_path / "best").iterdir()] == ["step-000003.safetensors"]
    # Weights of the same step are on the disk once.
    assert (tmp_path / name_best(3)).samefile(tmp_path / "step-000003" / "model.safetensors")
