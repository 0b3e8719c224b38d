"""The largest batch that fits is found by trying, with a GPU's memory made up of numbers."""

import pytest

from finetune.training.memory import find_batch_seconds, largest_count


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
