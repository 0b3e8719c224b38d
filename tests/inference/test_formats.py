"""Files of transcripts are valid in their formats."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.inference.formats import FORMATS, format_transcript
from finetune.inference.transcript import Character, Transcript, Word

NASTY = ("she", "said", '"no"', "<i>", "-->", "&", ";;", "{x")
NASTY_TRANSCRIPT = Transcript(tuple(Word(text, i * 0.5, i * 0.5 + 0.4, 0.9) for i, text in enumerate(NASTY)), 5.0)


def read_srt(text: str) -> list[tuple[int, int, str]]:
    """Cues of (start, end, text): a number, a line of times and one or two of text, a blank line between."""
    if not text:
        return []
    assert text.endswith("\n") and not text.endswith("\n\n")
    cues = []
    for number, block in enumerate(text[:-1].split("\n\n"), 1):
        first, times, *lines = block.split("\n")
        assert first == str(number) and 1 <= len(lines) <= 2 and all(line and "-->" not in line for line in lines)
        found = re.fullmatch(r"(\d\d):([0-5]\d):([0-5]\d),(\d{3}) --> (\d\d):([0-5]\d):([0-5]\d),(\d{3})", times)
        assert found, times
        a, b = (list(map(int, found.groups()[i : i + 4])) for i in (0, 4))
        start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (a, b))
        assert start < end
        cues.append((start, end, " ".join(lines)))
    assert all(one[1] <= two[0] for one, two in pairwise(cues))
    return cues


def read_vtt(text: str) -> list[str]:
    """The texts of a WebVTT file's cues, voices and all."""
    header, *blocks = text.rstrip("\n").split("\n\n")
    assert header == "WEBVTT"
    texts = []
    for block in blocks:
        times, *lines = block.split("\n")
        assert re.fullmatch(r"\d\d+:[0-5]\d:[0-5]\d\.\d{3} --> \d\d+:[0-5]\d:[0-5]\d\.\d{3}", times)
        for line in lines:
            assert "-->" not in line
            bare = re.sub(r"^<v Channel \d>", "", line)
            assert "<" not in bare and ">" not in bare and not re.search(r"&(?!amp;|lt;|gt;)", bare)
        texts.append(" ".join(lines))
    return texts


def read_textgrid(text: str) -> dict[str, list[tuple[float, float, str]]]:
    """The tiers of a TextGrid in Praat's long format; each follows on from 0 to the end, and no interval is empty."""
    lines = iter(text.splitlines())
    assert [next(lines) for _ in range(3)] == ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]

    def value(name: str) -> str:
        found, _, said = next(lines).strip().partition(" = ")
        assert found == name
        return said

    def string(name: str) -> str:
        said = value(name)
        assert re.fullmatch(r'"([^"]|"")*"', said)
        return said[1:-1].replace('""', '"')

    assert float(value("xmin")) == 0
    end = float(value("xmax"))
    assert next(lines) == "tiers? <exists>"
    size = int(value("size"))
    assert next(lines) == "item []:"
    tiers = {}
    for tier in range(1, size + 1):
        assert next(lines).strip() == f"item [{tier}]:"
        assert string("class") == "IntervalTier"
        name = string("name")
        assert (float(value("xmin")), float(value("xmax"))) == (0, end)
        intervals = []
        for number in range(1, int(value("intervals: size")) + 1):
            assert next(lines).strip() == f"intervals [{number}]:"
            intervals.append((float(value("xmin")), float(value("xmax")), string("text")))
        assert intervals[0][0] == 0 and intervals[-1][1] == end
        assert all(start < stop for start, stop, _ in intervals)
        assert all(one[1] == two[0] for one, two in pairwise(intervals))
        tiers[name] = intervals
    assert not list(lines)
    return tiers


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Words of any characters, some of no length, in one or two channels."""
    words = []
    channels = draw(st.integers(1, 2))
    now = 0.0
    text = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=8)
    for each in draw(st.lists(text, max_size=12)):
        start = now + draw(st.sampled_from([0.0, 0.0004, 0.02, 0.5]))
        step = draw(st.sampled_from([0.0, 0.0004, 0.02, 0.1]))
        characters = tuple(Character(c, start + i * step, start + (i + 1) * step, 0.5) for i, c in enumerate(each))
        now = characters[-1].end
        found = draw(st.booleans())
        words.append(Word(each, start, now, 0.5, characters, draw(st.integers(1, channels)), found))
    return Transcript(tuple(words), max(now, 0.1) + draw(st.sampled_from([0.0, 1.0])), channels)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(transcripts())
def test_every_format_is_well_formed_for_any_words(transcript: Transcript) -> None:
    found = [word for word in transcript.words if word.found]
    said = sorted("".join(word.text for word in found))
    srt, vtt = (format_transcript(transcript, form) for form in ("srt", "vtt"))
    assert len(read_srt(srt)) == len(read_vtt(vtt))
    assert json.loads(format_transcript(transcript, "json"))["text"] == transcript.text
    assert format_transcript(transcript, "text") == transcript.text + "\n"
    tiers = read_textgrid(format_transcript(transcript, "textgrid"))
    assert len(tiers) == 2 * transcript.channels
    for kind in ("words", "characters"):
        texts = [interval[2] for name, tier in tiers.items() if name.startswith(kind) for interval in tier]
        assert sorted("".join(texts).replace(" ", "")) == said
    lines = [line.split(" ") for line in format_transcript(transcript, "ctm", "a b").split("\n")[:-1]]
    assert len(lines) == len(found)
    places = []
    for name, channel, start, duration, _, confidence in lines:
        assert name == "a_b" and 0 <= float(confidence) <= 1
        assert float(duration) >= 0 and float(start) + float(duration) <= transcript.seconds + 0.001
        places.append((int(channel), float(start)))
    assert places == sorted(places)


def test_the_syntax_of_formats_is_escaped_in_texts() -> None:
    written = {form: format_transcript(NASTY_TRANSCRIPT, form, "re;;cord ing") for form in FORMATS}
    assert [text for _, _, text in read_srt(written["srt"])] == ['she said "no" <i> → & ;; {x']
    assert read_vtt(written["vtt"]) == ['she said "no" &lt;i&gt; --&gt; &amp; ;; {x']
    assert [text for _, _, text in read_textgrid(written["textgrid"])["words"] if text] == list(NASTY)
    assert [line.split(" ")[4] for line in written["ctm"].splitlines()] == list(NASTY)
    assert written["ctm"].startswith("re__cord_ing 1 0.000 0.400 she 0.9000\n")


def test_json_has_all_fields() -> None:
    characters = (Character("a", 0.1234567, 0.2, 0.98765), Character("b", 0.2, 0.3, 0.5))
    words = (Word("ab", 0.1234567, 0.3, 0.74, characters), Word("c", 0.3, 0.3, 0.0, channel=2, found=False))
    assert json.loads(format_transcript(Transcript(words, 1.0, 2), "json")) == {
        "seconds": 1.0,
        "channels": 2,
        "text": "ab\nc",
        "words": [
            {
                "text": "ab",
                "start": 0.123,
                "end": 0.3,
                "confidence": 0.74,
                "channel": 1,
                "found": True,
                "characters": [
                    {"text": "a", "start": 0.123, "end": 0.2, "confidence": 0.9877},
                    {"text": "b", "start": 0.2, "end": 0.3, "confidence": 0.5},
                ],
            },
            {
                "text": "c",
                "start": 0.3,
                "end": 0.3,
                "confidence": 0.0,
                "channel": 2,
                "found": False,
                "characters": [],
            },
        ],
    }


def test_channels_are_voices_and_tiers() -> None:
    words = (Word("yes", 0.0, 0.5, 0.9), Word("no", 2.5, 3.0, 0.9, channel=2))
    transcript = Transcript(words, 4.0, channels=2)
    assert read_vtt(format_transcript(transcript, "vtt")) == ["<v Channel 1>yes", "<v Channel 2>no"]
    tiers = read_textgrid(format_transcript(transcript, "textgrid"))
    assert list(tiers) == ["words 1", "characters 1", "words 2", "characters 2"]
    assert tiers["words 2"] == [(0, 2.5, ""), (2.5, 3.0, "no"), (3.0, 4.0, "")]
    assert (
        format_transcript(transcript, "ctm", "call") == "call 1 0.000 0.500 yes 0.9000\ncall 2 2.500 0.500 no 0.9000\n"
    )


@pytest.mark.parametrize(("form", "text"), [("text", "\n"), ("srt", ""), ("vtt", "WEBVTT\n"), ("ctm", "")])
def test_files_for_silence_are_empty_and_valid(form: str, text: str) -> None:
    assert format_transcript(Transcript((), 3.0), form) == text
    assert read_textgrid(format_transcript(Transcript((), 3.0), "textgrid"))["words"] == [(0, 3, "")]
    assert json.loads(format_transcript(Transcript((), 3.0), "json"))["words"] == []


@pytest.mark.parametrize("samples", [(9120, 25_600), (16_008, 40_040), (1, 40_056), (16_072, 32_088)])
def test_times_are_the_same_in_all_formats(samples: tuple[int, int]) -> None:
    """0.57 × 1000 is less than 570 in floating point; 1.0045 s is in the middle of two milliseconds."""
    start, end = (each / 16_000 for each in samples)
    transcript = Transcript((Word("ja", start, end, 0.9),), end)
    (word,) = json.loads(format_transcript(transcript, "json"))["words"]
    ((first, last, _),) = read_srt(format_transcript(transcript, "srt"))
    assert (first / 1000, last / 1000) == (word["start"], word["end"])
    assert f"00:00:{word['start']:06.3f} --> 00:00:{word['end']:06.3f}" in format_transcript(transcript, "vtt")
    (*_, spoken) = read_textgrid(format_transcript(transcript, "textgrid"))["words"]
    assert spoken == (word["start"], word["end"], "ja")
    assert format_transcript(transcript, "ctm").startswith(f"audio 1 {word['start']:.3f} ")


def test_ten_hours_and_more() -> None:
    transcript = Transcript((Word("late", 36_061.5, 36_062.25, 0.9),), 36_070.0)
    assert "10:01:01,500 --> 10:01:02,334" in format_transcript(transcript, "srt")
    assert "10:01:01.500 --> 10:01:02.334" in format_transcript(transcript, "vtt")
