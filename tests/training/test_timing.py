"""Steps are timed as in training, within a time limit, and change nothing."""

import random
import time
from typing import Any

import numpy as np
import pytest
import torch

from finetune.models.build import CTCObjective
from finetune.training import timing
from finetune.training.timing import Sample, time_step

CPU = torch.device("cpu")


class Slow(torch.nn.Module):
    """An objective that takes 20 ms and writes down how many utterances each pass has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.passes: list[int] = []

    def forward(self, batch: Any, frozen: bool) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.02)
        self.passes.append(len(batch.num_frames))
        return self.weight.sum(), torch.zeros(1, dtype=torch.bool)


def test_a_step_is_timed_and_nothing_is_changed(build, make_batch) -> None:
    objective = CTCObjective(build()).eval()
    objective.model.dropout.train()  # Modes are restored one by one.
    weights = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    modes = [module.training for module in objective.modules()]
    torch.manual_seed(3)
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    def score() -> float:
        assert not objective.training
        time.sleep(0.01)
        random.random(), np.random.rand(), torch.rand(1)
        return 2.0

    batch = make_batch(0, 1)
    samples = [Sample(2.0, lambda: batch)] * 2
    found = time_step(objective, samples, 4.0, num_workers=0, device=CPU, evaluate=score)
    assert found is not None and min(found.forward, found.backward, found.update) > 0
    assert found.evaluation_rate == pytest.approx(0.005, rel=0.5)
    assert found.memory > 2**26  # Of this process: torch alone takes more.
    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    assert modes == [module.training for module in objective.modules()]
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert all(torch.equal(weights[name], tensor) for name, tensor in objective.state_dict().items())


def test_times_are_for_as_much_audio_as_a_step_has(make_batch) -> None:
    found = time_step(Slow(), [Sample(2.0, lambda: make_batch(0, 1))], 20.0, num_workers=0, device=CPU)
    assert found is not None and found.forward == pytest.approx(0.2, rel=0.5)


def test_the_memory_of_a_step_has_the_audio_of_all_its_batches(make_batch) -> None:
    batch = make_batch(0, 1)
    audio = batch.input_values.nbytes + batch.attention_mask.nbytes
    small, large = (
        time_step(Slow(), [Sample(2.0, lambda: batch)], 2.0 * batches, num_workers=0, device=CPU)
        for batches in (1, 10_001)
    )
    assert small is not None and large is not None
    assert large.memory - small.memory == pytest.approx(10_000 * audio, rel=0.1)


def test_a_slow_device_is_timed_by_one_pass_over_a_piece(make_batch, monkeypatch) -> None:
    monkeypatch.setattr(timing, "_SLOW_SECONDS", 0.01)
    monkeypatch.setattr(timing, "_BUDGET_SECONDS", 0.03)
    objective = Slow()
    samples = [Sample(40.0, lambda: make_batch(*range(4)))] * 3
    found = time_step(objective, samples, 40.0, num_workers=0, device=CPU)
    assert objective.passes == [1, 1]  # To warm up, and of 10 s, where 12 are tried.
    assert found is not None and found.forward == pytest.approx(0.08, rel=0.5)


def test_a_slow_first_pass_is_not_taken_for_a_slow_device(make_batch, monkeypatch) -> None:
    class SlowStart(Slow):
        def forward(self, batch: Any, frozen: bool) -> tuple[torch.Tensor, torch.Tensor]:
            time.sleep(0 if self.passes else 0.5)  # A cold disk.
            return super().forward(batch, frozen)

    monkeypatch.setattr(timing, "_SLOW_SECONDS", 0.3)
    found = time_step(SlowStart(), [Sample(2.0, lambda: make_batch(0, 1))], 2.0, num_workers=0, device=CPU)
    assert found is not None and found.forward < 0.1


def test_batches_that_do_not_fit_into_memory_are_not_tried(make_batch, monkeypatch) -> None:
    monkeypatch.setattr(timing, "_measure_free", lambda device: -1)
    objective = Slow()
    time_step(objective, [Sample(40.0, lambda: make_batch(*range(4)))] * 3, 40.0, num_workers=0, device=CPU)
    assert objective.passes == [1, 1, 1]


def test_without_memory_for_a_step_there_is_no_timing(make_batch) -> None:
    class TooLarge(Slow):
        def forward(self, batch: Any, frozen: bool) -> tuple[torch.Tensor, torch.Tensor]:
            raise torch.OutOfMemoryError("too large")

    assert time_step(TooLarge(), [Sample(2.0, lambda: make_batch(0))], 2.0, num_workers=0, device=CPU) is None
