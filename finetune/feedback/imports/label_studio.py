"""Exports of Label Studio in JSON as entries: texts of whole files and of regions, each by its annotator.

https://labelstud.io/guide/task_format describes the format; the names in it are those of the labeling configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.audio.waveforms import AudioError, Recording, fault_as_reason
from finetune.feedback.imports.entries import MAX_NAME, Entry, LeftOut, take_hypothesis, take_metadata
from finetune.feedback.imports.found_audio import FoundAudio
from finetune.feedback.imports.labeling import Layout, infer_layout, list_annotations, list_results
from finetune.text.lines import read_text

Place = tuple[float, float | None, int]
"""Start, end (seconds; None for the end of the file) and channel (the first is 0) of a region."""

_WHOLE: Place = (0.0, None, 0)


@dataclass(frozen=True)
class _Text:
    """A text of a region, or of the whole file."""

    place: Place
    text: str


def read_tasks(file: Path) -> list[Any] | None:
    """The tasks of an export, None for other JSON; raises UserError for a file that is not JSON."""
    try:
        content = json.loads(read_text(file), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None  # An object on each line, or a damaged file: whoever reads tables says so.
    tasks = content if isinstance(content, list) else [content]
    first = next((task for task in tasks if isinstance(task, dict)), {})
    known = {"annotations", "completions", "predictions"}
    return tasks if isinstance(first.get("data"), dict) and known & first.keys() else None


def read_export(
    tasks: Sequence[Any], file: Path, audio: FoundAudio, layout: Layout | None = None
) -> Iterator[Entry | LeftOut]:
    """The entries of an export's tasks; without a layout the names are inferred from the results.

    A task without annotations gives its newest prediction, for the review queue. Of a task with annotations that are
    the ground truth, only these are taken. Drafts are ignored. Raises UserError for an export of another kind.
    """
    layout = layout or infer_layout(tasks, file)
    has_consent = any("consent" in _data(task) for task in tasks)
    for number, task in enumerate(tasks, 1):
        shown = task.get("id", number) if isinstance(task, dict) else number
        name = f"{file.name}, task {str(shown)[:40]}"
        try:
            with fault_as_reason():
                found = _read_task(task, name, audio, layout, has_consent)
        except AudioError as error:
            found = [LeftOut(name, str(error))]
        yield from found


def _data(task: Any) -> Mapping[str, Any]:
    data = task.get("data") if isinstance(task, dict) else None
    return data if isinstance(data, dict) else {}


def _read_task(task: Any, name: str, audio: FoundAudio, layout: Layout, has_consent: bool) -> list[Entry | LeftOut]:
    data = _data(task)
    cell = data.get(layout.audio_key)
    if not isinstance(cell, str) or not cell:
        raise AudioError(f"no audio: its data have no {layout.audio_key}")
    annotations = [each for each in list_annotations(task) if not each.get("was_cancelled")]
    cancelled = len(list_annotations(task)) - len(annotations)
    found: list[Entry | LeftOut] = [LeftOut(name, "cancelled by its annotator")] * cancelled
    truths = [each for each in annotations if each.get("ground_truth")]
    if truths:
        others = len(annotations) - len(truths)
        found += [LeftOut(name, "another annotation of the task is its ground truth")] * others
        annotations = truths
    path = audio.find(cell)
    metadata = take_metadata(data, has_consent)
    predicted, hypotheses = _read_predictions(task, layout)

    def build(place: Place, text: str | None, reviewer: str | None) -> Entry:
        start, end, channel = place
        recording = Recording(path, None, start, end, channel=channel if layout.splits_channels else None)
        called = name if place == _WHOLE else f"{name}, {start:g} to {end:g} s"
        hypothesis = hypotheses.get(place)
        return Entry(name=called, recording=recording, text=text, reviewer=reviewer, hypothesis=hypothesis, **metadata)

    for annotation in sorted(annotations, key=lambda each: str(each.get("updated_at") or "")):
        texts, empty = _read_texts(list_results(annotation), layout)
        reviewer = _name_annotator(annotation.get("completed_by"))
        found += [build(each.place, each.text, reviewer) for each in texts]
        found += [LeftOut(name, "a region without a text")] * empty
        if not texts and not empty:
            found.append(LeftOut(name, "an annotation without a text"))
    if not annotations and not cancelled:
        found += [build(place, None, None) for place in predicted]
    return found or [LeftOut(name, "no annotation")]


def _read_texts(results: Sequence[Mapping[str, Any]], layout: Layout) -> tuple[list[_Text], int]:
    """The texts of an annotation, and the number of its regions without one; raises AudioError for broken results."""
    places: dict[str, Place] = {}
    texts: dict[str, str] = {}
    for number, result in enumerate(results):
        value = result.get("value")
        if not isinstance(value, dict) or result.get("to_name") not in (None, layout.audio_name):
            continue
        key = str(result.get("id", number))
        if "start" in value and "end" in value:
            places[key] = _read_place(value)
        if result.get("type") == "textarea" and result.get("from_name") == layout.text_name:
            texts[key] = _join(value.get("text"))
    spoken = {key: text for key, text in texts.items() if text}
    found = [_Text(places.get(key, _WHOLE), text) for key, text in spoken.items()]
    return found, len((places.keys() | texts.keys()) - spoken.keys())


def _read_place(value: Mapping[str, Any]) -> Place:
    try:
        place = float(value["start"]), float(value["end"])
        channel = int(value.get("channel") or 0)
    except (TypeError, ValueError, OverflowError) as error:
        shown = f"{value.get('start')} to {value.get('end')}"[:80]
        raise AudioError(f"a region from {shown}; expected seconds") from error
    return round(place[0], 3), round(place[1], 3), channel


def _join(text: Any) -> str:
    """The text of a TextArea, which lists what was submitted one after another."""
    parts = text if isinstance(text, list) else [text]
    if not all(isinstance(part, str) for part in parts if part is not None):
        raise AudioError("its text is not text")
    return " ".join(part.strip() for part in parts if part and part.strip())


def _read_predictions(task: Any, layout: Layout) -> tuple[list[Place], dict[Place, Any]]:
    """The places of the newest prediction with texts, and the hypothesis of each place."""
    predictions = task.get("predictions")
    hypotheses: dict[Place, Any] = {}
    for prediction in predictions if isinstance(predictions, list) else []:
        if not isinstance(prediction, dict):  # Some exports list the numbers of predictions alone.
            continue
        texts, _ = _read_texts(list_results(prediction), layout)
        score = prediction.get("score")
        version = str(prediction.get("model_version") or "") or None
        for each in texts:
            confidence = score if isinstance(score, int | float) and 0 <= score <= 1 else None
            hypotheses[each.place] = take_hypothesis(each.text, confidence, version)
    return list(hypotheses), hypotheses


def _name_annotator(found: Any) -> str:
    """The name of an annotator: an address where the export has it, else the number in Label Studio."""
    if isinstance(found, dict):
        found = found.get("email") or found.get("id")
    if found is None:
        return "label-studio"
    text = str(found).strip()
    return (f"label-studio-{text}" if text.isdigit() else text)[:MAX_NAME] or "label-studio"
