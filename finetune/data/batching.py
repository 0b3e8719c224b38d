"""Batches by seconds of audio: an order that depends only on the seed, sharded over any number of processes."""

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from finetune.audio.augmentation import Augmentation, draw_mask, generator
from finetune.audio.waveforms import AudioError, Waveform, fault_as_reason
from finetune.data.corpus import AudioSpec, SkippedUtterance, Split
from finetune.resources.machine import choose_device, length_step
from finetune.text.vocabulary import encode

# Streams of random numbers, one for each purpose.
ORDER, _WAVEFORM, _MASK, _COPIES, ROWS, SHARES, CONTRAST = range(7)

_WITHOUT_LOSS = AudioError("no finite loss: the logits are not finite, or there are more labels than frames")

Key = tuple[int, int, int]  # (epoch, index of the utterance in its split, number of its copy in this epoch)


@dataclass(frozen=True)
class Batch:
    """Padded speech with its labels.

    input_values (batch, samples) float32; attention_mask (batch, samples), 1 for speech and 0 for padding; `samples`
    without padding; num_frames (batch,) valid encoder frames; mask_time_indices (batch, frames) or None;
    mask_feature_indices (batch, features) or None; labels, concatenated; label_lengths (batch,). `unreadable` are the
    utterances whose audio failed, which are silence without labels here. `without_loss` has an entry for each
    utterance, to be reported if its loss is not finite. `seeds` (batch,) are of what an objective draws at random for
    each utterance, or None.
    """

    input_values: torch.Tensor
    attention_mask: torch.Tensor
    samples: int
    num_frames: torch.Tensor
    mask_time_indices: torch.Tensor | None
    mask_feature_indices: torch.Tensor | None
    labels: torch.Tensor
    label_lengths: torch.Tensor
    unreadable: tuple[SkippedUtterance, ...]
    without_loss: tuple[SkippedUtterance, ...] = ()
    seeds: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """A copy on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """A copy in pinned memory; called by the loader if there is a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def halves(self) -> "tuple[Batch, ...]":
        """The first half of the utterances and the rest, padded as before; a single utterance is not split."""
        count = len(self.num_frames)
        if count == 1:
            return (self,)
        middle = count // 2
        first = int(self.label_lengths[:middle].sum())

        def part(utterances: slice, labels: slice, **others: Any) -> Batch:
            cut = self._map(lambda tensor: tensor[utterances])
            return replace(cut, labels=self.labels[labels], without_loss=self.without_loss[utterances], **others)

        return part(slice(middle), slice(first)), part(slice(middle, None), slice(first, None), unreadable=())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return Batch(**{**vars(self), **{name: change(tensor) for name, tensor in tensors.items()}})


def bucket(seconds: Sequence[float], batch_seconds: float, rng: np.random.Generator) -> list[list[int]]:
    """Batches of indices, in random order, with a padded length (longest times count) of at most `batch_seconds`.

    Utterances are sorted by length with 10 % of jitter, so that batches differ between epochs and padding is about 5 %.
    """
    jittered = np.asarray(seconds) * rng.uniform(0.95, 1.05, size=len(seconds))
    batches: list[list[int]] = []
    longest = 0.0
    for index in np.argsort(jittered, kind="stable").tolist():
        longest = max(longest, seconds[index])
        if not batches or longest * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
            longest = seconds[index]
        batches[-1].append(index)
    return [batches[i] for i in rng.permutation(len(batches))]


# On a GPU, whose kernels do not depend on the shape, lengths are rounded up to 0.1 s at 16 kHz.
GPU_PADDING_SAMPLES = 1600


def batch_order(
    seconds: Sequence[float], batch_seconds: float, seed: int, weights: Sequence[float] | None = None
) -> Iterator[list[Key]]:
    """The batches of all epochs, without end; on average an epoch has each utterance `weights` times, by default once.

    The fractional part of a weight is a probability.
    """
    epoch = 0
    while True:
        copies = [(index, 0) for index in range(len(seconds))]
        if weights is not None:
            drawn = np.asarray(weights) + generator(seed, epoch, 0, _COPIES).random(len(seconds))
            copies = [(index, copy) for index, count in enumerate(drawn.astype(int).tolist()) for copy in range(count)]
        lengths = [seconds[index] for index, _ in copies]
        for batch in bucket(lengths, batch_seconds, generator(seed, epoch, 0, ORDER)):
            yield [(epoch, *copies[place]) for place in batch]
        epoch += 1


@dataclass(frozen=True)
class Shard:
    """The batches of one process from `first_step` on: of each step's `batches_per_step` every `num_processes`-th.

    The batches of a step depend only on the step, so a run can be resumed at any step, with any number of processes
    that divides `batches_per_step`.
    """

    first_step: int
    batches_per_step: int
    rank: int
    num_processes: int

    def is_past(self, position: int) -> bool:
        """Whether the batch at a position of the order is of a step before `first_step`."""
        return position < self.first_step * self.batches_per_step

    def holds(self, position: int) -> bool:
        """Whether this process takes the batch at a position of the order."""
        return not self.is_past(position) and position % self.num_processes == self.rank


def shard_batches(batches: Iterator[list[Key]], shard: Shard) -> Iterator[list[Key]]:
    """The batches of one process."""
    return (batch for position, batch in enumerate(batches) if shard.holds(position))


@dataclass(frozen=True)
class Masking:
    """SpecAugment: probability and length of masks in time (frames) and over features, `num_features` in all."""

    time_probability: float = 0.0
    time_length: int = 1
    feature_probability: float = 0.0
    feature_length: int = 1
    num_features: int = 0


@dataclass(frozen=True)
class BatchOptions:
    """How utterances become a training batch, padded to a multiple of `padding_samples` (`length_step` if None)."""

    vocabulary: dict[str, int]
    feature_extractor: Any
    audio_spec: AudioSpec
    augmentation: Augmentation
    masking: Masking
    seed: int
    padding_samples: int | None = None
    num_negatives: int = 0  # of each masked frame, in pre-training


class SpeechBatches(torch.utils.data.Dataset[tuple[Key, Waveform, SkippedUtterance | None]]):
    """Reads, augments and collates the utterances of a split for training."""

    def __init__(self, split: Split, options: BatchOptions) -> None:
        self.split, self.options = split, options

    def __getitem__(self, key: Key) -> tuple[Key, Waveform, SkippedUtterance | None]:
        epoch, index, copy = key
        utterance = self.split.utterances[index]
        rng = generator(self.options.seed, epoch, utterance.row, _WAVEFORM, copy)
        try:
            waveform = self.split.read(utterance, self.options.audio_spec.sampling_rate)
            with fault_as_reason():
                return key, self.options.augmentation.apply(waveform, rng), None
        except AudioError as error:
            silence = np.zeros(self.options.audio_spec.sampling_rate, dtype=np.float32)
            return key, silence, self.split.reject(utterance.row, error)

    def collate(self, examples: Sequence[tuple[Key, Waveform, SkippedUtterance | None]]) -> Batch:
        """Normalise and pad with the model's feature extractor, encode labels, draw masks."""
        options, audio_spec = self.options, self.options.audio_spec
        utterances = [self.split.utterances[index] for (_, index, _), _, _ in examples]
        rejections = [rejection for _, _, rejection in examples]
        lengths = [len(waveform) for _, waveform, _ in examples]
        features = options.feature_extractor(
            [waveform for _, waveform, _ in examples],
            sampling_rate=audio_spec.sampling_rate,
            padding=True,
            pad_to_multiple_of=options.padding_samples or length_step(max(lengths)),
            return_attention_mask=True,
            return_tensors="pt",
        )
        spoken = ["" if rejection else each.transcript for each, rejection in zip(utterances, rejections, strict=True)]
        labels = [encode(transcript, options.vocabulary) if transcript else [] for transcript in spoken]
        num_frames = [audio_spec.num_frames(length) for length in lengths]
        padded_frames = audio_spec.num_frames(features["input_values"].shape[1])
        mask_time, mask_feature = self._draw_masks([key for key, _, _ in examples], num_frames, padded_frames)
        return Batch(
            input_values=features["input_values"],
            attention_mask=features["attention_mask"],
            samples=sum(lengths),
            num_frames=torch.tensor(num_frames),
            mask_time_indices=mask_time,
            mask_feature_indices=mask_feature,
            labels=torch.tensor([label for utterance in labels for label in utterance], dtype=torch.long),
            label_lengths=torch.tensor([len(utterance) for utterance in labels]),
            unreadable=tuple(filter(None, rejections)),
            without_loss=tuple(self.split.reject(utterance.row, _WITHOUT_LOSS) for utterance in utterances),
        )

    def _draw_masks(
        self, keys: Sequence[Key], num_frames: Sequence[int], padded_frames: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        masking, features = self.options.masking, self.options.masking.num_features
        time = torch.zeros(len(keys), padded_frames, dtype=torch.bool) if masking.time_probability else None
        feature = torch.zeros(len(keys), features, dtype=torch.bool) if masking.feature_probability else None
        for i, ((epoch, index, copy), frames) in enumerate(zip(keys, num_frames, strict=True)):
            rng = generator(self.options.seed, epoch, self.split.utterances[index].row, _MASK, copy)
            if time is not None:
                mask = draw_mask(frames, masking.time_probability, masking.time_length, rng)
                time[i, :frames] = torch.from_numpy(mask)
            if feature is not None:
                mask = draw_mask(features, masking.feature_probability, masking.feature_length, rng)
                feature[i] = torch.from_numpy(mask)
        return time, feature

    def loader(self, batches: Iterator[list[Key]], num_workers: int) -> "torch.utils.data.DataLoader[Any]":
        """A loader of `Batch`es in the order of `batches`."""
        return torch.utils.data.DataLoader(
            self,
            batch_sampler=batches,  # Any iterable of index lists.
            collate_fn=self.collate,
            num_workers=num_workers,
            pin_memory=choose_device().type == "cuda",
            prefetch_factor=4 if num_workers else None,
            worker_init_fn=leave_signals_to_training,
        )


def begin(loader: "torch.utils.data.DataLoader[Any]") -> Generator[Batch, None, None]:
    """A loader's batches, with its workers started; closing the generator ends the workers at once."""
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    return _iterate(batches, set(multiprocessing.active_children()) - others)


def _iterate(batches: Iterator[Batch], workers: Iterable[Any]) -> Generator[Batch, None, None]:
    try:
        yield from batches
    finally:
        del batches  # torch asks the workers to end, waits 5 s, and sends SIGTERM, which they ignore.
        for worker in workers:
            worker.kill()
            worker.join()


def leave_signals_to_training(_: int) -> None:
    """Let a loader's worker ignore signals that the whole process group receives: the training process handles them."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP.
            signal.signal(getattr(signal, name), signal.SIG_IGN)
