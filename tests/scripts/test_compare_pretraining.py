"""The comparison chooses whole speakers for the transcripts, and never scores one that was trained on."""

import csv
from pathlib import Path

import pytest
import soundfile
from compare_pretraining import VARIANTS, describe, join, main, write_tables

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
    tables = {name: rows_of(tmp_path / "one" / f"{name}.csv") for name in ("unlabelled", "rest", "train", "validation")}
    assert tables == {name: rows_of(tmp_path / "two" / f"{name}.csv") for name in tables}
    speakers = {name: {row["speaker"] for row in rows} for name, rows in tables.items()}
    assert speakers["train"] < speakers["unlabelled"] and not speakers["validation"] & speakers["unlabelled"]
    assert all(sum(row["speaker"] == each for row in tables["train"]) == 4 for each in speakers["train"])
    assert speakers["rest"] == speakers["unlabelled"] - speakers["train"]
    assert (
        tables["rest"][0].keys() == tables["unlabelled"][0].keys() == {"file_name", "speaker"}
        and tables["train"][0]["text"]
    )


def test_the_row_of_a_table_has_each_seed_and_an_interval_over_speakers():
    def result(number, hypothesis):
        return Result(f"{number}.wav", "it rained", hypothesis, "It rained.", 1.0, f"speaker {number}")

    seeds = [[result(i, "it rained") for i in range(8)], [result(i, "it rain") for i in range(8)]]
    assert describe("both", seeds) == "| both | 0.0, 50.0 | 25.0 % (25.0 to 25.0) | 11.1 % |"
    assert len({each.name for each in join(seeds)}) == 16


@pytest.mark.slow
def test_the_comparison_has_a_row_and_a_difference_for_each_variant(tmp_path, capsys):
    speech = Path(__file__).parents[2] / "recipes" / "quickstart" / "corpus" / "test"
    short = ["training.max_steps=2", "training.eval_steps=2", "--minutes=0.5", "--seeds=1", "--steps=4"]
    main([str(speech), str(tmp_path), *short, "--min-score=0.05"])
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == list(VARIANTS.values())
    assert sum("B's WER minus A's" in line for line in lines) == len(VARIANTS) - 1
    pseudo_labels = rows_of(tmp_path / "pseudo_labels-0" / "train" / "metadata.csv")
    transcribed = rows_of(tmp_path / "data" / "transcribed" / "train.csv")
    assert pseudo_labels and transcribed
    assert not {row["speaker"] for row in pseudo_labels} & {row["speaker"] for row in transcribed}
