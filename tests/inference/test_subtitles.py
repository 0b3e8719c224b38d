"""Subtitles follow the rules of style guides for any words at any speed."""

import time
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.inference.subtitles import Cue, build_cues
from finetune.inference.transcript import Character, Transcript, Word

FRAME = 0.02


def columns(text: str) -> float:
    """42 narrow characters or 16 wide ones are a line."""
    return sum(42 / 16 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def find_faults(cues: list[Cue], seconds: float) -> list[str]:
    """The violations of the rules, without those of cues that have no more time."""
    faults = []
    step = (5 / 6 + 2 / 24) * 1000 + 2  # Rounded up to whole milliseconds.
    crowded = len(cues) * step > seconds * 1000 + 2000 / 24
    ends = [*(following.start_milliseconds for following in cues), seconds * 1000 + 1][1:]
    for number, (cue, following) in enumerate(zip(cues, ends, strict=True), 1):
        duration = cue.end_milliseconds - cue.start_milliseconds
        said = f"{number}: {cue}: "
        texts = [line.text for line in cue.lines]
        if not 1 <= len(texts) <= 2 or any(not text.strip() or text != text.strip() for text in texts):
            faults.append(said + "not one or two lines of text")
        if any(columns(text) > 42 and " " in text for text in texts):
            faults.append(said + "a line is too long")
        if cue.start_milliseconds < 0 or cue.end_milliseconds > round(1000 * round(seconds, 3)) or duration <= 0:
            faults.append(said + "outside the audio")
        if duration > 7000 or (duration < 5000 / 6 and not crowded):
            faults.append(said + f"shown for {duration} ms")
        if following - cue.end_milliseconds < 2000 / 24 and number < len(cues) and not crowded:
            faults.append(said + f"{following - cue.end_milliseconds} ms before the next")
        has_room = duration < 6999 and following - cue.end_milliseconds > 86
        if columns("".join(texts)) / duration * 1000 > 20 and has_room:
            faults.append(said + "too fast to read")
    return faults


def shown(cues: list[Cue]) -> str:
    return " ".join(line.text for cue in cues for line in cue.lines)


def place(texts: Sequence[str], durations: Sequence[float], pauses: Sequence[float], rest: float = 0.3) -> Transcript:
    """Words that follow each other, so many seconds long and apart."""
    words, now = [], 0.0
    for text, duration, pause in zip(texts, durations, pauses, strict=True):
        words.append(Word(text, now + pause, now + pause + duration, 0.9))
        now += pause + duration
    return Transcript(tuple(words), now + rest)


def say(sentence: str, seconds: float, pause: float = 0.02, **pauses: float) -> Transcript:
    """The words of a sentence, each as long; `pauses` are those before some of them."""
    words = sentence.split()
    return place(words, [seconds] * len(words), [pauses.get(word, pause) for word in words])


@st.composite
def transcripts(draw: st.DrawFn, seconds_of_a_letter: tuple[float, float], pauses: tuple[float, float]) -> Transcript:
    """Whatever can be said: words of 1 to 50 letters, each of which takes some time."""
    texts = draw(
        st.lists(st.text("abc日.,'é", min_size=1, max_size=12) | st.text("ab", min_size=1, max_size=50), max_size=60)
    )
    speed = draw(st.floats(*seconds_of_a_letter))
    durations = [max(len(text), columns(text)) * speed for text in texts]
    apart = draw(st.lists(st.floats(*pauses), min_size=len(texts), max_size=len(texts)))
    return place(texts, durations, apart, draw(st.floats(0, 3)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(transcripts((FRAME, 0.4), (0.0, 3.0)))
def test_the_rules_hold_for_any_words(transcript: Transcript) -> None:
    cues = build_cues(transcript)
    assert find_faults(cues, transcript.seconds) == []
    assert shown(cues).replace(" ", "") == transcript.text.replace(" ", "")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(transcripts((0.075, 0.2), (0.1, 1.0)))
def test_speech_that_can_be_read_is_never_too_fast_and_starts_with_its_words(transcript: Transcript) -> None:
    cues = build_cues(transcript)
    pieces = iter(transcript.words)
    rest = ""
    for cue in cues[:-1]:  # The last may begin early, where the audio ends soon.
        text = "".join(line.text for line in cue.lines)
        duration = cue.end_milliseconds - cue.start_milliseconds
        assert columns(text) <= 42 * 2 or " " not in text
        if columns(text) <= 42:
            assert columns(text) / duration * 1000 <= 22, cue
        if not rest:
            word = next(pieces)
            assert abs(cue.start_milliseconds / 1000 - word.start) < 0.51, cue
            rest = word.text
        remaining = text.replace(" ", "")
        while remaining:
            took = min(len(rest), len(remaining))
            assert rest[:took] == remaining[:took]
            rest, remaining = rest[took:], remaining[took:]
            if remaining:
                rest = next(pieces).text


def test_lines_are_broken_at_punctuation_and_balanced() -> None:
    (cue,) = build_cues(say("when the rain had stopped at last, we went down to the river again", 0.3))
    assert [line.text for line in cue.lines] == [
        "when the rain had stopped at last,",
        "we went down to the river again",
    ]
    (cue,) = build_cues(say("now and then there was a boat with a light on it", 0.3))
    assert [len(line.text) for line in cue.lines] == [22, 25]  # The picture is better seen above a short line.
    (cue,) = build_cues(say(f"{'a' * 31} {'b' * 10}, {'c' * 30}", 2.0))
    assert [len(line.text) for line in cue.lines] == [31, 42]  # Not behind the comma, which doesn't fit.


def test_cues_end_with_sentences_and_in_pauses() -> None:
    cues = build_cues(
        say("It was late in the evening when I came home. Nobody was in but the old dog, who slept", 0.25)
    )
    assert [cue.lines[-1].text for cue in cues] == [
        "evening when I came home.",
        "Nobody was in but the old dog, who slept",
    ]
    cues = build_cues(say("one two three four five six seven eight", 0.3, six=1.2))
    assert [cue.lines[0].text for cue in cues] == ["one two three four five", "six seven eight"]
    assert cues[0].end_milliseconds < cues[1].start_milliseconds - 84
    near = say(
        "the first sentence is one that almost fills two whole lines, see. and here it goes on.", 0.3, **{"and": 0.4}
    )
    first, second = build_cues(near)  # The first stays until the next one comes.
    assert second.start_milliseconds - first.end_milliseconds == 84


def test_a_cue_is_shown_longer_if_there_is_time() -> None:
    said_fast = place(["abcdefghij"] * 3, [0.2] * 3, [0.0] * 3, rest=5.0)
    (cue,) = build_cues(said_fast)
    assert 1600 <= cue.end_milliseconds - cue.start_milliseconds <= 1610  # 32 characters at 20 a second.
    (short,) = build_cues(Transcript((Word("ja", 1.0, 1.1, 0.9),), 9.0))
    assert (short.start_milliseconds, short.end_milliseconds) == (1000, 1834)
    (late,) = build_cues(Transcript((Word("ja", 8.6, 8.9, 0.9),), 9.0))
    assert (late.start_milliseconds, late.end_milliseconds) == (8166, 9000)
    (alone,) = build_cues(Transcript((Word("ja", 0.1, 0.2, 0.9),), 0.3))
    assert (alone.start_milliseconds, alone.end_milliseconds) == (0, 300)
    (long,) = build_cues(Transcript((Word("aaa", 1.0, 11.0, 0.9),), 20.0))
    assert long.end_milliseconds == 8000


def test_scripts_without_spaces_are_broken_between_characters_but_not_before_signs_that_belong_to_them() -> None:
    text = "我们昨天晚上一起去看了一部电影，真的很好看，你应该也去看一看。"
    characters = tuple(Character(each, 1 + 0.25 * i, 1.25 + 0.25 * i, 0.9) for i, each in enumerate(text))
    word = Word(text, 1.0, 1 + 0.25 * len(text), 0.9, characters)
    cues = build_cues(Transcript((word,), 12.0))
    lines = [line.text for cue in cues for line in cue.lines]
    assert "".join(lines) == text and all(len(line) <= 16 for line in lines)
    assert not any(line[0] in "，。" for line in lines)
    assert cues[1].start_milliseconds == 1000 + 250 * sum(len(line.text) for line in cues[0].lines)
    assert find_faults(cues, 12.0) == []
    (cue,) = build_cues(Transcript((Word("あいうえおかきくーけこさしすせそた", 1.0, 5.0, 0.9),), 9.0))
    assert [len(line.text) for line in cue.lines] == [9, 8]


def test_punctuation_that_is_a_word_of_its_own_never_begins_a_line() -> None:
    text = "我们昨天晚上一起去看了一部电影，真的很好看，你应该也去「看」一看。"
    cues = build_cues(place(list(text), [0.2] * len(text), [0.05] * len(text)))
    lines = [line.text for cue in cues for line in cue.lines]
    assert "".join(lines) == text and len(lines) > 2 and find_faults(cues, 9.0) == []
    assert not any(line[0] in "，。」" or line[-1] == "「" for line in lines)
    late = place(["好", "。", "好"], [0.5, 0.2, 0.5], [0.0, 9.0, 0.5])
    assert [cue.lines[0].text for cue in build_cues(late)] == ["好", "。好"]


@pytest.mark.parametrize(
    ("word", "first", "last"),
    [
        ("กำลังเดินทางไปที่โรงเรียนและกลับบ้าน", "ะาำๅๆ\u0e31\u0e34\u0e35\u0e48\u0e49", "เแโใไ"),
        ("ກຳລັງເດີນທາງໄປໂຮງຮຽນແລະກັບບ້ານ", "ະາຳຽ\u0eb1\u0ec9\u0eb5", "ເແໂໃໄ"),
        ("ខ្ញុំកំពុងធ្វើដំណើរទៅសាលារៀន", "\u17d2\u17bb\u17c6\u17be\u17b6\u17c0", "\u17d2"),
        ("ကျွန်တော်ကျောင်းကိုသွားနေပါတယ်", "\u103b\u103d\u103a\u102c\u1038\u102b\u102d", "\u1039"),
    ],
)
def test_a_long_sentence_without_spaces_makes_lines_that_fit_and_never_part_a_character(
    word: str, first: str, last: str
) -> None:
    text = word * 6
    times = [0.2 + 14 * i / len(text) for i in range(len(text) + 1)]
    characters = tuple(Character(c, *at, 0.9) for c, at in zip(text, pairwise(times), strict=True))
    transcript = Transcript((Word(text, times[0], times[-1], 0.9, characters),), 15.0)
    cues = build_cues(transcript)
    lines = [line.text for cue in cues for line in cue.lines]
    assert find_faults(cues, transcript.seconds) == []
    assert "".join(lines) == text and len(lines) > 2
    assert all(sum(unicodedata.category(c) not in ("Mn", "Me", "Cf") for c in line) <= 42 for line in lines)
    assert not [line for line in lines if line[0] in first or line[-1] in last or line[1] == "\u103a"]


def test_two_channels_at_a_time_are_a_line_each() -> None:
    words = [
        Word(text, 0.5 * i, 0.5 * i + 0.4, 0.9, channel=1) for i, text in enumerate(("hello", "who", "is", "there"))
    ]
    words += [Word(text, 0.5 * i + 0.25, 0.5 * i + 0.6, 0.9, channel=2) for i, text in enumerate(("good", "day", "to"))]
    (cue,) = build_cues(Transcript(tuple(words), 3.0, channels=2))
    assert [(line.text, line.channel) for line in cue.lines] == [("-hello who is there", 1), ("-good day to", 2)]
    rng = np.random.default_rng(0)
    said: list[Word] = []
    for channel in (1, 2, 3):
        now = 0.0
        for _ in range(200):
            now += rng.exponential(0.3)
            said.append(Word("ab" * int(rng.integers(1, 5)), now, now + 0.3, 0.9, channel=channel))
            now += 0.3
    transcript = Transcript(tuple(said), 200.0, channels=3)
    cues = build_cues(transcript)
    assert find_faults(cues, 200.0) == []
    for channel in (1, 2, 3):
        lines = [line.text.removeprefix("-") for cue in cues for line in cue.lines if line.channel == channel]
        assert " ".join(lines) == " ".join(word.text for word in said if word.channel == channel)


def test_words_that_the_audio_does_not_have_are_not_shown() -> None:
    words = (Word("one", 0.0, 0.5, 0.9), Word("lost", 0.5, 0.5, 0.0, found=False), Word("two", 0.6, 1.0, 0.9))
    assert shown(build_cues(Transcript(words, 3.0))) == "one two"
    assert build_cues(Transcript((), 3.0)) == []


@pytest.mark.parametrize("channels", [1, 2])
def test_three_hours_of_speech_take_seconds(channels: int) -> None:
    rng = np.random.default_rng(0)
    count = 3 * 9000 // (10 if channels == 2 else 1)  # Mixed channels are looked at word by word.
    texts = ["a" * int(rng.integers(1, 10)) for _ in range(count)]
    transcript = place(texts, [0.3] * count, [0.1] * count)
    words = [Word(w.text, w.start, w.end, 0.9, channel=1 + i % channels) for i, w in enumerate(transcript.words)]
    began = time.perf_counter()
    cues = build_cues(Transcript(tuple(words), transcript.seconds, channels))
    assert time.perf_counter() - began < 10
    assert find_faults(cues, transcript.seconds) == []
    assert all(a.end_milliseconds < b.start_milliseconds for a, b in pairwise(cues))
