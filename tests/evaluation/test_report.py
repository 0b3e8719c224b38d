"""A report folder: complete or absent."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.audio.waveforms import Recording
from finetune.errors import UserError
from finetune.evaluation import report
from finetune.evaluation.analysis import analyse
from finetune.evaluation.report import write_report
from finetune.evaluation.results import Result, read_results

RESULTS = [
    Result("fine", "all is well", "all is well", "All is well!", 1.0, None),
    Result(
        "bad <name>",
        "<b>old</b> men sat down by the quiet sea",
        "<i>odd</i> men sat by the quiet & sea",
        "Old men sat down…",
        2.5,
        "Ann & Bo",
    ),
    Result("middling", "one word gone", "one word", "one word gone", 2.0, "Ann", {"accent": "Scots"}),
]


def write(folder: Path, results=RESULTS, title="Test <set> & co") -> str:
    write_report(folder, title, analyse(results))
    return (folder / "index.html").read_text(encoding="utf-8")


def test_a_report_is_exactly_three_files(tmp_path):
    write(tmp_path / "new" / "report")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report"]
    files = sorted(path.name for path in (tmp_path / "new" / "report").iterdir())
    assert files == ["index.html", "scores.json", "utterances.jsonl"]


def test_scores_and_utterances_are_json(tmp_path):
    write(tmp_path / "report")
    scores = json.loads((tmp_path / "report" / "scores.json").read_text(encoding="utf-8"))
    assert (scores["words"], scores["substitutions"], scores["deletions"], scores["insertions"]) == (14, 1, 2, 1)
    assert (scores["audio_seconds"], scores["ser"]) == (5.5, pytest.approx(2 / 3))
    assert scores["intervals"]["resampled"] == "utterances"
    assert scores["intervals"]["wer"][0] == 0.0
    assert [slice["value"] for slice in scores["slices"]["seconds"]] == ["under 2 s", "2 to 5 s"]
    assert scores["errors"]["worst"][0] == {"utterance": "bad <name>", "errors": 3, "words": 8}
    lines = (tmp_path / "report" / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[2]) == {
        "name": "middling",
        "reference": "one word gone",
        "hypothesis": "one word",
        "raw_reference": "one word gone",
        "seconds": 2.0,
        "speaker": "Ann",
        "columns": {"accent": "Scots"},
        "raw_hypothesis": "",
        "source": "",
        "snr_db": None,
        "unseen_words": None,
        "confidence": None,
        "blank_ratio": None,
        "wer": pytest.approx(1 / 3),
        "cer": pytest.approx(5 / 13),
        "words": 3,
        "substitutions": 0,
        "deletions": 1,
        "insertions": 0,
        "characters": 13,
        "character_substitutions": 0,
        "character_deletions": 5,
        "character_insertions": 0,
    }
    assert len(lines) == 3


def test_scores_are_read_back(tmp_path):
    write(tmp_path / "run" / "report")
    assert read_results(tmp_path / "run" / "report") == read_results(tmp_path / "run") == RESULTS


def test_half_a_character_is_written_as_json_escapes_it(tmp_path):
    text = write(tmp_path / "report", [Result("\ud800.wav", "a", "b", "a", 1.0, None)])
    assert '"\\ud800.wav"' in text
    assert read_results(tmp_path / "report")[0].name == "\ud800.wav"


def test_audio_is_written_if_requested(tmp_path):
    sound = np.zeros(1000, np.int16)
    soundfile.write(tmp_path / "a.wav", sound, 16000)
    places = []

    def find(place: int) -> Recording:
        places.append(place)
        return Recording(str(tmp_path / "a.wav"), None)

    write_report(tmp_path / "report", "x", analyse(RESULTS), recording=find)
    assert places == [0, 1, 2]
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8").count("data:audio/wav;base64,") == 3


def test_a_report_is_never_overwritten(tmp_path):
    (tmp_path / "report").mkdir()
    with pytest.raises(UserError, match="already"):
        write(tmp_path / "report")
    assert list((tmp_path / "report").iterdir()) == []


def test_a_report_inside_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to .*: .*file is not a writable folder"):
        write(tmp_path / "file" / "report")


def test_a_failed_report_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(report, "build_html_report", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "report")
    assert list(tmp_path.iterdir()) == []
