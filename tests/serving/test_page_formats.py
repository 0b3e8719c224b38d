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


def test_lines_of_scripts_without_spaces_are_broken_too(window: Window) -> None:
    script = """
        const {FORMATS, splitWords} = await import("/page/formats.js"), [text] = given;
        const words = splitWords(text).map((word, i) => ({word, start: i / 10, end: (i + 1) / 10}));
        return [FORMATS.srt([{words}]), FORMATS.txt([{words}])];
    """
    for text, columns in (
        ("我们昨天晚上一起去看了一部电影，真的很好看，你应该也去「看」一看。我们 ok，走吧", 16),
        ("あいうえおかきくーけこさしすせそたちつてとなにぬねの", 16),
        ("when the rain had stopped at last, we went down to the river again, and so did they", 42),
    ):
        srt, txt = window.run_async(script, text)
        cues = [block.split("\n")[2:] for block in srt.rstrip("\n").split("\n\n")]
        lines = [line for cue in cues for line in cue]
        assert txt == f"{text}\n" and "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert all(len(cue) <= 2 for cue in cues) and all(len(line) <= columns for line in lines), lines
        assert not any(line[0] in "，。」ー" or line[-1] == "「" for line in lines)
