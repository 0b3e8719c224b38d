"""Estimates before a run: its number of steps, and its time, memory and disk space on this device."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from finetune.errors import UserError
from finetune.training.timing import Timing

# For a recipe with neither steps nor epochs. "Fine-tuning XLS-R for Multi-Lingual ASR" (von Platen 2021) has 30 epochs,
# and users of wav2vec2 take 20 to 40.
DEFAULT_EPOCHS = 30
# A small corpus needs more epochs, because CTC predicts only blanks in its first steps: up to 300 in healthy runs
# (`health._PLATEAU_STEPS`), which may be a third of a run (`health.judge_run`).
MIN_STEPS = 1000
# The updates of wav2vec 2.0's recipe for 100 hours (Baevski et al. 2020, appendix B).
MAX_STEPS = 80_000
# A run is evaluated this many times, but after this minimum and maximum of steps: more often costs time in small runs,
# and less often loses hours at an interruption, because checkpoints are written with evaluations.
_EVALUATIONS, _MIN_EVAL_STEPS, _MAX_EVAL_STEPS = 10, 200, 2000

# Above these limits a note is logged; they are our choice. More epochs are fine where a corpus is so small that they
# take at most `MIN_STEPS`.
_MANY_EPOCHS = 200
_LONG_HOURS = {"cpu": 24, "cuda": 72}
# Attention over a minute is 3,000 frames: with 12 heads in float32, 0.4 GB where it is not computed in pieces.
_LONG_SECONDS = 60
# Of all memory; the rest is for the system.
_MEMORY_SHARE = 0.9

_ADAM_STATES = 2  # moments for each trained weight in AdamW


@dataclass(frozen=True)
class Length:
    """The number of optimizer steps of a run, and the number of steps between evaluations."""

    max_steps: int
    eval_steps: int


def choose_length(
    max_steps: int | None, max_epochs: float | None, eval_steps: int | None, steps_per_epoch: float | None
) -> Length:
    """The length of a run, from the recipe or by default; `steps_per_epoch` is None if it is not known.

    The default is `DEFAULT_EPOCHS`, but at least `MIN_STEPS` and at most `MAX_STEPS`, and `MIN_STEPS` if the length of
    an epoch is not known. Raises UserError for `max_epochs` of unknown length.
    """
    if max_epochs is not None and steps_per_epoch is None:
        raise UserError(
            f"training.max_epochs={max_epochs:g} needs the length of an epoch, which is unknown of a stream: "
            "set training.max_steps instead."
        )
    if max_steps is None:
        if max_epochs is not None and steps_per_epoch is not None:
            max_steps = max(1, round(max_epochs * steps_per_epoch))
        elif steps_per_epoch is None:
            max_steps = MIN_STEPS
        else:
            max_steps = min(max(round(DEFAULT_EPOCHS * steps_per_epoch), MIN_STEPS), MAX_STEPS)
    if eval_steps is None:
        eval_steps = min(max(math.ceil(max_steps / _EVALUATIONS), _MIN_EVAL_STEPS), _MAX_EVAL_STEPS)
    return Length(max_steps, eval_steps)


@dataclass(frozen=True)
class Room:
    """Bytes of all weights, of trained weights, free on the disk of `folder`, written there already, and of memory.

    `kernels` are bytes that a process takes at most besides a step, for kernels that are kept (oneDNN's in bf16).
    """

    weights: int
    trained: int
    folder: str
    free: int
    written: int
    memory: int
    kernels: int = 0


@dataclass(frozen=True)
class Plan:
    """The estimates for a run before it begins, or is resumed after `done_steps`.

    `key` is the recipe's key for its length. A step has `step_seconds` of audio over all processes, padding included,
    and an epoch `steps_per_epoch` (None for a stream). One process scores `validation_seconds` of audio at each
    evaluation, and `final_seconds` at the end. The longest utterances that are trained and scored have
    `longest_trained` and `longest_scored` seconds.
    """

    length: Length
    key: str
    done_steps: int
    step_seconds: float
    steps_per_epoch: float | None
    validation_seconds: float
    final_seconds: float
    longest_trained: float
    longest_scored: float
    frozen_steps: int
    max_minutes: float | None
    keep_checkpoints: int
    keep_best: int
    room: Room
    device_type: str
    device: str
    timing: Timing | None = None

    @property
    def epochs(self) -> float | None:
        """The number of epochs of the whole run; None for a stream."""
        return None if self.steps_per_epoch is None else self.length.max_steps / self.steps_per_epoch

    @property
    def training_seconds(self) -> float | None:
        """The time of all remaining steps, without evaluations."""
        if self.timing is None:
            return None
        frozen = max(0, min(self.frozen_steps, self.length.max_steps) - self.done_steps)
        left = self.length.max_steps - self.done_steps
        return frozen * self.timing.frozen_step_seconds + (left - frozen) * self.timing.step_seconds

    @property
    def evaluation_seconds(self) -> float | None:
        """The time of all remaining evaluations, with the last one on the test split."""
        if self.timing is None or self.timing.evaluation_rate is None:
            return None
        last, every = self.length.max_steps, self.length.eval_steps
        evaluations = last // every - self.done_steps // every + (last % every > 0)
        return (evaluations * self.validation_seconds + self.final_seconds) * self.timing.evaluation_rate

    @property
    def disk_bytes(self) -> int:
        """The peak disk space of checkpoints and model: each file is written beside the one that it replaces."""
        checkpoint = self.room.weights + _ADAM_STATES * self.room.trained
        return (self.keep_checkpoints + 1) * checkpoint + (self.keep_best + 2) * self.room.weights

    @property
    def memory_bytes(self) -> int | None:
        """The memory of a step, with the optimizer's state."""
        return None if self.timing is None else self.timing.memory + _ADAM_STATES * self.room.trained

    def summary(self) -> list[str]:
        """Lines for the console, with a note on each estimate that is out of proportion."""
        length = self.length
        epochs = "" if self.epochs is None else f", about {_round(self.epochs)} epochs"
        left = f"; {length.max_steps - self.done_steps} are left" if self.done_steps else ""
        lines = [
            f"training: {length.max_steps} steps of {self.step_seconds:g} s{epochs}{left}; "
            f"evaluated every {length.eval_steps} steps"
        ]
        training, memory = self.training_seconds, self.memory_bytes
        disk = f"up to {format_bytes(self.disk_bytes)} on the disk"
        if training is not None and self.timing is not None and memory is not None:
            evaluation = self.evaluation_seconds or 0.0
            lines.append(
                f"time: about {format_duration(training + evaluation)} on {self.device}: "
                f"{self.timing.step_seconds:.2g} s a step, {format_duration(evaluation)} for evaluations"
            )
            largest = format_bytes(memory + self.room.kernels)
            growing = f", growing to at most {largest} with oneDNN's kernels" if self.room.kernels else ""
            lines.append(f"space: about {format_bytes(memory)} of memory{growing}, {disk}")
        else:
            lines.append(f"space: {disk}")
        return lines + [f"note: {sentence}" for sentence in self._list_excesses()]

    def _list_excesses(self) -> Iterator[str]:
        """A sentence for each estimate that is out of proportion, with the key to change."""
        steps, epochs = self.length.max_steps, self.epochs
        if epochs is not None and epochs > _MANY_EPOCHS and steps > MIN_STEPS:
            usual = choose_length(None, None, None, self.steps_per_epoch).max_steps
            key = f"{self.key} ({self._setting(usual)})"
            yield f"{epochs:,.0f} epochs are more than this little speech needs: lower {key}"
        if epochs is not None and epochs < 1:
            yield (
                f"only {100 * epochs:.0f} % of the training speech is used: raise {self.key} "
                f"({self._setting(math.ceil(self.steps_per_epoch or 1))} is one epoch)"
            )
        hours = ((self.training_seconds or 0.0) + (self.evaluation_seconds or 0.0)) / 3600
        if self.max_minutes is not None and 60 * hours > self.max_minutes:
            share = self.max_minutes / 60 / hours
            yield (
                f"training.max_minutes={self.max_minutes:g} ends the run after about {100 * share:.0f} % of its steps, "
                f"with the learning rate still high: lower {self.key} instead"
            )
        elif hours > _LONG_HOURS.get(self.device_type, 24):
            gpu = ", or train on a GPU" if self.device_type == "cpu" else ""
            yield f"{format_duration(3600 * hours)} is a long run: lower {self.key}, take a smaller model.base{gpu}"
        if self.timing is not None and self.timing.waits_for_loading:
            yield "audio is read and augmented more slowly than the model learns from it: raise training.num_workers"
        memory = self.memory_bytes
        if memory is not None and memory > _MEMORY_SHARE * self.room.memory:
            yield (
                f"a step needs about {format_bytes(memory)} of memory, and there are {format_bytes(self.room.memory)}: "
                "lower training.batch_seconds and raise training.accumulation, or set "
                "training.gradient_checkpointing=true"
            )
        if self.longest_scored > max(_LONG_SECONDS, self.longest_trained):
            yield (
                f"an utterance of {self.longest_scored:.0f} s is scored, and none longer than "
                f"{self.longest_trained:.0f} s is trained: it may need more memory than a step; "
                "cut it with `finetune segment --corpus`"
            )
        if self.disk_bytes > self.room.free + self.room.written:
            yield (
                f"checkpoints and model need up to {format_bytes(self.disk_bytes)}, and {self.room.folder} has "
                f"{format_bytes(self.room.free)} free: lower training.keep_checkpoints, or train with --output on a "
                "larger disk"
            )

    def _setting(self, steps: int) -> str:
        if self.key == "training.max_epochs" and self.steps_per_epoch:
            return f"{self.key}={steps / self.steps_per_epoch:.0f}"
        return f"{self.key}={steps}"


def format_duration(seconds: float) -> str:
    """Seconds in their two largest units: 6 h 40 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    for size, smaller, names in ((60, 1, ("min", "s")), (3600, 60, ("h", "min")), (86400, 3600, ("days", "h"))):
        # From ten of the larger unit on, an estimate is not exact enough for the smaller one.
        rest = 0 if seconds >= 10 * size else round(seconds % size / smaller)
        whole = round(seconds / size) if seconds >= 10 * size else int(seconds // size) + (rest * smaller == size)
        if whole * size < {60: 3600, 3600: 172800}.get(size, math.inf):
            return f"{whole} {names[0]}" + (f" {rest} {names[1]}" if 0 < rest * smaller < size else "")
    raise AssertionError("the last unit has no limit")


def format_bytes(size: float) -> str:
    """Bytes in MB or GB, powers of ten."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, size / 1e6):.0f} MB"


def _round(epochs: float) -> str:
    return f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.1f}"
