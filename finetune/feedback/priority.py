"""How much an utterance deserves a person's time: doubt of the model, disagreement of models, new words, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jiwer

from finetune.feedback.records import Hypothesis

_MEASURED = ("low confidence", "disagreement")


def measure_priority(hypotheses: Sequence[Hypothesis], signals: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """The priority, and its parts by name, each from 0 to 1.

    `low confidence` is 1 less the confidence of the newest hypothesis, `disagreement` the word error rate between the
    oldest and the newest one; each signal counts as it is given.
    """
    parts = {name: min(max(value, 0.0), 1.0) for name, value in signals.items() if name not in _MEASURED}
    if hypotheses and hypotheses[-1].confidence is not None:
        parts["low confidence"] = 1 - hypotheses[-1].confidence
    if len(hypotheses) > 1:
        parts["disagreement"] = _disagreement(hypotheses[0].text, hypotheses[-1].text)
    return sum(parts.values()), {name: round(value, 4) for name, value in parts.items()}


def _disagreement(first: str, second: str) -> float:
    """The word error rate between two texts, at most 1."""
    if not first.split() or not second.split():
        return float(first.split() != second.split())
    return min(1.0, float(jiwer.wer(first, second)))
