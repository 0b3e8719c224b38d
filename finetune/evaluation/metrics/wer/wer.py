"""Word error rate of a corpus, for `evaluate.load(metric_path("wer"))`."""

# See `cer.py`.
from finetune.evaluation.metrics import error_rate


class Wer(error_rate.ErrorRate):
    """Word errors divided by reference words, both counted over all utterances."""

    rate, unit = "wer", "word"
