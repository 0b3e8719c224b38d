"""Tiny models in pre-training, and masked batches of the tones."""

from pathlib import Path
from typing import Any

from finetune.audio.augmentation import Augmentation
from finetune.data.batching import Batch, BatchOptions, Masking
from finetune.data.corpus import AudioSpec, prepare_split
from finetune.data.masked_batches import MaskedBatches
from finetune.data.sources import Source, load_splits, select_table
from finetune.models.configuration import encoder_convolutions, load_config, load_feature_extractor
from finetune.models.pretraining import build_pretraining_model

NEGATIVES = 20


def masked_data(base: Path, corpus: Path, seed: int = 0, **changes: Any) -> MaskedBatches:
    """The training utterances of the tones, two thirds of whose frames masks would cover."""
    config = load_config(str(base))
    extractor = load_feature_extractor(str(base), config)
    audio_spec = AudioSpec(extractor.sampling_rate, encoder_convolutions(config))
    source = Source(str(corpus), transcribed=False)
    split = prepare_split("train", select_table(load_splits(source), "train", source), (), audio_spec)
    values = {"masking": Masking(0.65, 4), "num_negatives": NEGATIVES, **changes}
    return MaskedBatches(split, BatchOptions({}, extractor, audio_spec, Augmentation(), seed=seed, **values))


def collate(data: MaskedBatches, *indices: int, epoch: int = 0) -> Batch:
    """A batch of some utterances."""
    return data.collate([data[(epoch, index, 0)] for index in indices])


def build(base: Path | None, config_of: Path | None = None, **arguments: Any) -> Any:
    """A model in pre-training without dropout, and which parts of it are new."""
    config = load_config(str(config_of or base))
    values = {"dropout": 0.0, "feature_gradient_scale": 1.0, "seed": 0, **arguments}
    return build_pretraining_model(config, None if base is None else str(base), **values)
