"""Each curve of a run's plots holds the values of its history."""

import math

import numpy as np
import pytest
from PIL import Image

from finetune.training.plots import build_figure, plot_run

LOSS, RATE, ERRORS, BLANKS = range(4)


def training(step, loss=None, **others):
    return {"step": step, "learning_rate": step * 1e-4} | ({} if loss is None else {"loss": loss}) | others


def evaluation(step, wer):
    return {"step": step, "validation_wer": wer, "validation_cer": wer / 2, "blank_ratio": 0.75}


HISTORY = [
    training(1, 4.0),
    training(2, 2.0),
    evaluation(2, 0.5),
    training(3, 1.0),
    training(4, 0.1),
    evaluation(4, 0.8),
]


def curve(history, panel, label=None):
    """The steps and values of a panel's curve: the first, or the one with a label."""
    lines = build_figure(history).axes[panel].lines
    return next(line.get_xydata() for line in lines if label in (None, line.get_label()))


def test_each_curve_holds_its_values():
    assert np.allclose(curve(HISTORY, LOSS), [[1, 4], [2, 2], [3, 1], [4, 0.1]])
    assert np.allclose(curve(HISTORY, RATE), [[1, 1e-4], [2, 2e-4], [3, 3e-4], [4, 4e-4]])
    assert np.allclose(curve(HISTORY, ERRORS, "WER"), [[2, 50], [4, 80]])
    assert np.allclose(curve(HISTORY, ERRORS, "CER"), [[2, 25], [4, 40]])
    assert np.allclose(curve(HISTORY, BLANKS), [[2, 75], [4, 75]])
    assert [axes.get_yscale() for axes in build_figure(HISTORY).axes] == ["log", "linear", "linear", "linear"]


def test_best_evaluation_is_marked_in_each_panel():
    assert np.allclose(curve(HISTORY, ERRORS, "best: WER 50.0 % at step 2"), [[2, 50]])
    lines = [axes.lines for axes in build_figure(HISTORY).axes]
    assert all(any(set(line.get_xdata()) == {2} and len(line.get_xdata()) == 2 for line in panel) for panel in lines)


@pytest.mark.parametrize("value", [None, math.nan, math.inf], ids=["skipped", "NaN", "infinite"])
def test_a_value_that_is_not_finite_is_a_gap(value):
    history = [training(1, 4.0), training(2, value, skipped_steps=1), training(3, 3.0)]
    assert np.array_equal(curve(history, LOSS), [[1, 4], [2, math.nan], [3, 3]], equal_nan=True)
    assert curve(history, LOSS, "skipped steps: gradient not finite")[:, 0].tolist() == [2]
    assert build_figure(history).axes[LOSS].get_yscale() == "linear"


def test_pre_training_has_accuracy_and_perplexity_instead_of_error_rates():
    lines = [
        training(1, 4.0, contrastive_accuracy=0.1, codebook_perplexity=300.0),
        {"step": 1, "validation_contrastive_accuracy": 0.2, "validation_codebook_perplexity": 200.0},
    ]
    figure = build_figure(lines)
    assert figure.axes[LOSS].get_title().endswith("for each masked frame")
    curves = [[float(line.get_ydata()[0]) for line in figure.axes[panel].lines] for panel in (ERRORS, BLANKS)]
    assert curves == [[pytest.approx(10), pytest.approx(20)], [300, 200]]


def test_long_history_is_thinned_to_means_within_a_band():
    lines = [training(step, 3.0 + (-1) ** step) for step in range(1, 100_001)]
    figure = build_figure(lines)
    points = figure.axes[LOSS].lines[0].get_xydata()
    assert len(points) <= 1000
    assert np.allclose(points[:, 1], 3)
    assert points[0, 0] < 200
    assert points[-1, 0] > 99_800
    band = figure.axes[LOSS].collections[0].get_paths()[0].vertices[:, 1]
    assert set(band.round(6)) >= {2.0, 4.0}


def test_error_rates_of_several_hundred_percent_do_not_flatten_the_others():
    wild = [evaluation(1, 6.0), evaluation(2, 1.2), evaluation(3, 0.4)]
    assert 100 <= build_figure(wild).axes[ERRORS].get_ylim()[1] <= 130
    assert build_figure(wild[:1]).axes[ERRORS].get_ylim()[1] > 600


@pytest.mark.parametrize(
    "history",
    [
        HISTORY,
        [],
        [training(1, 4.0)],
        [evaluation(1, 1.0)],
        [training(1, skipped_steps=1)],
        [training(1, 0.0), training(2, math.nan), evaluation(2, math.nan)],
    ],
    ids=["whole", "empty", "no evaluation", "evaluation alone", "all skipped", "not finite"],
)
def test_any_history_can_be_plotted(history, tmp_path):
    (tmp_path / "curves.png").write_bytes(b"an older one")
    plot_run(tmp_path / "curves.png", history)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as plots:
        assert plots.size == (1200, 1350)
        assert len(plots.convert("RGB").getcolors(1_000_000)) > 10


def test_settings_of_matplotlib_have_no_effect(tmp_path):
    import matplotlib

    for name, settings in (("plain", {}), ("own", {"axes.facecolor": "black", "savefig.dpi": 20, "font.size": 30})):
        with matplotlib.rc_context(settings):
            plot_run(tmp_path / f"{name}.png", HISTORY)
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
