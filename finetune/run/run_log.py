"""The log of a run: metrics.jsonl, its plots, trackers, and lines for the console."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from finetune.run.run_directory import cut_metrics
from finetune.training.health import judge_run
from finetune.training.loop import format_values
from finetune.training.plots import plot_run

_LOGGER = logging.getLogger(__name__)


class RunLog:
    """The log of the run in `output`. Only the main process writes files; all processes log to trackers."""

    def __init__(self, output: Path, accelerator: Accelerator) -> None:
        self._file, self._curves, self._accelerator = output / "metrics.jsonl", output / "curves.png", accelerator

    def cut(self, step: int, scored_again: Mapping[int, Mapping[str, float]] | None = None) -> None:
        """Drop what was logged after the step from which the run is resumed; see `cut_metrics`."""
        if self._accelerator.is_main_process:
            cut_metrics(self._file, step, scored_again)

    def add(
        self, step: int, values: dict[str, float], max_steps: int, examples: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Log the values of a step, also to the console where no progress bar shows them; raises OSError.

        `examples` are references and hypotheses of an evaluation, for the page of the run.
        """
        if self._accelerator.is_main_process:
            logged = {"step": step, **values, **({"examples": examples} if examples else {})}
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(logged) + "\n")
        if self._accelerator.trackers:
            self._accelerator.log(values, step=step)
        if "step_seconds" in values and not sys.stderr.isatty():
            minutes = (max_steps - step) * values["step_seconds"] / 60
            line = f"step {step}/{max_steps}: {format_values(values)}, {minutes:.1f} min left"
            _LOGGER.info(line, extra={"values": {"step": step, **values}})

    def read(self) -> list[dict[str, Any]]:
        """The lines of the log so far; raises OSError."""
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    def plot(self) -> None:
        """Plot the log so far; raises OSError."""
        plot_run(self._curves, self.read())

    def judge(self, max_steps: int) -> str:
        """Plot the log so far, and return the verdict on it in words; raises OSError."""
        history = self.read()
        self.plot()
        impossible = sum(int(line.get("impossible", 0)) for line in history)
        utterances = sum(int(line.get("utterances", 0)) for line in history)
        return judge_run(history, max_steps, impossible, utterances)
