"""One HTML page of an examination, with nothing beside it: figures, distributions, findings, and clips to hear."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import soundfile

from finetune.audio.waveforms import AudioError, fault_as_reason
from finetune.data.corpus import Split, Utterance
from finetune.data.validation_report import Examination, Finding, SplitSummary, speaking_rate
from finetune.files import write_text
from finetune.resources.addresses import public_address

# A page with more clips is slow to open; the JSON names more utterances.
_LISTED, _CLIPS = 20, 3
_CLIP_SECONDS = 20.0
_CLIP_RATE = 16000


def write_page(file: Path, title: str, examination: Examination, splits: Mapping[str, Split]) -> None:
    """Write the page, whole or not at all."""
    sections = [_split_section(role, examination.splits[role], split) for role, split in splits.items()]
    findings = "".join(_finding_section(finding, splits[finding.split]) for finding in examination.findings)
    body = f"<h1>{escape(title)}</h1><h2>Findings</h2>{findings or '<p>Nothing stood out.</p>'}{''.join(sections)}"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>{body}</body></html>\n'
    )
    write_text(file, page)


def _split_section(role: str, summary: SplitSummary, split: Split) -> str:
    figures = [
        ("Utterances", f"{summary.utterances:,}"),
        ("Hours", f"{summary.seconds / 3600:.2f}"),
        ("Speakers", f"{summary.speakers:,}" if summary.speakers else "not known"),
        ("Words", f"{summary.words:,}"),
        ("Left out", f"{sum(summary.left_out.values()):,}"),
    ]
    listed = "".join(f"<div><dd>{value}</dd><dt>{name}</dt></div>" for name, value in figures)
    rates = ", ".join(f"{rate:,} Hz × {count:,}" for rate, count in summary.sampling_rates.items())
    reasons = "".join(f"<li>{count:,} × {escape(reason)}</li>" for reason, count in summary.left_out.items())
    return (
        f"<section><h2>{escape(role)}</h2><dl>{listed}</dl>"
        f"<div class='plots'>{draw_histogram('Duration in seconds', [u.seconds for u in split.utterances])}"
        f"{draw_histogram('Characters a second', [speaking_rate(u) for u in split.utterances])}</div>"
        + (f"<h3>Left out</h3><ul>{reasons}</ul>" if reasons else "")
        + f"<p>Sampling rates: {rates}</p>"
        + f"<h3>Characters</h3><p class='characters'>{_character_list(summary)}</p></section>"
    )


def _character_list(summary: SplitSummary) -> str:
    return " ".join(f"<span><b>{escape(c)}</b> {count:,}</span>" for c, count in summary.characters.items())


def draw_histogram(title: str, values: Sequence[float], bins: int = 40) -> str:
    """An SVG of how often which values come, the largest hundredth of a percent cut off; each bar says its range."""
    highest = float(np.quantile(values, 0.9999))
    counts, edges = np.histogram(np.minimum(values, highest), bins=bins, range=(0, max(highest, 1e-9)))
    width, height = 400, 120
    bars = "".join(
        f'<rect x="{width * i / bins:.1f}" y="{height * (1 - count / counts.max()):.1f}" '
        f'width="{width / bins - 1:.1f}" height="{height * count / counts.max():.1f}">'
        f"<title>{edges[i]:.1f} to {edges[i + 1]:.1f}: {count:,}</title></rect>"
        for i, count in enumerate(counts.tolist())
    )
    axis = "".join(
        f'<text x="{width * share:.0f}" y="{height + 16}" text-anchor="{anchor}">{highest * share:.1f}</text>'
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height + 20}" role="img" '
        f'aria-label="{escape(title)}">{bars}{axis}</svg></figure>'
    )


def _finding_section(finding: Finding, split: Split) -> str:
    utterances = {u.row: u for u in split.utterances}
    rows = []
    for number, (row, name) in enumerate(finding.utterances[:_LISTED]):
        utterance = utterances[row]
        player = _player(utterance, split) if number < _CLIPS else ""
        rows.append(
            f"<tr><td>{escape(name)}<small>row {row}, {utterance.seconds:.1f} s</small></td>"
            f'<td dir="auto">{escape(utterance.transcript)}</td><td>{player}</td></tr>'
        )
    more = len(finding.utterances) - _LISTED
    rest = f"<p class='note'>and {more:,} more</p>" if more > 0 else ""
    return (
        f"<details><summary>{escape(finding.split)}: {escape(finding.sentence)}</summary>"
        f"<table>{''.join(rows)}</table>{rest}</details>"
    )


def _player(utterance: Utterance, split: Split) -> str:
    sound = io.BytesIO()
    try:
        with fault_as_reason():
            waveform = split.read(utterance, _CLIP_RATE)[: round(_CLIP_SECONDS * _CLIP_RATE)]
            soundfile.write(sound, waveform, _CLIP_RATE, format="OGG", subtype="OPUS")
    except AudioError as error:
        return escape(public_address(str(error)))
    data = base64.b64encode(sound.getvalue()).decode()
    return f'<audio controls preload="none" src="data:audio/ogg;base64,{data}"></audio>'


_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1e21; --faint: #667; --line: #dde0e4; --bar: #3b6ea8; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e4e6e9; --faint: #99a0a8; --line: #33373c;
  --bar: #7fb0e6; } }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { margin-top: 2rem; } h3 { font-size: 1rem; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; } dl > div { display: flex; flex-direction: column; }
dd { margin: 0; font-size: 1.3rem; } dt, small, .note, figcaption { color: var(--faint); font-size: .85rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { flex: 1 1 20rem; margin: 0; }
svg { width: 100%; } rect { fill: var(--bar); } text { fill: var(--faint); font-size: 12px; }
table { border-collapse: collapse; width: 100%; } td { border-top: 1px solid var(--line); padding: .4rem; }
td:first-child { overflow-wrap: anywhere; } small { display: block; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: .5rem .8rem; }
summary { cursor: pointer; } .characters span { display: inline-block; margin-right: .8rem; }
"""
