"""The HTML report: the values of its data block, and that no text is interpreted as markup."""

import json
import re
from html.parser import HTMLParser

import pytest

from finetune.evaluation.analysis import analyse
from finetune.evaluation.html_report import build_html_report
from finetune.evaluation.results import Result

HOSTILE = "</script><script>window.harm = 1</script> <!-- \u2028 <img src=x onerror='window.harm = 2'> ${title} $title"

RESULTS = [
    Result("fine", "all is well", "all is well", "All is well!", 1.0, "Ann", raw_hypothesis="ALL is well"),
    Result("worst", "old men sat down by the quiet sea", "odd men sat by the very quiet sea", "Old men…", 2.5, "Bo"),
    Result("middling", "one word gone", "one word", "one word gone", 3.0, "Ann", {"accent": "Scots"}, snr_db=12.346),
]


class Page(HTMLParser):
    """Collects the elements, and the text that follows the start of each."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = [("/", {})]
        self.texts: dict[str, list[str]] = {"/": [""]}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        self.elements.append(("/", {}))
        self.texts.setdefault("/", []).append("")

    def handle_data(self, data):
        self.texts[self.elements[-1][0]][-1] += data

    @property
    def data(self) -> dict:
        scripts = [attributes for tag, attributes in self.elements if tag == "script"]
        assert [attributes.get("id") for attributes in scripts] == ["data", None]
        return json.loads(self.texts["script"][0])


def build(results=RESULTS, **others) -> Page:
    return Page(build_html_report("Test <set> & co", analyse(results), **others))


def test_figures_are_shown_with_their_intervals():
    page = build(details={"Decoder": "greedy <1>"})
    assert page.texts["dt"] == [
        "Word error rate (WER)",
        "Character error rate (CER)",
        "Utterances with an error (SER)",
        "Speech",
        "Decoder",
    ]
    assert [page.texts["dd"][place] for place in (0, 4, 6, 8)] == ["28.6 %", "66.7 %", "0.1 min", "greedy <1>"]
    assert all(re.fullmatch(r"95 % interval \d+\.\d to \d+\.\d %", page.texts["dd"][place]) for place in (1, 3, 5))
    assert page.texts["br"][0] == "1 substituted, 2 deleted, 1 inserted in 14 words"
    assert page.texts["br"][2] == "2 of 3"
    assert page.texts["dd"][7] == "intervals drawn over 2 speakers"
    assert page.texts["h1"] == page.texts["title"] == ["Test <set> & co"]


def test_utterances_are_ordered_by_errors_and_aligned():
    of = build().data["utterances"]
    assert of["name"] == ["worst", "middling", "fine"]
    assert of["aligned"] == [
        [["old", "odd"], "men sat", ["down", ""], "by the", ["", "very"], "quiet sea"],
        ["one word", ["gone", ""]],
        ["all is well"],
    ]
    assert of["errors"] == [3, 1, 0] and of["words"] == [8, 3, 3]
    assert of["wer"] == [pytest.approx(3 / 8), pytest.approx(1 / 3), 0]
    # A text equal to the one next to it is not repeated.
    assert of["raw_reference"] == ["Old men…", None, "All is well!"]
    assert of["raw_hypothesis"] == [None, None, "ALL is well"]
    assert of["hypothesis"] == ["odd men sat by the very quiet sea", "one word", None]
    assert of["snr"] == [None, 12.35, None]
    assert of["columns"] == [None, "accent: Scots", None]
    assert of["audio"] == [None] * 3
    assert {len(values) for values in of.values()} == {3}


def test_slices_and_errors_list_their_utterances():
    data = build().data
    slices = {slice["title"]: {bar["label"]: bar for bar in slice["bars"]} for slice in data["slices"]}
    assert slices["Speaker"]["Ann"]["rows"] == [1, 2] and slices["Speaker"]["Bo"]["rows"] == [0]
    assert list(slices["Speaker"]) == ["Bo", "Ann"], "the highest WER comes first"
    assert slices["Speaker"]["Ann"]["wer"] == pytest.approx(1 / 6)
    assert slices["Speaker"]["Ann"]["low"] == 0 < slices["Speaker"]["Ann"]["high"]
    assert slices["Speaker"]["Bo"]["high"] is None
    assert list(slices["Duration"]) == ["under 2 s", "2 to 5 s"], "durations keep their order"
    errors = {kind["title"]: kind["errors"] for kind in data["errors"]}
    assert errors["Substituted words"] == [{"reference": "old", "hypothesis": "odd", "count": 1, "rows": [0]}]
    assert [each["reference"] for each in errors["Deleted words"]] == ["down", "gone"]
    assert errors["Words missed most often"][0] == {
        "reference": "down",
        "hypothesis": "",
        "count": 1,
        "of": 1,
        "rows": [0],
    }
    assert [(each["reference"], each["rows"]) for each in errors["Characters"] if each["reference"] == "l"] == [
        ("l", [0])
    ]


def test_texts_are_never_interpreted_as_markup():
    result = Result(HOSTILE, HOSTILE, "x " + HOSTILE, HOSTILE, 1.0, HOSTILE, {HOSTILE: HOSTILE})
    text = build_html_report(HOSTILE, analyse([result, RESULTS[0]]), {HOSTILE: HOSTILE})
    page = Page(text)
    assert page.data["utterances"]["name"][0] == HOSTILE
    assert page.data["utterances"]["columns"][0] == f"{HOSTILE}: {HOSTILE}"
    assert page.texts["h1"] == [HOSTILE]
    assert "img" not in page.texts
    assert "\u2028" not in text.partition('id="data">')[2]


def test_infinite_numbers_become_null():
    result = Result("x", "a", "b", "a", float("inf"), None, snr_db=float("nan"))
    of = build([result]).data["utterances"]
    assert (of["seconds"], of["snr"], of["speaker"]) == ([None], [None], [None])


def test_no_words_and_no_results():
    data = build([Result("x", "", "a b", "", 1.0, None)]).data
    assert data["wer"] is None and data["utterances"]["wer"] == [None]
    assert data["utterances"]["aligned"] == [[["", "a"], ["", "b"]]]
    assert build([]).data["utterances"]["name"] == []


def test_han_characters_are_aligned_one_by_one():
    of = build([Result("x", "我爱你", "我爱他", "", 1.0, None)]).data["utterances"]
    assert of["aligned"] == [["我 爱", ["你", "他"]]]


def test_audio_belongs_to_its_utterance():
    assert build(audio=["audio/0.wav", None, "data:x"]).data["utterances"]["audio"] == [None, "data:x", "audio/0.wav"]


def test_the_report_loads_nothing():
    page = build()
    assert "prefers-color-scheme: dark" in page.texts["style"][0]
    places = [attributes.get(name) for _, attributes in page.elements for name in ("src", "href")]
    assert set(places) == {None, "data:,"}
    [policy] = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
