"""The largest batch that fits is found by trying, with a GPU's memory made up of numbers."""

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from finetune.training.memory import _make_batch, find_batch_seconds, largest_count
from finetune.training.model import CTCObjective


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 31, 100, 1000])
def test_what_is_found_fits_and_little_more_would(most):
    tried = []

    def peak_bytes(count):
        tried.append(count)
        return None if count > 2 * most else 10 * count

    found = largest_count(peak_bytes, 10 * most + 5)
    assert most - max(1, most // 16) < found <= most
    assert len(tried) <= 18


def test_nothing_fits_where_one_is_too_many():
    assert largest_count(lambda count: None, 100) == 0
    assert largest_count(lambda count: 101, 100) == 0


def test_without_a_gpu_nothing_is_tried(accelerator):
    assert find_batch_seconds(accelerator, None, 20.0, 16000, None) == 80.0
    assert find_batch_seconds(accelerator, None, 90.0, 16000, None) == 90.0


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
