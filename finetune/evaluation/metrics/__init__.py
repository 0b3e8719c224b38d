"""Metrics for `evaluate.load` that need no network, computed from the same counts as the reports."""

from pathlib import Path

from finetune.errors import UserError

METRICS = ("wer", "cer")


def metric_path(name: str) -> str:
    """The argument of `evaluate.load` for "wer" or "cer": the path of a script in this package.

    Raises UserError for any other name.

    >>> import evaluate
    >>> from finetune.evaluation.metrics import metric_path
    >>> wer = evaluate.load(metric_path("wer"))
    >>> wer.compute(predictions=["it rain"], references=["it rained"])
    {'wer': 0.5}
    """
    if name not in METRICS:
        raise UserError(f"There is no metric {name!r}: choose one of {', '.join(METRICS)}.")
    return str(Path(__file__).parent / name / f"{name}.py")
