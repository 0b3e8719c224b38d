"""English sentences of manuals, as packages lay them out: without code, numbers and other languages."""

from pathlib import Path

import pytest
from make_english_text import find_sentences, is_english, read_package

PAGE = """<html><head><title>Mail &amp; more</title><style>p { color: red }</style></head><body>
<h1>Leave a   message</h1><p>Press the button. Then don't hang up: <b>wait</b> for the tone,
please! It rings 3 times.</p><pre>ls -l</pre><p>Run <code>finetune</code> now.</p></body></html>"""


def test_pages_become_sentences(tmp_path: Path) -> None:
    pages = {
        "usr/share/help/C/mail/index.page": PAGE,
        "usr/share/help/nl/mail/index.page": "<p>Druk op de knop.</p>",
        "usr/share/doc/mail/mail-guide-de/index.html": "<p>Knopf</p>",
        "usr/share/doc/mail/release.pt-BR.html": "<p>Aperte</p>",
        "usr/share/doc/mail/style.css": "<p>no prose</p>",
        "usr/share/games/fortunes/people": "Time flies.\n%\nWho goes there?\n",
    }
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(read_package(tmp_path)) == [
        "time flies",
        "who goes there",
        "leave a message",
        "press the button",
        "then don't hang up",
        "wait for the tone please",
    ]


def test_sentences_are_plain_words() -> None:
    prose = "He said “go on”, didn’t he? Well-known (and old) words. Naïve! See section 2.1. a_b. C++ is hard."
    assert list(find_sentences(prose)) == ["he said go on didn't he", "well known and old words"]


@pytest.mark.parametrize(
    ("path", "english"),
    [
        ("usr/share/help/C/a.page", True),
        ("usr/share/doc/help-en-us/a.html", True),
        ("usr/share/doc/html/en-US/a.html", True),
        ("usr/share/doc/html/sr@latin/a.html", False),
        ("usr/share/doc/html/zh_TW/a.html", False),
    ],
)
def test_other_languages_are_left_out(path: str, english: bool) -> None:
    assert is_english(Path(path)) is english
