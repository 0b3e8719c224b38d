"""The tiny encoder with a head for the tones' letters, and batches of the tones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from torch import nn

from finetune.audio.augmentation import Augmentation
from finetune.data.batching import Batch, BatchOptions, Masking, SpeechBatches
from finetune.data.corpus import AudioSpec, prepare_split
from finetune.data.sources import Source, load_splits, select_table
from finetune.models.build import build_model
from finetune.models.configuration import (
    count_features,
    encoder_convolutions,
    load_config,
    load_feature_extractor,
)
from finetune.text.transcripts import DEFAULT_TRANSFORMS
from finetune.text.vocabulary import PAD, build_vocabulary

VOCABULARY = build_vocabulary("abcd")


@pytest.fixture(scope="session")
def vocabulary() -> dict[str, int]:
    """The blank, the word delimiter, the tones' four letters, [UNK]."""
    return VOCABULARY


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    """One process on the CPU, fp32."""
    return Accelerator(mixed_precision="no", cpu=True)


@pytest.fixture
def build(base_folder: Path) -> Callable[..., nn.Module]:
    """`build(base=…, dropout=…)` makes a model by `build_model`; left to its defaults: the tiny base, no dropout."""

    def build_tiny(base: str | None = str(base_folder), **arguments: Any) -> nn.Module:
        defaults = {"vocabulary": VOCABULARY, "blank": PAD, "dropout": 0.0, "mask_time_probability": 0.0, "seed": 0}
        return build_model(load_config(base or str(base_folder)), base, **{**defaults, **arguments})

    return build_tiny


@pytest.fixture(scope="session")
def make_batch(base_folder: Path, corpus_folder: Path) -> Callable[..., Batch]:
    """`make_batch(0, 2, mask_time=(0.3, 4), epoch=0)` collates the training utterances 0 and 2, for a `base`."""
    source = Source(str(corpus_folder))

    def make(
        *indices: int,
        base: str = str(base_folder),
        mask_time: tuple[float, int] = (0.0, 1),
        mask_feature: tuple[float, int] = (0.0, 1),
        epoch: int = 0,
    ) -> Batch:
        config = load_config(base)
        extractor = load_feature_extractor(base, config)
        audio_spec = AudioSpec(extractor.sampling_rate, encoder_convolutions(config))
        table = select_table(load_splits(source), "train", source)
        split = prepare_split("train", table, DEFAULT_TRANSFORMS, audio_spec)
        masking = Masking(*mask_time, *mask_feature, num_features=count_features(config))
        data = SpeechBatches(split, BatchOptions(VOCABULARY, extractor, audio_spec, Augmentation(), masking, seed=0))
        return data.collate([data[(epoch, index, 0)] for index in indices])

    return make
