"""Character error rate of a corpus, for `evaluate.load(metric_path("cer"))`."""

# evaluate copies only this file into its cache, so imports must be absolute, and takes the first metric that it finds
# in the file's names, so the base is not one of them.
from finetune.evaluation.metrics import error_rate


class Cer(error_rate.ErrorRate):
    """Character errors divided by reference characters, both counted over all utterances."""

    rate, unit = "cer", "character"
