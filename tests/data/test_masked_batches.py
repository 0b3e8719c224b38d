"""Batches of pre-training: masks and negatives depend on the utterance alone."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pretraining import NEGATIVES, collate, masked_data

from finetune.data.batching import Masking
from finetune.data.masked_batches import draw_negatives


def rows_of(batch, utterance):
    return batch.labels.split(batch.label_lengths.tolist())[utterance]


def test_negatives_are_other_masked_frames_with_equal_probability():
    drawn = draw_negatives(5, 4000, np.random.default_rng(0))
    assert drawn.shape == (5, 4000)
    for frame, row in enumerate(drawn):
        counts = np.bincount(row, minlength=5)
        assert counts[frame] == 0
        assert np.delete(counts, frame) == pytest.approx(1000, rel=0.12)


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_masked_frame_has_no_negatives(count):
    assert draw_negatives(count, 3, np.random.default_rng(0)).shape == (0, 3)


def test_an_utterance_has_the_same_masks_and_negatives_in_any_batch(base_folder, corpus_folder):
    data = masked_data(base_folder, corpus_folder)
    alone, together = collate(data, 2), collate(data, 0, 2)
    assert torch.equal(rows_of(alone, 0), rows_of(together, 1)) and alone.labels.shape[1] == NEGATIVES
    frames = int(alone.num_frames[0])
    assert torch.equal(alone.mask_time_indices[0, :frames], together.mask_time_indices[1, :frames])
    assert not together.mask_time_indices[1, frames:].any()
    assert torch.equal(together.label_lengths, together.mask_time_indices.sum(-1))
    assert alone.seeds[0] == together.seeds[1] != together.seeds[0]
    later = collate(data, 2, epoch=1)
    assert later.seeds[0] != alone.seeds[0]
    assert not torch.equal(later.mask_time_indices, alone.mask_time_indices)


def test_halves_keep_what_belongs_to_an_utterance(base_folder, corpus_folder):
    batch = collate(masked_data(base_folder, corpus_folder), 0, 1, 2)
    first, rest = batch.halves()
    assert torch.equal(first.labels, rows_of(batch, 0)) and torch.equal(
        rest.labels[: len(rows_of(batch, 1))], rows_of(batch, 1)
    )
    assert torch.equal(torch.cat([first.seeds, rest.seeds]), batch.seeds)


def test_unreadable_audio_and_too_little_speech_have_no_masked_frames(base_folder, make_corpus, tmp_path: Path):
    folder = make_corpus(tmp_path / "train", ["ab", "cab", "dad"])
    data = masked_data(base_folder, tmp_path)
    with (folder / "01.wav").open("r+b") as file:
        file.truncate(60)
    soundfile.write(folder / "02.wav", np.ones(450, dtype=np.float32), 16000)  # One frame.
    batch = collate(data, 0, 1, 2)
    assert [each.name for each in batch.unreadable] == ["01.wav"]
    assert batch.label_lengths[0] > 0 and batch.label_lengths[1:].tolist() == [0, 0]
    assert not batch.mask_time_indices[1:].any()
    assert len(batch.labels) == batch.label_lengths[0]


def test_masks_are_as_wide_and_as_many_as_asked(base_folder, corpus_folder):
    data = masked_data(base_folder, corpus_folder, masking=Masking(0.65, 10))
    batch = collate(data, *range(24))
    share = float(batch.label_lengths.sum() / batch.num_frames.sum())
    assert 0.4 < share < 0.6
