"""The validation report as one HTML file: counts, distributions, findings, and audio of a few examples."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from finetune.audio.waveforms import AudioError, fault_as_reason
from finetune.data.corpus import Split, Utterance
from finetune.data.validation_report import Finding, SplitSummary, ValidationReport, speaking_rate
from finetune.files import write_text
from finetune.resources.addresses import public_address
from finetune.resources.templates import render_html

# Examples listed for each finding, and those with audio: more make the file slow to open; the JSON lists all.
_LISTED, _WITH_AUDIO = 20, 3
_AUDIO_SECONDS = 20.0
_AUDIO_RATE = 16000


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram in the units of its SVG, and its range and count as text."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """A histogram from 0 to `highest`."""

    bars: tuple[Bar, ...]
    highest: float
    width: int = 400
    height: int = 120


def write_html_report(file: Path, title: str, report: ValidationReport, splits: Mapping[str, Split]) -> None:
    """Write the HTML report atomically."""
    findings = [_list_examples(finding, splits[finding.split]) for finding in report.findings]
    described = [_describe_split(role, report.splits[role], split) for role, split in splits.items()]
    write_text(file, render_html("data/html_report.html", title, findings=findings, splits=described))


def _describe_split(role: str, summary: SplitSummary, split: Split) -> dict[str, Any]:
    counts = {
        "Utterances": f"{summary.utterances:,}",
        "Hours": f"{summary.seconds / 3600:.2f}",
        "Speakers": f"{summary.speakers:,}" if summary.speakers else "not known",
        "Words": f"{summary.words:,}",
        "Skipped": f"{sum(summary.left_out.values()):,}",
    }
    return {
        "role": role,
        "summary": summary,
        "counts": counts,
        "durations": build_histogram([utterance.seconds for utterance in split.utterances]),
        "rates": build_histogram([speaking_rate(utterance) for utterance in split.utterances]),
    }


def build_histogram(values: Sequence[float], bins: int = 40) -> Histogram:
    """Count values in equal ranges from 0 to their 99.99 % quantile; larger values are in the last bar."""
    highest = float(np.quantile(values, 0.9999))
    counts, edges = np.histogram(np.minimum(values, highest), bins=bins, range=(0, max(highest, 1e-9)))
    step, scale = Histogram.width / bins, Histogram.height / int(counts.max())
    bars = tuple(
        Bar(
            x=round(step * i, 1),
            y=round(Histogram.height - scale * count, 1),
            width=round(step - 1, 1),
            height=round(scale * count, 1),
            label=f"{edges[i]:.1f} to {edges[i + 1]:.1f}: {count:,}",
        )
        for i, count in enumerate(counts.tolist())
    )
    return Histogram(bars, highest)


def _list_examples(finding: Finding, split: Split) -> dict[str, Any]:
    utterances = {utterance.row: utterance for utterance in split.utterances}
    examples = [
        {
            "name": name,
            "utterance": utterances[row],
            **(_encode_audio(utterances[row], split) if number < _WITH_AUDIO else {"audio": None, "problem": ""}),
        }
        for number, (row, name) in enumerate(finding.utterances[:_LISTED])
    ]
    return {"finding": finding, "examples": examples, "more": len(finding.utterances) - len(examples)}


def _encode_audio(utterance: Utterance, split: Split) -> dict[str, str | None]:
    """The beginning of the audio as a `data:` URL, or the reason that it cannot be read."""
    sound = io.BytesIO()
    try:
        with fault_as_reason():
            waveform = split.read(utterance, _AUDIO_RATE)[: round(_AUDIO_SECONDS * _AUDIO_RATE)]
            soundfile.write(sound, waveform, _AUDIO_RATE, format="OGG", subtype="OPUS")
    except AudioError as error:
        return {"audio": None, "problem": public_address(str(error))}
    return {"audio": f"data:audio/ogg;base64,{base64.b64encode(sound.getvalue()).decode()}", "problem": ""}
