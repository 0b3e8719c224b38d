"""Word error rate of a corpus, for `evaluate.load(metric_path("wer"))`."""

# evaluate copies only this file into its cache, so imports must be absolute.
import datasets
import evaluate

from finetune.evaluation.scores import score


class Wer(evaluate.Metric):
    """Word errors divided by reference words, both counted over all utterances."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Word error rate of a corpus: all errors divided by all reference words.",
            citation="",
            inputs_description=(
                "predictions: the recognised texts, a list of strings. references: the correct texts, a list of "
                "strings. Returns {'wer': a fraction that may exceed 1, None without reference words}."
            ),
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | None]:
        return {"wer": score(references, predictions).wer}
