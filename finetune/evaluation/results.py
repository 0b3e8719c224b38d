"""The result of each utterance, written as JSON lines that can be read and compared later."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.evaluation.scores import Counts, Scores, count_errors

FILE = "utterances.jsonl"


@dataclass(frozen=True)
class Result:
    """The reference and hypothesis of one utterance, as scored and (`raw_…`) before normalisation.

    `columns` are further cells of its row, `source` is its data set, `snr_db` an estimate of the signal-to-noise ratio,
    `unseen_words` the number of reference words that do not occur in the training transcripts, and `confidence` and
    `blank_ratio` are those of `UtteranceStatistics`.
    """

    name: str
    reference: str
    hypothesis: str
    raw_reference: str
    seconds: float
    speaker: str | None
    columns: dict[str, str] = field(default_factory=dict)
    raw_hypothesis: str = ""
    source: str = ""
    snr_db: float | None = None
    unseen_words: int | None = None
    confidence: float | None = None
    blank_ratio: float | None = None


def count_results(results: Sequence[Result]) -> Counts:
    """Each result's counts, (utterances, columns)."""
    return count_errors([result.reference for result in results], [result.hypothesis for result in results])


def add_up(results: Sequence[Result], counts: Counts) -> Scores:
    """The scores of results, from their counts."""
    return Scores.from_counts(counts, sum(result.seconds for result in results))


def format_results(results: Sequence[Result], counts: Counts) -> str:
    """The lines of `utterances.jsonl`: each result with its counts of words and characters."""
    lines = []
    for result, row in zip(results, counts, strict=True):
        found = Scores.from_counts(row[None], result.seconds).to_json()
        kept = {key: value for key, value in found.items() if key not in _OF_SETS}
        lines.append(json.dumps(vars(result) | kept, ensure_ascii=False) + "\n")
    return "".join(lines)


# Not useful for a single utterance, or the same as `seconds`.
_OF_SETS = {"ser", "utterances", "wrong_utterances", "audio_seconds"}


def read_results(folder: Path) -> list[Result]:
    """The results in the folder of a report or a run; raises UserError if there are none or they are damaged."""
    file = next((place for place in (folder / FILE, folder / "report" / FILE) if place.is_file()), None)
    if file is None:
        raise UserError(
            f"There is no report in {folder}: expected a folder with {FILE}, such as a run's report/ or one that "
            "`finetune evaluate --report` writes; to compare two models add --data SOURCE."
        )
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # `splitlines` would split inside transcripts.
        results = [_read_result(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{file} is damaged: expected the results of an utterance on each line, found {error}."
        ) from error
    if not results:
        raise UserError(f"{file} has no utterances, so there is nothing to score.")
    return results


def _read_result(values: Any) -> Result:
    if not isinstance(values, dict):
        raise TypeError("a line that is not an object")
    names = {each.name for each in fields(Result)}
    # Older reports have fewer fields.
    result = Result(**{name: value for name, value in values.items() if name in names})
    texts = (result.name, result.reference, result.hypothesis, result.raw_reference, result.source)
    if not all(isinstance(text, str) for text in (*texts, result.speaker or "")) or not isinstance(
        result.columns, dict
    ):
        raise TypeError("a value that is not a text")
    if any(isinstance(cell, list | dict) for cell in result.columns.values()):
        raise TypeError("a cell that is not a text")
    for number in (result.seconds, result.snr_db or 0.0):
        if not isinstance(number, int | float):
            raise TypeError(f"{number!r} instead of a number")
    if not math.isfinite(result.seconds):
        raise TypeError(f"{result.seconds} seconds")
    return result
