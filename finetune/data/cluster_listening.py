"""Decode the audio of a split on a Ray cluster, for its validation."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from finetune import __version__
from finetune.audio.preprocessing import Transform
from finetune.audio.waveforms import AudioError, Recording, fault_as_reason
from finetune.data.corpus import Split, Utterance
from finetune.data.validation_report import Heard, describe_unusable, listen_to
from finetune.resources.cluster import ClusterOptions, Lost, compute_on_cluster, join_cluster
from finetune.resources.storage import is_url


@dataclass(frozen=True)
class ListeningWork:
    """What an actor decodes with: recordings that are sent with the lengths that they are to have, in seconds."""

    sampling_rate: int
    preprocessing: tuple[Transform, ...]

    def load(self) -> tuple[Callable[[Sequence[tuple[int, Recording, float]]], list[Heard]], str]:
        """Nothing is to be loaded."""

        def listen(batch: Sequence[tuple[int, Recording, float]]) -> list[Heard]:
            return [
                listen_to(recording, seconds, self.sampling_rate, self.preprocessing) for _, recording, seconds in batch
            ]

        return listen, __version__


def listen_on_cluster(cluster: ClusterOptions, split: Split, sampling_rate: int) -> Iterator[tuple[Utterance, Heard]]:
    """Decode all utterances of a split at a sampling rate (Hz), in any order.

    Audio whose bytes are in the table (Parquet) is decoded here: it would all go through this process anyway. Raises
    UserError as `join_cluster` and `compute_on_cluster` do.
    """
    tasks: list[tuple[int, Recording, float]] = []
    for number, utterance in enumerate(split.utterances):
        try:
            with fault_as_reason():
                recording = split.table.recording(utterance.row)
        except AudioError as error:
            yield utterance, describe_unusable(error)
            continue
        if recording.data is not None:
            yield utterance, listen_to(recording, utterance.seconds, sampling_rate, split.preprocessing)
            continue
        if recording.path is not None and not is_url(recording.path):
            recording = replace(recording, path=os.path.abspath(recording.path))  # noqa: PTH100 (links stay)
        tasks.append((number, recording, utterance.seconds))
    work = ListeningWork(sampling_rate, split.preprocessing)
    with join_cluster(cluster.address), closing(compute_on_cluster(work, tasks, cluster)) as answers:
        for batch, answer in answers:
            lost = describe_unusable(AudioError(answer.reason)) if isinstance(answer, Lost) else None
            heard = [lost] * len(batch) if isinstance(answer, Lost) else answer
            for (number, _, _), each in zip(batch, heard, strict=True):
                assert each is not None
                yield split.utterances[number], each
