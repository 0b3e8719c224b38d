"""Output formats of transcripts: text, JSON, SubRip, WebVTT, CTM and TextGrid."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from finetune.inference.events import Event, Final, Partial, SpeechEnded, SpeechStarted, average_confidence
from finetune.inference.subtitles import Cue, build_cues
from finetune.inference.transcript import Character, Transcript, Word, count_milliseconds


@dataclass(frozen=True)
class Format:
    """A format: the suffix of its files, and the function that formats a transcript and the name of its recording."""

    suffix: str
    write: Callable[[Transcript, str], str]


def format_transcript(transcript: Transcript, form: str, name: str = "audio") -> str:
    """A transcript in one of `FORMATS`, as the text of a file, with a final newline.

    CTM has the `name` of the recording in each line. Subtitles, CTM and TextGrid leave out words that are not in the
    audio (`Word.found`); JSON marks them.

    >>> from finetune.inference.formats import format_transcript
    >>> from finetune.inference.transcript import Transcript, Word
    >>> transcript = Transcript((Word("it", 0.4, 0.5, 0.98), Word("rained", 0.6, 1.1, 0.9)), seconds=1.5)
    >>> print(format_transcript(transcript, "ctm", "morning"), end="")
    morning 1 0.400 0.100 it 0.9800
    morning 1 0.600 0.500 rained 0.9000
    """
    return FORMATS[form].write(transcript, name)


def describe_transcript(transcript: Transcript) -> dict[str, Any]:
    """The JSON form of a transcript, with times in seconds, rounded to milliseconds."""
    return {
        "seconds": round(transcript.seconds, 3),
        "channels": transcript.channels,
        "text": transcript.text,
        "words": [_describe_word(word) for word in transcript.words],
    }


def describe_event(event: Event) -> dict[str, Any]:
    """A live event as JSON values: its type, times in seconds to the millisecond, and its text where it has one."""
    match event:
        case SpeechStarted():
            return {"type": "speech_started", "start": round(event.start, 3)}
        case SpeechEnded():
            return {"type": "speech_ended", "end": round(event.end, 3)}
        case Partial():
            of_kind: dict[str, Any] = {"type": "partial", "stable": event.stable}
            end, confidence = event.stable_until, average_confidence(event.words)
        case Final():
            of_kind, end, confidence = {"type": "final"}, event.end, event.confidence
    return {
        **of_kind,
        "start": round(event.start, 3),
        "end": round(end, 3),
        "text": event.text,
        "words": [_describe(word) for word in event.words],
        "confidence": None if confidence is None else round(confidence, 4),
    }


def _describe_word(word: Word) -> dict[str, Any]:
    described = {**_describe(word), "channel": word.channel, "found": word.found}
    return described | {"characters": [_describe(character) for character in word.characters]}


def _describe(part: Word | Character) -> dict[str, Any]:
    times = {"start": round(part.start, 3), "end": round(part.end, 3)}
    return {"text": part.text, **times, "confidence": round(part.confidence, 4)}


def _write_text(transcript: Transcript, name: str) -> str:
    return transcript.text + "\n"


def _write_json(transcript: Transcript, name: str) -> str:
    return json.dumps(describe_transcript(transcript), ensure_ascii=False, indent=2) + "\n"


def _write_srt(transcript: Transcript, name: str) -> str:
    """SubRip: numbered cues; the arrow of time lines is replaced in texts."""
    cues = enumerate(build_cues(transcript), 1)
    texts = ((number, cue, "\n".join(line.text.replace("-->", "→") for line in cue.lines)) for number, cue in cues)
    return "\n".join(f"{number}\n{_format_times(cue, ',')}\n{text}\n" for number, cue, text in texts)


def _write_vtt(transcript: Transcript, name: str) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/), with a voice for each separately transcribed channel."""
    cues = ["WEBVTT\n"]
    for cue in build_cues(transcript):
        lines = [
            f"<v Channel {line.channel}>{_escape(line.text)}" if transcript.channels > 1 else _escape(line.text)
            for line in cue.lines
        ]
        cues.append("\n".join([_format_times(cue, "."), *lines, ""]))
    return "\n".join(cues)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _format_times(cue: Cue, point: str) -> str:
    return f"{_format_time(cue.start_milliseconds, point)} --> {_format_time(cue.end_milliseconds, point)}"


def _format_time(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{thousandths:03d}"


def _write_ctm(transcript: Transcript, name: str) -> str:
    """NIST's CTM, as sclite reads it: recording, channel, start, duration, word, confidence, without spaces in them."""
    recording = "_".join(name.split()).replace(";;", "__") or "audio"
    lines = []
    for word in sorted(_found(transcript), key=lambda word: (word.channel, word.start)):
        start, end = round(word.start, 3), round(word.end, 3)
        text = "_".join(word.text.split())
        lines.append(f"{recording} {word.channel} {start:.3f} {end - start:.3f} {text} {word.confidence:.4f}\n")
    return "".join(lines)


def _write_textgrid(transcript: Transcript, name: str) -> str:
    """Praat's long text format: a tier of words and one of characters for each channel, without gaps."""
    total = count_milliseconds(transcript.seconds)
    tiers: list[tuple[str, list[tuple[int, int, str]]]] = []
    for channel in range(1, transcript.channels + 1):
        words = [word for word in _found(transcript) if word.channel == channel]
        suffix = f" {channel}" if transcript.channels > 1 else ""
        tiers.append((f"words{suffix}", _fill_tier(words, total)))
        tiers.append((f"characters{suffix}", _fill_tier((part for word in words for part in word.characters), total)))
    end = f"xmax = {total / 1000:.3f}"
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", end, "tiers? <exists>"]
    lines += [f"size = {len(tiers)}", "item []:"]
    for number, (title, intervals) in enumerate(tiers, 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{title}"']
        lines += ["        xmin = 0", f"        {end}", f"        intervals: size = {len(intervals)}"]
        for place, (start, stop, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start / 1000:.3f}"]
            lines += [f"            xmax = {stop / 1000:.3f}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def _fill_tier(parts: Iterable[Word | Character], total: int) -> list[tuple[int, int, str]]:
    """Contiguous intervals in milliseconds from 0 to the end, none of them empty."""
    intervals: list[tuple[int, int, str]] = []
    behind = 0
    # A part shorter than a millisecond is merged with the next interval, or at the end with the last one.
    for end, same in groupby(parts, key=lambda part: min(count_milliseconds(part.end), total)):
        spoken = list(same)
        text = " ".join(" ".join(part.text.split()) for part in spoken)
        start = max(behind, count_milliseconds(spoken[0].start))
        if start >= end:
            end = min(start + 1, total)
        if start >= end:
            *intervals, (start, end, said) = intervals or [(0, total, "")]
            text = f"{said} {text}".strip()
        elif start > behind:
            intervals.append((behind, start, ""))
        intervals.append((start, end, text))
        behind = end
    return intervals if behind >= total else [*intervals, (behind, total, "")]


def _found(transcript: Transcript) -> list[Word]:
    return [word for word in transcript.words if word.found and word.text.split()]


FORMATS = {
    "text": Format(".txt", _write_text),
    "json": Format(".json", _write_json),
    "srt": Format(".srt", _write_srt),
    "vtt": Format(".vtt", _write_vtt),
    "ctm": Format(".ctm", _write_ctm),
    "textgrid": Format(".TextGrid", _write_textgrid),
}
