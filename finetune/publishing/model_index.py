"""WER and CER for the `model-index` of a card's metadata, which a hub shows with the model."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from finetune.resources.repositories import is_on_hub

TASK = "automatic-speech-recognition"


def name_data(evaluated: Mapping[str, Any]) -> str:
    """The names of the data sets that were evaluated together."""
    return " + ".join(source["root"] for source in evaluated.get("sources", ())) or "unnamed data"


def name_decoder(decoder: Mapping[str, Any]) -> str:
    """The suffix of a metric's name: "" for greedy decoding, " (+LM)" for a language model, as is usual on the hub."""
    if decoder.get("name", "greedy") == "greedy":
        return ""
    return " (+LM)" if "language_model" in decoder else " (beam search)"


def build_results(scores: Mapping[str, Any]) -> list[EvalResult]:
    """WER and CER of a report that `describe_scores` prepared; a rate without reference units is left out.

    Values are percent with two decimals, as in the hub's cards of wav2vec2 (EvalResult's own example is 20.0). The 95 %
    interval, in percent too, the normalisation and the decoder are the metric's arguments.
    """
    evaluated, intervals = scores["evaluated"], scores.get("intervals", {})
    sources, decoder = evaluated["sources"], evaluated["decoder"]
    name = name_data(evaluated)
    alone = sources[0] if len(sources) == 1 else {}
    is_hub = bool(alone) and not alone.get("local") and is_on_hub(name)
    arguments = {
        "unit": "percent",
        "decoder": dict(decoder),
        "normalization": list(evaluated["normalization"]),
        "utterances": scores["utterances"],
        "chose_the_weights": True if evaluated.get("chose_weights") else None,
    }
    return [
        EvalResult(
            task_type=TASK,
            task_name="Automatic Speech Recognition",
            dataset_type=name if is_hub else re.sub(r"[^\w.-]+", "-", name).strip("-").lower() or "unnamed",
            dataset_name=name,
            dataset_config=alone.get("configuration"),
            dataset_split=evaluated["split"],
            dataset_revision=alone.get("revision"),
            metric_type=metric,
            metric_name=f"{evaluated['split'].capitalize()} {metric.upper()}{name_decoder(decoder)}",
            metric_value=to_percent(scores[metric]),
            metric_args=arguments
            | {
                "interval_95": _percents(intervals.get(metric)),
                "reference_units": scores["words" if metric == "wer" else "characters"],
            },
        )
        for metric in ("wer", "cer")
        if scores[metric] is not None
    ]


def to_percent(rate: float) -> float:
    """A fraction as percent with two decimals."""
    return round(100 * rate, 2)


def _percents(rates: list[float] | None) -> list[float] | None:
    return None if rates is None else [to_percent(rate) for rate in rates]
