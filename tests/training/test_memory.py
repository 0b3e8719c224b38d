"""The largest batch that fits is found by trying, on a GPU with simulated memory."""

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from finetune.models.build import CTCObjective
from finetune.resources.machine import Memory
from finetune.training.memory import _make_batch, find_batch_seconds, largest_count


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 31, 100, 1000])
def test_the_found_batch_fits_and_a_little_more_does_not(most):
    tried = []

    def peak_bytes(count):
        tried.append(count)
        return None if count > 2 * most else 10 * count

    found = largest_count(peak_bytes, 10 * most + 5)
    assert most - max(1, most // 16) < found <= most
    assert len(tried) <= 18


def test_zero_when_one_utterance_does_not_fit():
    assert largest_count(lambda count: None, 100) == 0
    assert largest_count(lambda count: 101, 100) == 0


@pytest.fixture
def small_gpu(gpu):
    """A process that may have 2 GiB of the GPU."""
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / torch.cuda.mem_get_info()[1])
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
def test_on_a_gpu_what_is_found_fits_and_twice_as_much_does_not(build, small_gpu, monkeypatch):
    for state in (PartialState, AcceleratorState):  # Those of other tests are on the CPU, and stay there.
        monkeypatch.setattr(state, "_shared_state", {})
    accelerator, model = Accelerator(mixed_precision="bf16"), build(freeze_feature_encoder=False)
    objective = accelerator.prepare(CTCObjective(model))

    def num_frames(samples):
        return int(model._get_feat_extract_output_lengths(samples))

    def step(count):
        loss, _ = objective(_make_batch(count, 5 * 16000, num_frames).to(accelerator.device))
        accelerator.backward(loss)

    seconds = find_batch_seconds(accelerator, objective, 5.0, 16000, num_frames)
    assert seconds > 0 and seconds % 5 == 0
    step(round(seconds / 5))
    with pytest.raises(torch.OutOfMemoryError):
        step(2 * round(seconds / 5))


@pytest.mark.parametrize(
    ("max_seconds", "free_mib", "processes", "seconds"),
    [(10.0, 64, 1, 20.0), (10.0, 64, 2, 10.0), (10.0, 4096, 1, 80.0), (10.0, 1, 1, 10.0), (90.0, 4096, 1, 90.0)],
    ids=["half of what is free", "shared by two processes", "no more than helps", "one at least", "one that is long"],
)
def test_a_cpu_takes_half_of_the_free_memory(accelerator, monkeypatch, max_seconds, free_mib, processes, seconds):
    """One utterance is computed; its memory is simulated: 12 MiB, and 4 MiB for AdamW."""
    tried = []
    weight = torch.nn.Parameter(torch.zeros(1 << 19))

    class Objective(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, batch, _):
            tried.append((*batch.input_values.shape, self.training))
            return self.weight.sum() + batch.input_values.sum(), None

    def grow(work):
        work()
        return 12 << 20

    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr("finetune.training.memory.measure_growth", grow)
    monkeypatch.setattr(
        "finetune.training.memory.measure_memory", lambda: Memory(1 << 33, (free_mib << 20), limited=True)
    )
    objective = Objective().eval()  # As models are that were loaded.
    found = find_batch_seconds(accelerator, objective, max_seconds, 16000, lambda samples: samples // 320)
    assert found == seconds
    assert tried == [(1, round(max_seconds * 16000), True)]
    assert not objective.training
    assert weight.grad is None
