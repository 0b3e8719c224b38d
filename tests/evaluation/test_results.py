"""Saved results: read back, also from older reports; damaged ones are refused with one sentence."""

import json

import pytest

from finetune.errors import UserError
from finetune.evaluation.results import Result, count_results, format_results, read_results

RESULT = Result(
    "a.wav", "a b", "a c", "A, B!", 1.5, "x", {"accent": "Scots"}, "a  c", "corpus", snr_db=21.5, unseen_words=1
)


def test_results_are_read_as_they_were_written(tmp_path):
    results = [RESULT, Result("b.wav", "", "ü", "two\u2028lines", 0.5, None)]
    (tmp_path / "utterances.jsonl").write_text(format_results(results, count_results(results)), encoding="utf-8")
    assert read_results(tmp_path) == results


def test_a_report_with_fewer_fields_is_read(tmp_path):
    old = {"name": "a", "reference": "b", "hypothesis": "c", "raw_reference": "B", "seconds": 1, "speaker": None}
    (tmp_path / "utterances.jsonl").write_text(json.dumps(old | {"words": 1, "wer": 1.0}) + "\n")
    assert read_results(tmp_path) == [Result("a", "b", "c", "B", 1, None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "There is no report in"),
        ("", "has no utterances, so there is nothing to score"),
        ('{"name": "a"', "is damaged: expected"),
        ('{"name": "a"}', "is damaged: expected"),
        ("[1]", "is damaged: expected"),
        (format_results([RESULT], count_results([RESULT])).replace('"a b"', "7"), "is damaged: expected"),
        (format_results([RESULT], count_results([RESULT])).replace("1.5", '"long"'), "is damaged: expected"),
        (format_results([RESULT], count_results([RESULT])).replace("1.5", "NaN"), "is damaged: expected"),
        (format_results([RESULT], count_results([RESULT])).replace('"corpus"', "[1]"), "is damaged: expected"),
        (format_results([RESULT], count_results([RESULT])).replace('"Scots"', "[1]"), "is damaged: expected"),
    ],
)
def test_damaged_results_are_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / "utterances.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        read_results(tmp_path)
