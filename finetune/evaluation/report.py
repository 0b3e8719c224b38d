"""Write what an evaluation found into a folder: counts, one line for each utterance, a page to look at."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

from finetune.errors import UserError
from finetune.evaluation.scores import ErrorCounts, Scores, align_words, count, percent, score

# Ten thousand rows make a page that browsers scroll badly; utterances.jsonl holds them all.
MAX_ROWS = 1000


@dataclass(frozen=True)
class Result:
    """One utterance and what was recognised, as it was scored; `columns` are what else its row says."""

    name: str
    reference: str
    hypothesis: str
    raw_reference: str
    seconds: float
    speaker: str | None
    columns: dict[str, str] = field(default_factory=dict)


def write_report(folder: Path, title: str, scores: Scores, results: Sequence[Result]) -> None:
    """Write `scores.json`, `utterances.jsonl` and `index.html` into a new folder, all of them or nothing.

    Raises UserError when the folder exists already.
    """
    if folder.exists():
        raise UserError(f"There is a report in {folder} already: remove it, or choose another folder.")
    counted = [(result, score([result.reference], [result.hypothesis]).words) for result in results]
    # Beside the folder, so that the rename stays on one file system.
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        _write(unfinished / "scores.json", json.dumps(scores.to_json(), indent=2) + "\n")
        _write(unfinished / "utterances.jsonl", "".join(_json_line(*pair) for pair in counted))
        _write(unfinished / "index.html", _page(title, scores, counted))
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _json_line(result: Result, words: ErrorCounts) -> str:
    errors = {
        "wer": words.rate,
        "words": words.reference_length,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
    }
    return json.dumps(asdict(result) | errors, ensure_ascii=False) + "\n"


def _page(title: str, scores: Scores, counted: Sequence[tuple[Result, ErrorCounts]]) -> str:
    worst = sorted(counted, key=lambda pair: (-pair[1].errors, -(pair[1].rate or 0.0), pair[0].name))
    shown = worst[:MAX_ROWS]
    which = f"The {len(shown)} worst of" if len(shown) < len(worst) else "All"
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        figures="".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _figures(scores)),
        note=f"{which} {count(len(worst), 'utterance')}, those with most word errors first.",
        rows="\n".join(_row(*pair) for pair in shown),
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


def _row(result: Result, words: ErrorCounts) -> str:
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
    output = align_words([reference], [hypothesis])
    said, heard = output.references[0], output.hypotheses[0]
    pieces: list[str] = []
    for chunk in output.alignments[0]:
        left = [escape(word) for word in said[chunk.ref_start_idx : chunk.ref_end_idx]]
        right = [escape(word) for word in heard[chunk.hyp_start_idx : chunk.hyp_end_idx]]
        if chunk.type == "equal":
            pieces += left
        elif chunk.type == "delete":
            pieces += [f"<del>−{word}</del>" for word in left]
        elif chunk.type == "insert":
            pieces += [f"<ins>+{word}</ins>" for word in right]
        else:
            pieces += [f'<span class="changed">{old}→<b>{new}</b></span>' for old, new in zip(left, right, strict=True)]
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
