"""Character error rate of a corpus, for `evaluate.load(metric_path("cer"))`."""

# evaluate copies only this file into its cache, so imports must be absolute.
import datasets
import evaluate

from finetune.evaluation.scores import score


class Cer(evaluate.Metric):
    """Character errors divided by reference characters, both counted over all utterances."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Character error rate of a corpus: all errors divided by all reference characters.",
            citation="",
            inputs_description=(
                "predictions: the recognised texts, a list of strings. references: the correct texts, a list of "
                "strings. Returns {'cer': a fraction that may exceed 1, None without reference characters}."
            ),
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | None]:
        return {"cer": score(references, predictions).cer}
