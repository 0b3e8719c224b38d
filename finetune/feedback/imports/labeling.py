"""The names in a Label Studio project: of its audio, and of the field with its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from finetune.audio.waveforms import CONTAINERS, SUFFIXES
from finetune.errors import UserError
from finetune.text.lines import read_text

CONFIGURATION = """<View>
  <Audio name="audio" value="$audio"/>
  <TextArea name="transcription" toName="audio" rows="4" editable="true" maxSubmissions="1"/>
</View>
"""
"""The labeling configuration that the tasks of `finetune feedback review-queue --label-studio` are for."""

_AUDIO_TAGS = ("Audio", "AudioPlus")


@dataclass(frozen=True)
class Layout:
    """The key of the audio in a task's data, `to_name` and `from_name` of its text, and whether channels are split."""

    audio_key: str
    audio_name: str
    text_name: str
    splits_channels: bool = False


def read_layout(file: Path, text_name: str | None = None) -> Layout:
    """The names in a labeling configuration; raises UserError where it has no text of audio, or several."""
    text = read_text(file)
    try:
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ElementTree.ParseError("it has a DOCTYPE")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file} is no labeling configuration: {error}; expected XML with a View.") from error
    audio = {each.get("name"): each for tag in _AUDIO_TAGS for each in root.iter(tag)}
    fields = [each for each in root.iter("TextArea") if each.get("toName") in audio]
    if not fields:
        raise UserError(f"{file} has no TextArea for an Audio: its texts are not of audio.")
    names = [str(each.get("name")) for each in fields]
    chosen = names[0] if text_name is None and len(names) == 1 else text_name
    if chosen not in names:
        raise UserError(f"{file} has the texts {', '.join(names)}: say which is meant with --text-name NAME.")
    to_name = str(fields[names.index(chosen)].get("toName"))
    value = audio[to_name].get("value") or ""
    if not value.startswith("$"):
        raise UserError(f"{file} has the audio {value[:80]!r}; expected a $ and the name of a value of each task.")
    return Layout(value[1:], to_name, chosen, audio[to_name].get("splitchannels", "").lower() == "true")


def infer_layout(tasks: Sequence[Any], file: Path, text_name: str | None = None) -> Layout:
    """The names in an export, from the types in its results; raises UserError where they are not clear."""
    data = [task["data"] for task in tasks if isinstance(task, dict) and isinstance(task.get("data"), dict)]
    keys = Counter(key for each in data for key, value in each.items() if _names_audio(value))
    results = [result for task in tasks for result in _list_all_results(task)]
    types = sorted({str(result.get("type")) for result in results})
    if not keys:
        shown = f" with {', '.join(types[:5])}" if types else ""
        raise UserError(f"{file} is an export of a project without audio{shown}; expected texts (TextArea) of audio.")
    texts = [result for result in results if result.get("type") == "textarea"]
    if results and not texts:
        raise UserError(f"{file} has {', '.join(types[:5])} and no texts; expected texts (TextArea) of audio.")
    fields = Counter((str(each.get("from_name")), str(each.get("to_name"))) for each in texts)
    named = [field for field in fields if text_name in (None, field[0])]
    if len(named) > 1 or (texts and not named):
        shown = ", ".join(name for name, _ in fields)
        raise UserError(f"{file} has the texts {shown}: say which is meant with --text-name NAME.")
    field = named[0] if named else (text_name or "transcription", "audio")
    if len(keys) > 1 and field[1] not in keys:
        raise UserError(
            f"{file} has audio in {', '.join(keys)}: give the project's labeling configuration with --config FILE."
        )
    return Layout(field[1] if field[1] in keys else next(iter(keys)), field[1], field[0], _splits_channels(results))


def list_annotations(task: Any) -> list[Mapping[str, Any]]:
    """The annotations of a task, which Label Studio before 1.0 calls completions."""
    found = (task.get("annotations") or task.get("completions")) if isinstance(task, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def list_results(annotation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The results of an annotation or a prediction."""
    found = annotation.get("result")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _list_all_results(task: Any) -> Iterator[Mapping[str, Any]]:
    predictions = task.get("predictions") if isinstance(task, dict) else None
    made = [each for each in predictions if isinstance(each, dict)] if isinstance(predictions, list) else []
    for annotation in [*list_annotations(task), *made]:
        yield from list_results(annotation)


def _splits_channels(results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a region has another channel than the first: without split channels all have the first."""
    values = [result.get("value") for result in results]
    return any(isinstance(value, dict) and value.get("channel") not in (None, 0) for value in values)


def _names_audio(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return PurePosixPath(value.partition("&")[0].rstrip("/")).suffix.partition("?")[0].lower() in SUFFIXES | CONTAINERS
