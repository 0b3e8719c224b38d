"""Data validation finds, counts and shows the problems of a corpus, and none in a clean one."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.cli import main
from finetune.data.clean_manifests import write_clean_manifests
from finetune.data.corpus import AudioSpec, Split, prepare_split
from finetune.data.html_report import Bar, build_histogram, write_html_report
from finetune.data.sources import Source, load_splits, select_table
from finetune.data.validation_report import ValidationReport, judge, validate_splits

LIMITS = AudioSpec(16000, ((10, 5), (3, 2)))
Row = tuple[str, float, str, str]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(16000 * seconds))).astype(np.float32)


def write_split(root: Path, split: str, rows: list[Row]) -> Split:
    """Noise with these names, seconds, texts and speakers."""
    folder = root / split
    folder.mkdir(parents=True)
    for number, (name, seconds, _, _) in enumerate(rows):
        soundfile.write(folder / name, noise(seconds, number), 16000)
    lines = [json.dumps({"file_name": name, "text": text, "speaker": who}) + "\n" for name, _, text, who in rows]
    (folder / "metadata.jsonl").write_text("".join(lines))
    return read_split(root, split)


def read_split(root: Path, split: str) -> Split:
    source = Source(str(root))
    return prepare_split(split, select_table(load_splits(source), split, source), ("lowercase",), LIMITS)


def sentences(count: int, speaker: str) -> list[Row]:
    rng = np.random.default_rng(0)
    words = ["one", "two", "three", "seven"]
    texts = [" ".join(rng.choice(words, 6)) + f" {'abcdefgh'[i % 8] * (1 + i // 8)}" for i in range(count)]
    return [(f"{i:02d}.wav", len(text) / 12, text, speaker) for i, text in enumerate(texts)]


def found(report: ValidationReport) -> dict[tuple[str, str], int]:
    return {(finding.kind, finding.split): len(finding.utterances) for finding in report.findings}


def test_a_clean_corpus_has_no_findings(tmp_path: Path) -> None:
    rows = sentences(50, "anna")
    train = write_split(tmp_path, "train", rows[:40])
    test = write_split(tmp_path, "test", [(*row[:3], "ben") for row in rows[40:]])
    report = validate_splits({"train": train, "test": test}, "abcdefghinorstuvw", sampling_rate=16000)
    assert found(report) == {}
    summary = report.splits["train"]
    assert (summary.utterances, summary.speakers, summary.sampling_rates) == (40, 1, {16000: 40})
    assert summary.words == 7 * 40
    assert summary.seconds == pytest.approx(sum(row[1] for row in rows[:40]), abs=0.01)
    assert summary.rate_quantiles[3] == pytest.approx(10, abs=1.5)


def test_leaks_between_splits_are_found(tmp_path: Path) -> None:
    rows = sentences(12, "anna")
    train = write_split(tmp_path, "train", rows[:10])
    shared = [("x.wav", 2.0, rows[0][2], "ben"), ("y.wav", 2.0, "one two", "anna"), ("z.wav", 2.0, "one ä", "cleo")]
    test = write_split(tmp_path, "test", shared)
    report = validate_splits({"train": train, "test": test}, "abcdefghinorstuvw")
    assert found(report) == {
        ("shared speakers", "test"): 1,
        ("shared transcripts", "test"): 1,
        ("unseen characters", "test"): 1,
    }
    said = " ".join(finding.sentence for finding in report.findings)
    assert "1 speakers of test are also in train" in said
    assert "1 transcripts of test (33%) are identical to one in train" in said
    assert "not in the model's vocabulary: ä" in said


def test_sentences_without_spaces_have_as_many_words_as_characters(tmp_path: Path) -> None:
    train = write_split(tmp_path, "train", [("a.wav", 2.0, "สวัสดี", "anna"), ("b.wav", 2.0, "我爱你们", "anna")])
    test = write_split(tmp_path, "test", [("c.wav", 2.0, "我爱你们", "ben")])
    report = validate_splits({"train": train, "test": test}, "ส\u0e27\u0e31ด\u0e35我爱你们")
    assert report.splits["train"].words == 4 + 4
    assert found(report) == {("shared transcripts", "test"): 1}


def test_check_names_invisible_characters(tmp_path: Path) -> None:
    train = write_split(tmp_path, "train", [("a.wav", 1.0, "one\u200f two", "anna"), ("b.wav", 1.0, "six", "ben")])
    report = validate_splits({"train": train}, "onetwsix\u200f")
    assert found(report) == {("invisible characters", "train"): 1}
    assert "(U+200F RIGHT-TO-LEFT MARK × 1): the transform remove_invisible" in report.findings[0].sentence


def test_the_same_audio_twice_or_in_two_splits_is_found(tmp_path: Path) -> None:
    write_split(tmp_path, "train", sentences(3, "anna"))
    manifest = tmp_path / "train" / "metadata.jsonl"
    manifest.write_text(manifest.read_text() + manifest.read_text().splitlines()[1] + "\n")
    train = read_split(tmp_path, "train")
    report = validate_splits({"train": train, "validation": train}, "abcdefghinorstuvw")
    assert found(report)["duplicate audio", "train"] == 1
    assert found(report)["shared audio", "validation"] == 4


def test_audio_of_two_corpora_is_the_same_by_whichever_path(tmp_path: Path) -> None:
    train = write_split(tmp_path, "train", sentences(4, "anna"))
    (tmp_path / "linked" / "test").mkdir(parents=True)
    (tmp_path / "linked" / "wavs").symlink_to(tmp_path / "train")
    (tmp_path / "linked" / "test" / "single.wav").symlink_to(tmp_path / "train" / "02.wav")
    names = ["../wavs/00.wav", "../../train/00.wav", "../../train/01.wav", "single.wav"]
    rows = [json.dumps({"file_name": name, "text": "one", "speaker": "ben"}) + "\n" for name in names]
    (tmp_path / "linked" / "test" / "metadata.jsonl").write_text("".join(rows))
    source = Source(str(tmp_path / "linked"), allow_outside=True)
    test = prepare_split("test", select_table(load_splits(source), "test", source), ("lowercase",), LIMITS)
    report = validate_splits({"train": train, "test": test}, "abcdefghinorstuvw")
    assert found(report) == {("duplicate audio", "test"): 1, ("shared audio", "test"): 4}


def test_implausible_speaking_rates_are_found(tmp_path: Path) -> None:
    rows = sentences(40, "anna")
    rows[7] = ("07.wav", 0.3, "one two three seven one two three seven", "anna")
    rows[9] = ("09.wav", 30.0, "one", "anna")
    train = write_split(tmp_path, "train", rows)
    report = validate_splits({"train": train}, "abcdefghinorstuvw")
    assert found(report) == {("fast", "train"): 1, ("slow", "train"): 1}
    assert [finding.utterances for finding in report.findings] == [
        ((7, "07.wav"),),
        ((9, "09.wav"),),
    ]


@pytest.mark.parametrize(
    ("waveform", "verdict"),
    [
        (noise(1.0), None),
        (np.clip(4 * noise(1.0), -0.5, 0.5), "clipped audio"),
        (1e-3 * noise(1.0), "almost silent audio"),
        (np.sin(np.arange(16000) / 5).astype(np.float32), None),
    ],
)
def test_clipped_and_silent_audio_is_found(waveform: np.ndarray, verdict: str | None) -> None:
    assert judge(waveform) == verdict


def test_decoding_finds_problems_that_headers_do_not_show(tmp_path: Path) -> None:
    write_split(tmp_path, "train", sentences(4, "anna"))
    soundfile.write(tmp_path / "train" / "01.wav", np.zeros(32000), 16000)
    soundfile.write(tmp_path / "train" / "02.wav", np.clip(10 * noise(2.0), -1, 1), 16000)
    train = read_split(tmp_path, "train")
    assert found(validate_splits({"train": train}, "abcdefghinorstuvw")) == {}
    heard = validate_splits({"train": train}, "abcdefghinorstuvw", sampling_rate=16000)
    assert found(heard) == {("clipped audio", "train"): 1, ("silent audio", "train"): 1}
    assert heard.summary()[-1].endswith("hours decoded: they differ by 2.00 s")


def test_decoding_compares_hours_and_finds_channels_that_cancel_each_other(tmp_path: Path) -> None:
    write_split(tmp_path, "train", sentences(2, "anna"))
    turned = noise(36.0, 7)
    soundfile.write(tmp_path / "train" / "00.wav", np.stack([turned, -turned], axis=1), 16000)
    soundfile.write(tmp_path / "train" / "01.wav", noise(36.0, 8), 16000)
    train = read_split(tmp_path, "train")
    heard = validate_splits({"train": train}, "abcdefghinorstuvw", sampling_rate=16000)
    assert heard.summary()[-1] == "train: 0.020 hours by headers, 0.020 hours decoded: they agree"
    assert found(heard) == {("channels that cancel each other, one of which is used", "train"): 1}


def test_the_html_report_shows_counts_findings_and_audio_and_loads_nothing(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [("a.wav", 1.0, "<b one & two", "anna"), ("b.wav", 1.0, "three", "ben")])
    manifest = tmp_path / "train" / "metadata.jsonl"
    manifest.write_text(manifest.read_text() + manifest.read_text().splitlines()[0] + "\n")
    train = read_split(tmp_path, "train")
    write_html_report(tmp_path / "page.html", "A <corpus>", validate_splits({"train": train}, "abc"), {"train": train})
    page = (tmp_path / "page.html").read_text()
    assert "<title>1.0 to 1.0: 3</title>" in page
    assert "A &lt;corpus&gt;" in page and "&lt;b one &amp; two" in page and "<b one" not in page
    assert page.count("<audio") == 1 and "data:audio/ogg;base64," in page
    policy = re.search('Content-Security-Policy" content="(.*?)"', page)[1]
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy and "default-src 'none'; script-src 'none';" in policy
    assert "http:" not in page and "https:" not in page
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["page.html"]


def test_a_histogram_has_a_bar_of_the_right_height_for_each_range() -> None:
    histogram = build_histogram([0.5] * 3 + [1.5, 2.0], bins=2)
    assert histogram.bars == (
        Bar(0.0, 0.0, 199.0, 120.0, "0.0 to 1.0: 3"),
        Bar(200.0, 40.0, 199.0, 80.0, "1.0 to 2.0: 2"),
    )
    assert histogram.highest == pytest.approx(2.0, abs=0.001)


def test_check_writes_a_clean_manifest_that_training_can_use(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for split, who in (("train", "anna"), ("validation", "ben")):
        write_split(tmp_path / "corpus", split, sentences(4, who))
    soundfile.write(tmp_path / "corpus" / "train" / "01.wav", np.zeros(48000), 16000)
    (tmp_path / "corpus" / "train" / "02.wav").write_bytes(b"")
    before = {file: file.read_bytes() for file in (tmp_path / "corpus").rglob("*") if file.is_file()}
    recipe = write_recipe(tmp_path, data={"root": "corpus"})
    assert main(["check", str(recipe), "--listen", "--fix"]) == 0
    assert "2 utterances; use it with data.train_split=train.clean" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before
    clean = ["data.train_split=train.clean", "data.validation_split=validation.clean"]
    assert main(["check", str(recipe), "--listen", *clean]) == 0
    said = capsys.readouterr().out
    assert "train: 2 utterances" in said and "validation: 4 utterances" in said and "left out" not in said
    assert main(["check", str(recipe), "--fix"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_clean_manifest_is_read_back_with_any_text(tmp_path: Path) -> None:
    texts = ['he said "no', "two\nlines", "a\r\nb", 'x,"y",\u2028z', '"']
    for number in range(len(texts)):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * np.sin(np.arange(16000) / 5), 16000)
    lines = [json.dumps({"file_name": f"{number}.wav", "text": text}) for number, text in enumerate(texts)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    write_clean_manifests({"train": read_split(tmp_path, "train")}, [])
    again = read_split(tmp_path, "train.clean")
    assert [u.transcript.split() for u in again.utterances] == [text.split() for text in texts] and not again.rejected


def test_check_writes_its_findings(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    files = ["--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]
    assert main(["check", str(recipe), "--listen", *files]) == 0
    assert "test: 0.5 to 1.3 s (median 0.9), 6.7 characters per second; 16000 Hz × 6" in capsys.readouterr().out
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["splits"]["train"]["utterances"] == 24 and written["rejected"] == []
    assert "<h2>validation</h2>" in (tmp_path / "c.html").read_text()
