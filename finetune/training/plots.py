"""Plots of a run: loss, learning rate, error rates and blank ratio over its steps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from finetune.files import new_file

Lines = Sequence[Mapping[str, float]]

# More points would be closer together than the width of a line.
_MOST_POINTS = 400
_BLUE, _ORANGE, _RED = "#3b6ea8", "#c9772b", "#a8202e"
_STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.15,
    "font.size": 9,
    "grid.color": "#dde0e4",
    "legend.borderaxespad": 0.2,
    "legend.frameon": False,
    "xtick.color": "#666677",
    "ytick.color": "#666677",
    "ytick.major.size": 0,
}


def plot_run(file: Path, history: Lines) -> None:
    """Plot the history of a run as a PNG of 1200 × 1350 pixels, complete or not at all.

    `history` holds the lines of metrics.jsonl.
    """
    # The defaults first, so that the user's matplotlibrc has no effect.
    with style.context(["default", _STYLE]), new_file(file) as partial:
        build_figure(history).savefig(partial, format="png", dpi=150)


def build_figure(history: Lines) -> Figure:
    """Four panels over one axis of steps; a dashed line marks the evaluation whose weights are the best."""
    training = [line for line in history if "learning_rate" in line]
    evaluations = [line for line in history if "validation_wer" in line]
    validations = [line for line in history if "validation_contrastive_accuracy" in line]
    figure = Figure(figsize=(8, 9), layout="constrained")
    loss, rate, errors, blanks = figure.subplots(4, 1, sharex=True)

    loss.set_title(f"Training loss, nats for each {'masked frame' if validations else 'label'}")
    values = _draw(loss, training, "loss")
    if len(values) and 0 < 10 * values.min() < values.max():
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_minor_locator(NullLocator())
        loss.yaxis.set_major_formatter("{x:g}")
    _mark_skipped_steps(loss, training)

    rate.set_title("Learning rate")
    _draw(rate, training, "learning_rate")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter("{x:g}")

    if validations:
        _draw_pretraining(errors, blanks, training, validations)
    else:
        _draw_evaluations(errors, blanks, evaluations)
    blanks.set_xlabel("step")
    blanks.set_xlim(left=0)
    blanks.xaxis.set_major_locator(MaxNLocator(integer=True))
    blanks.xaxis.set_major_formatter("{x:,.0f}")
    if evaluations:
        best = min(evaluations, key=lambda line: (line["validation_wer"], line["validation_cer"]))
        for axes in (loss, rate, errors, blanks):
            axes.axvline(best["step"], color=_RED, linewidth=1, linestyle="--", zorder=1)
        label = f"best: WER {100 * best['validation_wer']:.1f} % at step {best['step']:,}"
        errors.plot(best["step"], 100 * best["validation_wer"], "o", color=_RED, label=label)
        _add_legend(errors)
    return figure


def _draw_pretraining(accuracies: Axes, codes: Axes, training: Lines, validations: Lines) -> None:
    """Draw contrastive accuracy and codebook perplexity, in training and on the validation split."""
    for axes, title, key, scale in (
        (accuracies, "Contrastive accuracy, %", "contrastive_accuracy", 100.0),
        (codes, "Codebook perplexity", "codebook_perplexity", 1.0),
    ):
        axes.set_title(title)
        _draw(axes, training, key, _BLUE, scale, "training")
        _draw(axes, validations, f"validation_{key}", _ORANGE, scale, "validation")
        axes.set_ylim(bottom=0)
        _add_legend(axes)


def _draw_evaluations(errors: Axes, blanks: Axes, evaluations: Lines) -> None:
    """Draw error rates and the blank ratio of the validation split."""
    errors.set_title("Validation error rates, %")
    values = _draw(errors, evaluations, "validation_wer", _BLUE, 100, "WER")
    _draw(errors, evaluations, "validation_cer", _ORANGE, 100, "CER")
    if len(values):  # A first evaluation of several hundred percent would flatten the others.
        top = min(values.max(), max(values.min(), 100))
        errors.set_ylim(-0.03 * top, 1.05 * top)

    blanks.set_title("Validation blank ratio, % of frames")
    _draw(blanks, evaluations, "blank_ratio", scale=100)
    blanks.set_ylim(-3, 105)


def _draw(
    axes: Axes, lines: Lines, key: str, color: str = _BLUE, scale: float = 1.0, label: str | None = None
) -> np.ndarray:
    """Draw one curve, with gaps where a value is missing or not finite, and return its finite values.

    Many lines are drawn as means, over a band from the lowest to the highest value.
    """
    values = np.array([scale * line.get(key, math.nan) for line in lines], dtype=float)
    steps = np.array([line["step"] for line in lines], dtype=float)
    finite = np.isfinite(values)
    if not finite.any():
        axes.text(0.5, 0.5, "nothing to show yet", transform=axes.transAxes, ha="center", color="#666677")
        axes.set_yticks([])
        return values[finite]
    rows = []
    for group in np.array_split(np.arange(len(lines)), min(len(lines), _MOST_POINTS)):
        there = values[group][finite[group]]
        spread = (there.min(), there.mean(), there.max()) if len(there) else [math.nan] * 3
        rows.append((steps[group].mean(), *spread))
    steps, lows, means, highs = np.array(rows).T
    if len(lines) > _MOST_POINTS:
        axes.fill_between(steps, lows, highs, color=color, alpha=0.25, linewidth=0)
    # Markers show a point between two gaps, which has no line.
    axes.plot(steps, means, ".-", color=color, markersize=7 if len(rows) <= 50 else 2, label=label)
    return values[finite]


def _mark_skipped_steps(axes: Axes, training: Lines) -> None:
    if steps := [line["step"] for line in training if line.get("skipped_steps")]:
        foot = [0.03] * len(steps)
        label = "skipped steps: gradient not finite"
        axes.plot(steps, foot, "|", color=_RED, transform=axes.get_xaxis_transform(), label=label)
        _add_legend(axes)


def _add_legend(axes: Axes) -> None:
    """Add a legend beside the title, where it covers no curve."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
