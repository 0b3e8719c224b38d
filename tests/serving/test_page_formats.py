"""The texts, times and files of the web page's transcripts, in Chromium."""

from collections.abc import Iterator

import pytest
from browser import open_browser
from window import Window


@pytest.fixture(scope="module")
def window(address: str) -> Iterator[Window]:
    with open_browser() as driver:
        window = Window(driver)
        window.open(address)
        yield window


def test_edited_words_keep_the_times_that_are_known(window: Window) -> None:
    script = """
        const {retime, joinWords} = await import("/page/formats.js"), [heard, text] = given;
        const words = heard.map((word, i) => ({word, start: i, end: i + 1}));
        const edited = retime({start: 0, end: heard.length, heard: words}, text);
        return [edited.map(({word, start, end}) => [word, start, end]), joinWords(edited.map((each) => each.word))];
    """
    cases: list[tuple[str, str, list[tuple[str, float, float]]]] = [
        ("a b c", "a b c", [("a", 0, 1), ("b", 1, 2), ("c", 2, 3)]),
        ("a b c", "a x c", [("a", 0, 1), ("x", 1, 2), ("c", 2, 3)]),
        ("a b c", "a c", [("a", 0, 1), ("c", 2, 3)]),
        ("a b c", "x yyy c", [("x", 0, 0.5), ("yyy", 0.5, 2), ("c", 2, 3)]),
        ("a a", "a a a", [("a", 0, 1), ("a", 1, 2), ("a", 2, 2)]),
        ("a b", "", []),
        ("", "a b", [("a", 0, 0), ("b", 0, 0)]),
        ("你 好", "你们好 ok", [("你", 0, 1), ("们", 1, 1.25), ("好", 1.25, 1.5), ("ok", 1.5, 2)]),
    ]
    for heard, text, expected in cases:
        words, joined = window.run_async(script, heard.split(), text)
        assert [tuple(word) for word in words] == expected
        assert joined == text


def test_subtitles_go_on_after_a_day_and_no_text_breaks_them(window: Window) -> None:
    script = """
        const {FORMATS, formatTime} = await import("/page/formats.js"), [start, texts] = given;
        const words = texts.map((word, i) => ({word, start: start + i, end: start + i + 0.5}));
        const segments = [{start, end: start + texts.length, heard: words, words}];
        return [FORMATS.srt(segments), FORMATS.vtt(segments), formatTime(start)];
    """
    srt, vtt, shown = window.run_async(script, 90061.5, ["a", "-->", "b\n\nc"])
    assert srt == "1\n25:01:01,500 --> 25:01:04,000\na → b c\n\n"
    assert vtt == "WEBVTT\n\n25:01:01.500 --> 25:01:04.000\na --&gt; b c\n\n"
    assert shown == "25:01:01"
