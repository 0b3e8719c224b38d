"""Write what an evaluation found into a folder: counts, one line for each utterance, a page to look at."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.data.audio import Recording
from finetune.errors import UserError
from finetune.evaluation.analysis import Analysis
from finetune.evaluation.clips import write_clips
from finetune.evaluation.page import build_page
from finetune.evaluation.results import FILE, format_results


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
    # Beside the folder, so that the rename stays on one file system.
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        scores = {**({"evaluated": evaluated} if evaluated else {}), **analysis.to_json()}
        _write(unfinished / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
        _write(unfinished / FILE, format_results(analysis.results, analysis.counts))
        audio = write_clips(unfinished, len(analysis.results), recording) if recording else ()
        _write(unfinished / "index.html", build_page(title, analysis, details, audio))
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def require_free(folder: Path) -> None:
    """Raise UserError when there is something where a report shall be, or nothing may be written there."""
    if folder.exists():
        raise UserError(f"There is a report in {folder} already: remove it, or choose another folder.")
    parent = next(each for each in folder.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"A report can't be written to {folder}: {parent} is no folder that you may write into.")


def _write(path: Path, text: str) -> None:
    # Half a character, as a JSON manifest's escapes may hold, has no UTF-8; so written JSON reads it back.
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
