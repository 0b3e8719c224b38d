"""Write what an evaluation found into a folder: counts, one line for each utterance, a page to look at."""

from __future__ import annotations

import json
import os
import shutil
from html import escape
from pathlib import Path

from finetune.errors import UserError
from finetune.evaluation.analysis import Analysis
from finetune.evaluation.errors import rank_worst
from finetune.evaluation.results import FILE, Result, format_results
from finetune.evaluation.scores import Counts, ErrorCounts, Scores, align_words, count, pair_units, percent

# Ten thousand rows make a page that browsers scroll badly; utterances.jsonl holds them all.
MAX_ROWS = 1000


def write_report(folder: Path, title: str, analysis: Analysis) -> None:
    """Write `scores.json`, `utterances.jsonl` and `index.html` into a new folder, all of them or nothing.

    Raises UserError when the folder exists already.
    """
    require_free(folder)
    # Beside the folder, so that the rename stays on one file system.
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        _write(unfinished / "scores.json", json.dumps(analysis.to_json(), indent=2, ensure_ascii=False) + "\n")
        _write(unfinished / FILE, format_results(analysis.results, analysis.counts))
        _write(unfinished / "index.html", _page(title, analysis))
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
    path.write_text(text, encoding="utf-8", newline="\n")


def _page(title: str, analysis: Analysis) -> str:
    worst = rank_worst(analysis.counts)
    shown = worst[:MAX_ROWS]
    which = f"The {len(shown)} worst of" if len(shown) < len(worst) else "All"
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        figures="".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _figures(analysis.scores)),
        note=f"{which} {count(len(worst), 'utterance')}, those with most word errors first.",
        rows="\n".join(_row(analysis.results[row], analysis.counts[row]) for row in shown),
    )


def _figures(scores: Scores) -> list[tuple[str, str]]:
    words = scores.words
    return [
        ("WER", percent(scores.wer)),
        ("CER", percent(scores.cer)),
        ("Words", f"{words.reference_length:,}"),
        ("Substitutions", f"{words.substitutions:,}"),
        ("Deletions", f"{words.deletions:,}"),
        ("Insertions", f"{words.insertions:,}"),
        ("Utterances", f"{scores.utterances:,}"),
        ("Minutes of speech", f"{scores.audio_seconds / 60:,.1f}"),
    ]


def _row(result: Result, counts: Counts) -> str:
    words = ErrorCounts(*counts[:4].tolist())
    text = _mark_differences(result.reference, result.hypothesis)
    if result.raw_reference != result.reference:
        text += f'<p class="raw" dir="auto">{escape(result.raw_reference)}</p>'
    who = f"{escape(result.speaker)}, " if result.speaker else ""
    return (
        f'<tr><td class="number">{words.errors}<small>of {words.reference_length}</small></td>'
        f"<td>{text}</td>"
        f"<td>{escape(result.name)}<small>{who}{result.seconds:.1f} s</small></td></tr>"
    )


def _mark_differences(reference: str, hypothesis: str) -> str:
    """Return the words of both as HTML: each difference by a colour and by a sign."""
    [alignment] = align_words([reference], [hypothesis])
    pieces: list[str] = []
    for said, heard in (map(escape, pair) for pair in pair_units(alignment)):
        if said == heard:
            pieces.append(said)
        elif not heard:
            pieces.append(f"<del>−{said}</del>")
        elif not said:
            pieces.append(f"<ins>+{heard}</ins>")
        else:
            pieces.append(f'<span class="changed">{said}→<b>{heard}</b></span>')
    return f'<p dir="auto">{" ".join(pieces)}</p>'


_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1e21; --faint: #667; --line: #dde0e4;
  --changed: #8a5300; --changed-back: #fdf0d9; --deleted: #a8202e; --deleted-back: #fce6e8;
  --inserted: #17643a; --inserted-back: #e0f4e8; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e4e6e9; --faint: #99a0a8;
  --line: #33373c; --changed: #f3c47d; --changed-back: #3b2e17; --deleted: #ff9ba5;
  --deleted-back: #43202a; --inserted: #86dba8; --inserted-back: #173626; } }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 0 0 1.5rem; }
dl > div { display: flex; flex-direction: column-reverse; }
dt, small, .raw, .note { color: var(--faint); font-size: .85rem; }
dd { margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 600; }
th, td { padding: .5rem 1rem .5rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:last-child { min-width: min(11rem, 30vw); max-width: 14rem; overflow-wrap: anywhere; }
td p { margin: 0; overflow-wrap: anywhere; }
small { display: block; white-space: nowrap; }
.number { font-variant-numeric: tabular-nums; }
.changed, del, ins { padding: 0 .25em; border-radius: .25em; text-decoration: none; }
.changed { color: var(--changed); background: var(--changed-back); }
.changed b { font-weight: 600; }
del { color: var(--deleted); background: var(--deleted-back); }
ins { color: var(--inserted); background: var(--inserted-back); }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<dl>{figures}</dl>
<p class="note">{note} <span class="changed">said→<b>recognised</b></span>
<del>−left out</del> <ins>+added</ins>. The smaller line is the transcript before normalisation.</p>
<table>
<thead>
<tr><th scope="col">Errors</th><th scope="col">Transcript</th><th scope="col">Utterance</th></tr>
</thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""
