"""Measure a candidate beside its champion, and make every check of the gate."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.audio.waveforms import AudioError, Waveform
from finetune.data.corpus import Split
from finetune.errors import UserError
from finetune.evaluation.results import Result
from finetune.inference.recogniser import Recogniser
from finetune.publishing.parity import require_parity
from finetune.run.candidate import Speech
from finetune.run.gate import (
    Check,
    GateLimits,
    WerChange,
    check_golden,
    check_parity,
    check_size,
    check_snapshot,
    check_speed,
    check_texts,
    measure_size,
    measure_speeds,
)
from finetune.run.publication import recognise_some

# Utterances that both models are timed on.
_TIMED = 40


def check_models(
    champion: Path,
    model: Path,
    before: Recogniser,
    after: Recogniser,
    changes: tuple[WerChange, WerChange],
    corrections_after: Sequence[Result],
    speech: Speech,
    limits: GateLimits,
) -> list[Check]:
    """All checks of a model and its champion, with their recognisers `after` and `before`.

    `changes` are those of the golden set and of the snapshot's test split, of which the model has the results
    `corrections_after`. The recogniser `after` decodes greedily afterwards.
    """
    golden, corrections = changes
    speeds = measure_speeds(before, after, read_some(speech.golden, before.sampling_rate))
    return [
        check_golden(golden, limits),
        check_snapshot(corrections, limits),
        check_texts(corrections_after),
        _measure_parity(model, after, speech.old.validation),
        check_size(measure_size(champion), measure_size(model), limits),
        check_speed(speeds, limits),
    ]


def read_some(split: Split, sampling_rate: int) -> Sequence[Waveform]:
    """Some waveforms of a split, evenly spread; those that cannot be read are left out."""
    every = split.utterances
    waveforms = []
    for place in np.unique(np.linspace(0, len(every) - 1, min(len(every), _TIMED)).round().astype(int)):
        try:
            waveforms.append(split.read(every[place], sampling_rate))
        except AudioError:
            continue
    return waveforms


def _measure_parity(model: Path, recogniser: Recogniser, split: Split) -> Check:
    try:
        spoken = recognise_some(model, recogniser, split)
        require_parity(model, spoken)
    except UserError as error:
        return check_parity(str(error).splitlines()[0], 0)
    return check_parity(None, len(spoken))
