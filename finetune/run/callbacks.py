"""Hooks into a run for programs that call `finetune.run.experiment.run`."""

from collections.abc import Mapping


class TrainerCallback:
    """Methods that a run calls on every process; override those that you need.

    An exception ends the run as an interruption does: the same recipe goes on from the last checkpoint.
    """

    def on_train_begin(self, step: int) -> None:
        """Training starts after `step`, which is 0 in a new run."""

    def on_log(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step, or of a validation, have been written to metrics.jsonl."""

    def on_save(self, step: int) -> None:
        """The checkpoint of a step is complete."""

    def on_train_end(self) -> None:
        """All steps are done; the best weights have not been scored or saved as a model yet."""
