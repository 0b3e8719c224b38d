"""The comparison chooses whole speakers for the transcripts, and never scores one that was trained on."""

import csv

import soundfile
from compare_pretraining import describe, join, write_tables

from finetune.evaluation.results import Result


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_transcripts_are_of_whole_speakers_and_no_held_out_one_is_heard(make_corpus, tmp_path):
    names = [f"speaker{i % 10}" for i in range(40)]
    corpus = make_corpus(tmp_path / "an4", ["bad dad cab"] * 40, names)
    minutes = 3 * 4 * soundfile.info(corpus / "00.wav").duration / 60
    found = [write_tables(corpus, tmp_path / each, minutes) for each in ("one", "two")]
    assert found[0] == found[1] and found[0]["train"] >= minutes > found[0]["train"] - 5 / 60
    tables = {name: rows_of(tmp_path / "one" / f"{name}.csv") for name in ("unlabelled", "train", "validation")}
    assert tables == {name: rows_of(tmp_path / "two" / f"{name}.csv") for name in tables}
    speakers = {name: {row["speaker"] for row in rows} for name, rows in tables.items()}
    assert speakers["train"] < speakers["unlabelled"] and not speakers["validation"] & speakers["unlabelled"]
    assert all(sum(row["speaker"] == each for row in tables["train"]) == 4 for each in speakers["train"])
    assert tables["unlabelled"][0].keys() == {"file_name", "speaker"} and tables["train"][0]["text"]


def test_the_row_of_a_table_has_each_seed_and_an_interval_over_speakers():
    def result(number, hypothesis):
        return Result(f"{number}.wav", "it rained", hypothesis, "It rained.", 1.0, f"speaker {number}")

    seeds = [[result(i, "it rained") for i in range(8)], [result(i, "it rain") for i in range(8)]]
    assert describe("both", seeds) == "| both | 0.0, 50.0 | 25.0 % (25.0 to 25.0) | 11.1 % |"
    assert len({each.name for each in join(seeds)}) == 16
