"""Write an evaluation report into a folder: scores, a line for each utterance, and an HTML report."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.audio.waveforms import Recording
from finetune.errors import UserError
from finetune.evaluation.analysis import Analysis
from finetune.evaluation.html_report import build_html_report
from finetune.evaluation.report_audio import write_report_audio
from finetune.evaluation.results import FILE, format_results
from finetune.files import new_folder, write_json, write_text

SCORES = "scores.json"
_EVALUATED = ("sources", "split", "normalization", "decoder")


def write_report(
    folder: Path,
    title: str,
    analysis: Analysis,
    details: Mapping[str, str] | None = None,
    recording: Callable[[int], Recording] | None = None,
    evaluated: Mapping[str, Any] | None = None,
    pages: Mapping[str, str] | None = None,
) -> None:
    """Write `scores.json`, `utterances.jsonl` and `index.html` into a new folder, atomically.

    `details` say in the HTML report what was scored and how. With `recording`, a function from the index of a result to
    its audio, the report has players; the audio is embedded or, if large, in `audio/`. `evaluated` (data, split,
    normalisation, decoder) is written to `scores.json`, so that the scores can be published. `pages` are further files
    by name.

    Raises UserError if the folder exists already.
    """
    require_free(folder)
    with new_folder(folder) as unfinished:
        scores = {**({"evaluated": evaluated} if evaluated else {}), **analysis.to_json()}
        write_json(unfinished / SCORES, scores)
        write_text(unfinished / FILE, format_results(analysis.results, analysis.counts))
        for name, text in (pages or {}).items():
            write_text(unfinished / name, text)
        audio = write_report_audio(unfinished, len(analysis.results), recording) if recording else ()
        write_text(unfinished / "index.html", build_html_report(title, analysis, details, audio))


def read_scores(folder: Path) -> dict[str, Any]:
    """The content of `scores.json` in the folder of a report or a run, with what was evaluated.

    Raises UserError if there is none, if it is damaged, or if it is too old to say what was evaluated.
    """
    file = next((place for place in (folder / SCORES, folder / "report" / SCORES) if place.is_file()), None)
    if file is None:
        raise UserError(f"There is no report in {folder}: expected a folder of `finetune evaluate --report`, or a run.")
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))
        evaluated = scores.get("evaluated")
        complete = evaluated is None or all(key in evaluated for key in _EVALUATED)
        if not complete or not all(key in scores for key in ("wer", "cer", "utterances", "words", "characters")):
            raise ValueError("a key is missing")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}.") from error
    if evaluated is None:
        raise UserError(
            f"{file} does not say what was evaluated and how: write it again with finetune evaluate --report."
        )
    return dict(scores)


def require_free(folder: Path) -> None:
    """Raise UserError if a report's folder exists already or cannot be written."""
    if folder.exists():
        raise UserError(f"{folder} exists already: remove it, or choose another folder for the report.")
    parent = next(each for each in folder.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"A report cannot be written to {folder}: {parent} is not a writable folder.")
