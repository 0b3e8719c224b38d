"""The length of a run, and the estimates of its time, memory and disk space."""

import dataclasses
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.training.plan import MAX_STEPS, MIN_STEPS, Length, Plan, Room, choose_length, format_duration
from finetune.training.timing import Timing

GB = 10**9


def timing(**changes: Any) -> Timing:
    values = {"forward": 0.5, "backward": 1.0, "update": 0.1, "loading": 0.4, "num_workers": 1, "device_type": "cpu"}
    return Timing(**{**values, "memory": GB, "evaluation_rate": 0.1, **changes})


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "length": Length(1000, 300),
        "key": "training.max_steps",
        "done_steps": 0,
        "step_seconds": 12.0,
        "steps_per_epoch": 50.0,
        "validation_seconds": 100.0,
        "final_seconds": 200.0,
        "longest_trained": 20.0,
        "longest_scored": 40.0,
        "frozen_steps": 0,
        "max_minutes": None,
        "keep_checkpoints": 2,
        "keep_best": 1,
        "room": Room(weights=4 * GB, trained=GB, folder="runs", free=100 * GB, written=0, memory=16 * GB),
        "device_type": "cpu",
        "device": "2 threads of a CPU in float32",
        "timing": timing(),
    }
    return Plan(**{**values, **changes})


@pytest.mark.parametrize(
    ("per_epoch", "steps"), [(3, MIN_STEPS), (100, 3000), (2250, 67_500), (20_000, MAX_STEPS), (None, MIN_STEPS)]
)
def test_by_default_a_run_has_thirty_epochs_within_bounds(per_epoch: float | None, steps: int) -> None:
    assert choose_length(None, None, None, per_epoch).max_steps == steps


def test_steps_and_epochs_are_as_given() -> None:
    assert choose_length(7, None, 3, 100) == Length(7, 3)
    assert choose_length(None, 2.5, 3, 100) == Length(250, 3)
    assert choose_length(None, 0.001, 3, 100) == Length(1, 3)
    with pytest.raises(UserError, match=r"training\.max_epochs=2 needs .* set training\.max_steps"):
        choose_length(None, 2, None, None)


@pytest.mark.parametrize(("steps", "every"), [(100, 200), (1000, 200), (4000, 400), (80_000, 2000)])
def test_by_default_a_tenth_of_a_run_passes_between_evaluations(steps: int, every: int) -> None:
    assert choose_length(steps, None, None, 100).eval_steps == every


def test_a_plan_has_length_time_and_space() -> None:
    # 1000 steps of 0.5 + 1.0 + 0.1 + 0.4 s, evaluations at 300, 600, 900 and 1000, and the test split.
    assert plan().summary() == [
        "training: 1000 steps of 12 s, about 20.0 epochs; evaluated every 300 steps",
        "time: about 34 min on 2 threads of a CPU in float32: 2 s a step, 1 min for evaluations",
        "space: about 3.0 GB of memory, up to 30.0 GB on the disk",
    ]


def test_kernels_that_are_kept_are_told_beside_the_memory_of_a_step() -> None:
    room = dataclasses.replace(plan().room, kernels=2 * GB)
    assert plan(room=room).summary()[2] == (
        "space: about 3.0 GB of memory, growing to at most 5.0 GB with oneDNN's kernels, up to 30.0 GB on the disk"
    )


def test_a_plan_of_a_resumed_run_has_the_remaining_steps() -> None:
    half = plan(done_steps=600)
    assert (
        half.summary()[0] == "training: 1000 steps of 12 s, about 20.0 epochs; 400 are left; evaluated every 300 steps"
    )
    assert half.training_seconds == pytest.approx(800)
    assert half.evaluation_seconds == pytest.approx(0.1 * (2 * 100 + 200))


def test_without_timing_a_plan_has_length_and_disk() -> None:
    first, second = plan(timing=None, steps_per_epoch=None).summary()
    assert first == "training: 1000 steps of 12 s; evaluated every 300 steps"
    assert second == "space: up to 30.0 GB on the disk"


def test_steps_that_train_the_head_alone_have_no_backward_pass_through_the_encoder() -> None:
    assert plan(frozen_steps=400).training_seconds == pytest.approx(400 * 1.0 + 600 * 2.0)
    assert plan(frozen_steps=400, done_steps=500).training_seconds == pytest.approx(500 * 2.0)


def test_workers_load_while_a_gpu_computes() -> None:
    assert timing(device_type="cuda").step_seconds == pytest.approx(1.6)
    assert timing(device_type="cuda", loading=3.0).step_seconds == pytest.approx(3.0)
    assert timing(device_type="cuda", loading=3.0, num_workers=0).step_seconds == pytest.approx(4.6)
    assert timing(loading=3.0).step_seconds == pytest.approx(4.6)  # The cores are the same.


ROOM = plan().room


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (
            {"steps_per_epoch": 3.0, "length": Length(4000, 400)},
            "1,333 epochs are more than this little speech needs: lower training.max_steps (training.max_steps=1000)",
        ),
        (
            {"steps_per_epoch": 30.0, "length": Length(15_000, 400), "key": "training.max_epochs"},
            "500 epochs are more than this little speech needs: lower training.max_epochs (training.max_epochs=33)",
        ),
        (
            {"steps_per_epoch": 4000.0},
            "only 25 % of the training speech is used: raise training.max_steps (training.max_steps=4000 is one epoch)",
        ),
        (
            {"timing": timing(forward=100.0)},
            "28 h is a long run: lower training.max_steps, take a smaller model.base, or train on a GPU",
        ),
        (
            {"timing": timing(forward=300.0, device_type="cuda"), "device_type": "cuda"},
            "3 days 12 h is a long run: lower training.max_steps, take a smaller model.base",
        ),
        (
            {"max_minutes": 10.0},
            "training.max_minutes=10 ends the run after about 29 % of its steps, with the learning rate still high: "
            "lower training.max_steps instead",
        ),
        (
            {"timing": timing(loading=4.0, device_type="cuda"), "device_type": "cuda"},
            "audio is read and augmented more slowly than the model learns from it: raise training.num_workers",
        ),
        (
            {"timing": timing(memory=13 * GB)},
            "a step needs about 15.0 GB of memory, and there are 16.0 GB: lower training.batch_seconds and raise "
            "training.accumulation, or set training.gradient_checkpointing=true",
        ),
        (
            {"longest_scored": 150.0},
            "an utterance of 150 s is scored, and none longer than 20 s is trained: it may need more memory than a "
            "step; cut it with `finetune segment --corpus`",
        ),
        (
            {"room": dataclasses.replace(ROOM, free=20 * GB)},
            "checkpoints and model need up to 30.0 GB, and runs has 20.0 GB free: lower training.keep_checkpoints, or "
            "train with --output on a larger disk",
        ),
    ],
)
def test_each_estimate_out_of_proportion_is_a_note_with_the_key_to_change(changes: dict[str, Any], note: str) -> None:
    assert [line for line in plan(**changes).summary() if line.startswith("note: ")] == [f"note: {note}"]


def test_estimates_in_proportion_have_no_note() -> None:
    changes: list[dict[str, Any]] = [
        {"steps_per_epoch": 3.0},  # 333 epochs, but no more than a small folder has by default.
        {"length": Length(10_000, 400)},
        {"max_minutes": 60.0},
        {"longest_trained": 200.0, "longest_scored": 200.0},
        {"room": dataclasses.replace(ROOM, free=20 * GB, written=10 * GB)},  # A run that goes on replaces its files.
    ]
    for each in changes:
        assert not [line for line in plan(**each).summary() if line.startswith("note: ")], each


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (59.7, "1 min"),
        (130, "2 min 10 s"),
        (119.6, "2 min"),
        (599.9, "10 min"),
        (3570, "1 h"),
        (24_000, "6 h 40 min"),
        (7199, "2 h"),
        (100_000, "28 h"),
        (200_000, "2 days 8 h"),
        (9e6, "104 days"),
    ],
)
def test_a_duration_has_two_units(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
