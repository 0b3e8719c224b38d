"""Batches of pre-training: masks over time, and for each masked frame the other masked frames it is compared with."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from finetune.audio.augmentation import generator
from finetune.audio.waveforms import Waveform
from finetune.data.batching import CONTRAST, Batch, Key, SpeechBatches
from finetune.data.corpus import SkippedUtterance


class MaskedBatches(SpeechBatches):
    """Reads, augments and collates the utterances of a split for pre-training; transcripts are not used."""

    def collate(self, examples: Sequence[tuple[Key, Waveform, SkippedUtterance | None]]) -> Batch:
        """Normalise, pad and mask; the labels are negatives.

        `labels` (masked frames of all utterances, negatives): each row belongs to a masked frame, and holds the numbers
        of its negatives among the masked frames of its utterance. `label_lengths` are the masked frames of each
        utterance. An utterance that cannot be read, or has only one masked frame, has none.
        """
        batch = super().collate(examples)
        assert batch.mask_time_indices is not None
        masks, negatives, seeds = batch.mask_time_indices.clone(), [], []
        for i, ((epoch, index, copy), _, rejection) in enumerate(examples):
            rng = generator(self.options.seed, epoch, self.split.utterances[index].row, CONTRAST, copy)
            count = int(masks[i].sum())
            if rejection is not None or count < 2:
                masks[i], count = False, 0
            seeds.append(int(rng.integers(2**62)))
            negatives.append(draw_negatives(count, self.options.num_negatives, rng))
        return replace(
            batch,
            mask_time_indices=masks,
            labels=torch.from_numpy(np.concatenate(negatives)),
            label_lengths=torch.tensor([len(each) for each in negatives]),
            seeds=torch.tensor(seeds),
        )


def draw_negatives(count: int, num_negatives: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """For each of `count` masked frames the numbers of others, with equal probability: (count, num_negatives).

    Source: wav2vec 2.0 (arXiv 2006.11477, section 3.2): distractors are other masked frames of the same utterance.
    """
    if count < 2:
        return np.zeros((0, num_negatives), dtype=np.int64)
    drawn = rng.integers(count - 1, size=(count, num_negatives))
    return drawn + (drawn >= np.arange(count)[:, None])
