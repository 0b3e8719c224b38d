"""The base of the metrics for `evaluate.load`: an error rate of a corpus."""

import datasets
import evaluate

from finetune.evaluation.scores import score


class ErrorRate(evaluate.Metric):
    """Errors divided by reference units, both counted over all utterances; `rate` is one of `Scores`."""

    rate: str
    unit: str

    def _info(self) -> evaluate.MetricInfo:
        rate, unit, text = self.rate, self.unit, datasets.Value("string")
        return evaluate.MetricInfo(
            description=f"{unit.capitalize()} error rate of a corpus: all errors divided by all reference {unit}s.",
            citation="",
            inputs_description=(
                "predictions: the recognised texts, a list of strings. references: the correct texts, a list of "
                f"strings. Returns {{'{rate}': a fraction that may exceed 1, None without reference {unit}s}}."
            ),
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | None]:
        return {self.rate: getattr(score(references, predictions), self.rate)}
