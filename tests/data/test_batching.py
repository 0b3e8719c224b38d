"""Each utterance occurs once per epoch; batches do not depend on processes, workers or restarts."""

import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.audio.augmentation import Augmentation, generator
from finetune.data.batching import (
    Batch,
    BatchOptions,
    Key,
    Masking,
    Shard,
    SpeechBatches,
    batch_order,
    begin,
    bucket,
    leave_signals_to_training,
    shard_batches,
)
from finetune.data.corpus import AudioSpec, SkippedUtterance, prepare_split
from finetune.data.sources import Source, load_splits, select_table
from finetune.models.configuration import encoder_convolutions, load_config, load_feature_extractor
from finetune.resources.machine import length_step
from finetune.text.vocabulary import build_vocabulary, count_characters, encode

SECONDS = np.random.default_rng(0).uniform(0.5, 9.0, size=101).tolist()
BATCH_SECONDS = 20.0


def take(batches: Iterator[list[Key]], count: int) -> list[list[Key]]:
    return list(itertools.islice(batches, count))


def padded_seconds(batch: Sequence[int]) -> float:
    return max(SECONDS[index] for index in batch) * len(batch)


def test_a_batch_has_at_most_its_seconds_with_padding() -> None:
    for seed in range(20):
        batches = bucket(SECONDS, BATCH_SECONDS, generator(seed, 0, 0, 0))
        assert max(map(padded_seconds, batches)) <= BATCH_SECONDS


@given(
    seconds=st.lists(st.floats(0.1, 20.0), min_size=1, max_size=200),
    batch_seconds=st.floats(20.0, 400.0),
    seed=st.integers(0, 2**32),
)
def test_for_any_lengths_each_utterance_occurs_once_and_no_batch_is_too_long(
    seconds: list[float], batch_seconds: float, seed: int
) -> None:
    batches = bucket(seconds, batch_seconds, np.random.default_rng(seed))
    assert sorted(index for batch in batches for index in batch) == list(range(len(seconds)))
    assert all(max(seconds[index] for index in batch) * len(batch) <= batch_seconds for batch in batches)


def test_batches_have_little_padding() -> None:
    batches = bucket(SECONDS * 10, BATCH_SECONDS, generator(0, 0, 0, 0))
    padded = sum(max((SECONDS * 10)[i] for i in batch) * len(batch) for batch in batches)
    assert sum(SECONDS * 10) / padded > 0.9


def test_each_utterance_occurs_once_in_each_epoch() -> None:
    keys = [key for batch in take(batch_order(SECONDS, BATCH_SECONDS, seed=3), 200) for key in batch]
    for epoch in (0, 1):
        assert sorted(index for e, index, _ in keys if e == epoch) == list(range(len(SECONDS)))


def test_epochs_and_seeds_differ_and_the_same_seed_repeats() -> None:
    first = take(batch_order(SECONDS, BATCH_SECONDS, seed=3), 10)
    assert first == take(batch_order(SECONDS, BATCH_SECONDS, seed=3), 10)
    assert first != take(batch_order(SECONDS, BATCH_SECONDS, seed=4), 10)
    orders = [bucket(SECONDS, BATCH_SECONDS, generator(3, epoch, 0, 0)) for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_an_epoch_has_an_utterance_as_often_as_its_weight() -> None:
    weights = [3.0 if index < 20 else 0.25 if index < 60 else 1.0 for index in range(len(SECONDS))]
    keys = [key for batch in take(batch_order(SECONDS, BATCH_SECONDS, 0, weights), 1500) for key in batch]
    last = keys[-1][0]
    assert last > 20
    counts = np.array(
        [[sum(1 for e, i, _ in keys if e == epoch and i == index) for index in (0, 30, 80)] for epoch in range(20)]
    )
    assert (counts[:, 0] == 3).all() and (counts[:, 2] == 1).all()
    assert set(counts[:, 1].tolist()) == {0, 1}
    rare = sum(1 for e, i, _ in keys if e < last and 20 <= i < 60) / (40 * last)
    assert rare == pytest.approx(0.25, abs=0.05)
    assert len(set(keys)) == len(keys)


def test_two_processes_have_the_batches_of_one_process_with_accumulation() -> None:
    def take_shard(rank: int, processes: int) -> list[list[Key]]:
        shard = Shard(0, 4, rank, processes)
        return take(shard_batches(batch_order(SECONDS, BATCH_SECONDS, 0), shard), 200 // processes)

    alone, first, second = take_shard(0, 1), take_shard(0, 2), take_shard(1, 2)
    for step in range(50):
        together = first[2 * step : 2 * step + 2] + second[2 * step : 2 * step + 2]
        assert sorted(together) == sorted(alone[4 * step : 4 * step + 4])


@pytest.mark.parametrize(("rank", "processes"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("first_step", [1, 7, 40])  # The last is in the second epoch.
def test_a_resumed_run_continues_with_the_batches_of_the_uninterrupted_run(
    rank: int, processes: int, first_step: int
) -> None:
    def begin_at(step: int) -> Iterator[list[Key]]:
        return shard_batches(batch_order(SECONDS, BATCH_SECONDS, 0), Shard(step, 2, rank, processes))

    whole = take(begin_at(0), 100)
    done = first_step * 2 // processes
    assert take(begin_at(first_step), 100 - done) == whole[done:]


@pytest.fixture
def make_batches(base_folder: Path) -> Callable[..., SpeechBatches]:
    def make(folder: Path, **changes: Any) -> SpeechBatches:
        config = load_config(str(base_folder))
        source = Source(str(folder))
        audio_spec = AudioSpec(16000, encoder_convolutions(config))
        split = prepare_split(
            "train", select_table(load_splits(source), "train", source), (), audio_spec, training=True
        )
        options: dict[str, Any] = {
            "vocabulary": build_vocabulary(sorted(count_characters(u.transcript for u in split.utterances))),
            "feature_extractor": load_feature_extractor(str(base_folder), config),
            "audio_spec": audio_spec,
            "augmentation": Augmentation(speed=(0.9, 1.1), noise_snr_db=(5, 20), gain_db=(-6, 6)),
            "masking": Masking(0.2, 5),
            "seed": 7,
        }
        return SpeechBatches(split, BatchOptions(**{**options, **changes}))

    return make


def load(data: SpeechBatches, num_workers: int, count: int = 6) -> list[Batch]:
    seconds = [utterance.seconds for utterance in data.split.utterances]
    batches = itertools.islice(batch_order(seconds, 6.0, data.options.seed), count)
    return list(data.loader(batches, num_workers))


def test_batches_do_not_depend_on_workers(make_batches: Callable[..., SpeechBatches], corpus_folder: Path) -> None:
    data = make_batches(corpus_folder)
    for alone, spread in zip(load(data, 0), load(data, 2), strict=True):
        for name, value in vars(alone).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(spread, name)), name
            else:
                assert value == getattr(spread, name)


def test_lengths_are_rounded_to_a_small_number_of_values() -> None:
    lengths = np.arange(16000, 320000)
    steps = np.array([length_step(int(length)) for length in lengths])
    rounded = -(-lengths // steps) * steps
    assert (rounded / lengths).max() < 1.04
    assert len(set(rounded.tolist())) < 175  # from 1 s to 20 s


def test_a_batch_is_padded_normalised_labelled_and_masked(
    make_batches: Callable[..., SpeechBatches], corpus_folder: Path
) -> None:
    data = make_batches(corpus_folder)
    keys = [(0, 0, 0), (0, 2, 0), (0, 4, 0)]
    batch = data.collate([data[key] for key in keys])
    samples = [len(data[key][1]) for key in keys]
    step = length_step(max(samples))
    padded = math.ceil(max(samples) / step) * step
    assert batch.input_values.shape == (3, padded)
    assert batch.attention_mask.sum(1).tolist() == samples
    assert batch.samples == sum(samples)
    assert batch.num_frames.tolist() == [data.options.audio_spec.num_frames(n) for n in samples]
    for row, count in zip(batch.input_values, samples, strict=True):
        assert row[:count].mean().item() == pytest.approx(0, abs=1e-3)
        assert row[:count].std().item() == pytest.approx(1, abs=1e-2)
        assert not row[count:].any()
    labels = [encode(data.split.utterances[index].transcript, data.options.vocabulary) for _, index, _ in keys]
    assert [row.tolist() for row in batch.labels.split(batch.label_lengths.tolist())] == labels
    assert batch.mask_time_indices is not None
    assert batch.mask_time_indices.shape == (3, data.options.audio_spec.num_frames(padded))
    for mask, frames in zip(batch.mask_time_indices, batch.num_frames.tolist(), strict=True):
        assert not mask[frames:].any()


def test_augmentation_depends_on_the_epoch_and_not_on_the_batch(
    make_batches: Callable[..., SpeechBatches], corpus_folder: Path
) -> None:
    data = make_batches(corpus_folder)
    alone, among = data.collate([data[(0, 3, 0)]]), data.collate([data[(0, 5, 0)], data[(0, 3, 0)]])
    samples, frames = int(alone.attention_mask.sum()), int(alone.num_frames[0])
    assert torch.equal(alone.input_values[0, :samples], among.input_values[1, :samples])
    assert alone.mask_time_indices is not None and among.mask_time_indices is not None
    assert torch.equal(alone.mask_time_indices[0, :frames], among.mask_time_indices[1, :frames])
    later = data[(1, 3, 0)][1]
    assert len(later) != samples or not np.array_equal(later, data[(0, 3, 0)][1])


def test_copies_of_an_utterance_in_one_epoch_are_augmented_differently(
    make_batches: Callable[..., SpeechBatches], corpus_folder: Path
) -> None:
    data = make_batches(corpus_folder)
    first, second = data[(0, 3, 0)][1], data[(0, 3, 1)][1]
    assert len(first) != len(second) or not np.array_equal(first, second)


def test_without_time_masks_there_are_none(make_batches: Callable[..., SpeechBatches], corpus_folder: Path) -> None:
    data = make_batches(corpus_folder, masking=Masking(0.0, 5))
    assert data.collate([data[(0, 0, 0)], data[(0, 1, 0)]]).mask_time_indices is None


def test_audio_that_fails_becomes_silence_without_labels_and_is_reported(
    make_batches: Callable[..., SpeechBatches], make_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_batches(make_corpus(tmp_path, ["ab", "cab", "dad"]))
    (tmp_path / "01.wav").unlink()
    batch = data.collate([data[(0, index, 0)] for index in range(3)])
    assert batch.unreadable == (
        SkippedUtterance("train", 1, "01.wav", "no such file", str(tmp_path / "01.wav"), str(tmp_path)),
    )
    assert batch.label_lengths.tolist() == [2, 0, 3]
    assert not batch.input_values[1].any()
    assert torch.isfinite(batch.input_values).all()


class Endless(torch.utils.data.Dataset):
    """One example, then none for 15 minutes."""

    def __getitem__(self, index):
        time.sleep(900 * index)
        return index


@pytest.mark.long
def test_a_closed_loader_leaves_no_worker_even_a_stuck_one():
    """Workers ignore the signal that torch sends, so Python would wait for them at exit forever."""
    before = set(multiprocessing.active_children())
    loader = torch.utils.data.DataLoader(
        Endless(), batch_sampler=[[0], [1]], num_workers=1, worker_init_fn=leave_signals_to_training
    )
    batches = begin(loader)
    assert next(batches).tolist() == [0]
    assert set(multiprocessing.active_children()) != before
    batches.close()
    assert set(multiprocessing.active_children()) == before
