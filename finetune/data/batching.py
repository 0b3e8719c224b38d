"""Batches by seconds of audio: a stream that depends on the seed alone, dealt to any number of processes."""

import multiprocessing
import signal
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune.audio.augmentation import Augmentation, draw_mask, generator
from finetune.audio.waveforms import AudioError, Waveform, fault_as_reason
from finetune.data.corpus import AudioSpec, Rejection, Split
from finetune.resources.machine import choose_device, length_step
from finetune.text.vocabulary import encode

# Purposes of random numbers, so that no two draws share a stream.
ORDER, _WAVEFORM, _MASK, _COPIES, ROWS, SHARES = range(6)

_WITHOUT_LOSS = AudioError("no finite loss: its logits are not finite, or its labels are more than its frames")

Key = tuple[int, int, int]  # (epoch, index of the utterance in its split, which of its copies in this epoch)


@dataclass(frozen=True)
class Batch:
    """Padded speech with its labels.

    input_values (batch, samples) float32; attention_mask (batch, samples), 1 for speech and 0 for padding; `samples` of
    speech in all, padding not counted; num_frames (batch,) valid encoder frames; mask_time_indices (batch, frames) or
    None; mask_feature_indices (batch, features) or None; labels: all of them one after the other, label_lengths
    (batch,). `unreadable` are the utterances whose audio failed: their place holds silence and no labels.
    `without_loss` is what to say of each utterance should its loss not be finite.
    """

    input_values: torch.Tensor
    attention_mask: torch.Tensor
    samples: int
    num_frames: torch.Tensor
    mask_time_indices: torch.Tensor | None
    mask_feature_indices: torch.Tensor | None
    labels: torch.Tensor
    label_lengths: torch.Tensor
    unreadable: tuple[Rejection, ...]
    without_loss: tuple[Rejection, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """A copy on a device."""

        def move(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value

        return Batch(**{name: move(value) for name, value in vars(self).items()})

    def pin_memory(self) -> "Batch":
        """A copy in pinned memory, which the loader asks for when there is a GPU."""

        def pin(value: Any) -> Any:
            return value.pin_memory() if isinstance(value, torch.Tensor) else value

        return Batch(**{name: pin(value) for name, value in vars(self).items()})

    def halves(self) -> "tuple[Batch, ...]":
        """The first half of the utterances and the rest, as long as the whole; one utterance is only itself."""
        count = len(self.num_frames)
        if count == 1:
            return (self,)
        middle = count // 2
        first = int(self.label_lengths[:middle].sum())

        def part(utterances: slice, labels: slice, **others: Any) -> Batch:
            cut = {
                name: value[utterances] if isinstance(value, torch.Tensor) else value
                for name, value in vars(self).items()
            }
            return Batch(
                **{**cut, "labels": self.labels[labels], "without_loss": self.without_loss[utterances], **others}
            )

        return part(slice(middle), slice(first)), part(slice(middle, None), slice(first, None), unreadable=())


def bucket(seconds: Sequence[float], batch_seconds: float, rng: np.random.Generator) -> list[list[int]]:
    """Indices in batches whose padded length (longest times count) is at most `batch_seconds`, in random order.

    Sorted by length with 10 % of jitter: neighbours differ from epoch to epoch, and padding stays near 5 %.
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


# On a GPU, whose kernels are not made for each shape, batches are as long as the next 0.1 s at 16 kHz.
GPU_PADDING_SAMPLES = 1600


def stream(
    seconds: Sequence[float], batch_seconds: float, seed: int, weights: Sequence[float] | None = None
) -> Iterator[list[Key]]:
    """The endless sequence of batches, epoch after epoch; each utterance comes `weights` times an epoch on average.

    The whole part of a weight is sure, the rest is drawn. Without weights each comes once.
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


def deal(
    batches: Iterator[list[Key]], first_step: int, per_step: int, rank: int, num_processes: int
) -> Iterator[list[Key]]:
    """The batches of one process: of each step's `per_step` consecutive batches, every `num_processes`-th.

    What a step learns from depends on the step alone, so a run can be resumed at any step, and on any number
    of processes that divides `per_step`.
    """
    for position, batch in enumerate(batches):
        if position >= first_step * per_step and position % num_processes == rank:
            yield batch


class SpeechBatches(torch.utils.data.Dataset[tuple[Key, Waveform, Rejection | None]]):
    """Reads, augments and collates the utterances of a split for training."""

    def __init__(
        self,
        split: Split,
        vocabulary: dict[str, int],
        feature_extractor: Any,
        limits: AudioSpec,
        augmentation: Augmentation,
        mask_time: tuple[float, int],
        seed: int,
        mask_feature: tuple[float, int, int] = (0.0, 1, 0),
        padding_samples: int | None = None,
    ) -> None:
        """`mask_time` is (probability, length in frames) of SpecAugment; (0, n) for none.

        `mask_feature` is (probability, length, how many features there are). Batches are as long as the next
        multiple of `padding_samples`, or of their `length_step`.
        """
        self.split = split
        self.vocabulary = vocabulary
        self.feature_extractor = feature_extractor
        self.limits = limits
        self.augmentation = augmentation
        self.mask_time = mask_time
        self.seed = seed
        self.mask_feature = mask_feature
        self.padding_samples = padding_samples

    def __getitem__(self, key: Key) -> tuple[Key, Waveform, Rejection | None]:
        epoch, index, copy = key
        utterance = self.split.utterances[index]
        rng = generator(self.seed, epoch, utterance.row, _WAVEFORM, copy)
        try:
            waveform = self.split.read(utterance, self.limits.sampling_rate)
            with fault_as_reason():
                return key, self.augmentation.apply(waveform, rng), None
        except AudioError as error:
            silence = np.zeros(self.limits.sampling_rate, dtype=np.float32)
            return key, silence, self.split.reject(utterance.row, error)

    def collate(self, examples: Sequence[tuple[Key, Waveform, Rejection | None]]) -> Batch:
        """Normalise and pad as the model's feature extractor says, encode labels, draw masks."""
        longest = max(len(waveform) for _, waveform, _ in examples)
        features = self.feature_extractor(
            [waveform for _, waveform, _ in examples],
            sampling_rate=self.limits.sampling_rate,
            padding=True,
            pad_to_multiple_of=self.padding_samples or length_step(longest),
            return_attention_mask=True,
            return_tensors="pt",
        )
        labels = [
            [] if rejection else encode(self.split.utterances[index].transcript, self.vocabulary)
            for (_, index, _), _, rejection in examples
        ]
        num_frames = [self.limits.num_frames(len(waveform)) for _, waveform, _ in examples]
        padded_frames = self.limits.num_frames(features["input_values"].shape[1])
        mask_time, mask_feature = self._draw_masks([key for key, _, _ in examples], num_frames, padded_frames)
        return Batch(
            input_values=features["input_values"],
            attention_mask=features["attention_mask"],
            samples=sum(len(waveform) for _, waveform, _ in examples),
            num_frames=torch.tensor(num_frames),
            mask_time_indices=mask_time,
            mask_feature_indices=mask_feature,
            labels=torch.tensor([label for utterance in labels for label in utterance], dtype=torch.long),
            label_lengths=torch.tensor([len(utterance) for utterance in labels]),
            unreadable=tuple(rejection for _, _, rejection in examples if rejection),
            without_loss=tuple(
                self.split.reject(self.split.utterances[index].row, _WITHOUT_LOSS) for (_, index, _), _, _ in examples
            ),
        )

    def _draw_masks(
        self, keys: Sequence[Key], num_frames: Sequence[int], padded_frames: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        probability, length = self.mask_time
        feature_probability, feature_length, features = self.mask_feature
        time = torch.zeros(len(keys), padded_frames, dtype=torch.bool) if probability else None
        feature = torch.zeros(len(keys), features, dtype=torch.bool) if feature_probability else None
        for i, ((epoch, index, copy), frames) in enumerate(zip(keys, num_frames, strict=True)):
            rng = generator(self.seed, epoch, self.split.utterances[index].row, _MASK, copy)
            if time is not None:
                time[i, :frames] = torch.from_numpy(draw_mask(frames, probability, length, rng))
            if feature is not None:
                feature[i] = torch.from_numpy(draw_mask(features, feature_probability, feature_length, rng))
        return time, feature

    def loader(self, batches: Iterator[list[Key]], num_workers: int) -> "torch.utils.data.DataLoader[Any]":
        """A loader of `Batch`es over a process's share of the stream."""
        return torch.utils.data.DataLoader(
            self,
            batch_sampler=batches,  # any iterable of index lists will do
            collate_fn=self.collate,
            num_workers=num_workers,
            pin_memory=choose_device().type == "cuda",
            prefetch_factor=4 if num_workers else None,
            worker_init_fn=leave_signals_to_training,
        )


def begin(loader: "torch.utils.data.DataLoader[Any]") -> Generator[Batch, None, None]:
    """A loader's batches, its workers started; closed, they have ended, whatever they were doing."""
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    return _pass_on(batches, set(multiprocessing.active_children()) - others)


def _pass_on(batches: Iterator[Batch], workers: Iterable[Any]) -> Generator[Batch, None, None]:
    try:
        yield from batches
    finally:
        del batches  # torch asks the workers to end, waits 5 s, and sends SIGTERM, which ours ignore.
        for worker in workers:
            worker.kill()
            worker.join()


def leave_signals_to_training(_: int) -> None:
    """Make a loader's worker go on when somebody asks the whole group of processes to stop: training decides."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP.
            signal.signal(getattr(signal, name), signal.SIG_IGN)
