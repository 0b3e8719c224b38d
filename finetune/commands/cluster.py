"""Transcribing on a Ray cluster: what its actors compute, and where they find it."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.audio.waveforms import AudioError, Recording
from finetune.commands.launch import settle_folders
from finetune.commands.transcription import Formatted, Found, Job, OnProgress, transcribe_here
from finetune.errors import UserError
from finetune.files import hash_folder
from finetune.resources.cluster import ClusterOptions, Lost, compute_on_cluster, join_cluster, name_for_nodes
from finetune.resources.storage import is_url


@dataclass(frozen=True)
class TranscriptionWork:
    """What an actor transcribes with: a model, the arguments of `Transcriber`, and the folder of relative paths."""

    model: str
    how: Mapping[str, Any]
    separate_channels: bool
    folder: str

    def load(self) -> tuple[Callable[[Sequence[Job]], list[Formatted | AudioError]], str]:
        """Load the model on a node; raises UserError."""
        settle_folders()
        from finetune.inference.transcriber import Transcriber
        from finetune.resources.repositories import fetch_model

        model = fetch_model(self.model)
        transcriber = Transcriber(model, **self.how)

        def transcribe(jobs: Sequence[Job]) -> list[Formatted | AudioError]:
            placed = [replace(job, input=replace(job.input, recording=self._place(job))) for job in jobs]
            found = transcribe_here(transcriber, self.separate_channels, placed, lambda _: None)
            return [answer for _, answer in found]

        return transcribe, f"{__version__} {hash_folder(model)}"

    def _place(self, job: Job) -> Recording:
        recording = job.input.recording
        assert isinstance(recording, Recording)
        if recording.path is None or is_url(recording.path):
            return recording
        return replace(recording, path=os.path.join(self.folder, recording.path))  # noqa: PTH118 (keeps "./-")


def transcribe_on_cluster(
    model: str,
    how: Mapping[str, Any],
    separate_channels: bool,
    options: ClusterOptions,
    jobs: Sequence[Job],
    on_progress: OnProgress,
) -> Found:
    """Transcribe jobs on a cluster, in the order of their ends; `how` are the arguments of `Transcriber`.

    Raises UserError for standard input, and as `join_cluster` and `compute_on_cluster` do.
    """
    if any(job.input.recording is None for job in jobs):
        raise UserError("Standard input can't be sent to a cluster: write it to a file, or leave out --engine ray.")
    how = dict(how)
    how["device"] = str(how["device"]).partition(":")[0]  # An actor sees its own GPU alone.
    if how["language_model"]:
        how["language_model"] = name_for_nodes(how["language_model"])
    work = TranscriptionWork(name_for_nodes(model), how, separate_channels, str(Path.cwd()))
    with join_cluster(options.address), closing(compute_on_cluster(work, jobs, options)) as answers:
        for batch, answer in answers:
            if isinstance(answer, Lost):
                yield from ((job, AudioError(answer.reason)) for job in batch)
                continue
            for job, found in zip(batch, answer, strict=True):
                if isinstance(found, Formatted):
                    on_progress(found.seconds)
                yield job, found
