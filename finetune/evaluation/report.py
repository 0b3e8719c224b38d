"""Write what an evaluation found into a folder: counts, one line for each utterance, a page to look at."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.audio.waveforms import Recording
from finetune.errors import UserError
from finetune.evaluation.analysis import Analysis
from finetune.evaluation.html_report import build_html_report
from finetune.evaluation.report_audio import write_clips
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
) -> None:
    """Write `scores.json`, `utterances.jsonl` and `index.html` into a new folder, all of them or nothing.

    `details` say on the page what was scored and how. With `recording`, which gives the audio of the result at a place,
    the page has players, and what they play is in it or, when large, in `audio/` beside it. What was `evaluated`
    (data, split, normalisation, decoder) goes into `scores.json`, so that the scores can be published.

    Raises UserError when the folder exists already.
    """
    require_free(folder)
    with new_folder(folder) as unfinished:
        scores = {**({"evaluated": evaluated} if evaluated else {}), **analysis.to_json()}
        write_json(unfinished / SCORES, scores)
        write_text(unfinished / FILE, format_results(analysis.results, analysis.counts))
        audio = write_clips(unfinished, len(analysis.results), recording) if recording else ()
        write_text(unfinished / "index.html", build_html_report(title, analysis, details, audio))


def read_scores(folder: Path) -> dict[str, Any]:
    """What `write_report` wrote into `scores.json`, in a report's folder or a run's, with what was evaluated.

    Raises UserError where there is none, and for one that is damaged or so old that it does not say of what it is.
    """
    places = (folder / SCORES, folder / "report" / SCORES)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"There is no report in {folder}: expected a folder of `finetune evaluate --report`, or a run.")
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))
        evaluated = scores.get("evaluated")
        complete = evaluated is None or all(key in evaluated for key in _EVALUATED)
        if not complete or not all(key in scores for key in ("wer", "cer", "utterances", "words", "characters")):
            raise ValueError("something is missing")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}.") from error
    if evaluated is None:
        raise UserError(
            f"{file} does not say what was evaluated and how: make it anew with finetune evaluate --report."
        )
    return dict(scores)


def require_free(folder: Path) -> None:
    """Raise UserError when there is something where a report shall be, or nothing may be written there."""
    if folder.exists():
        raise UserError(f"There is a report in {folder} already: remove it, or choose another folder.")
    parent = next(each for each in folder.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"A report can't be written to {folder}: {parent} is no folder that you may write into.")
