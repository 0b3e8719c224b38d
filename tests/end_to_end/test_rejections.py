"""A file that cannot be read is listed with the reason, and the run continues without it."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from finetune.audio import recordings


def break_header(corpus, split, number):
    (corpus / split / f"{number:02d}.wav").write_bytes(b"RIFF and nothing that follows from it")
    return f"{number:02d}.wav"


def truncate(corpus, split, number):
    """Replace a WAV by half of a FLAC: its header promises all samples, so only decoding finds out."""
    wav = corpus / split / f"{number:02d}.wav"
    flac = wav.with_suffix(".flac")
    samples, rate = soundfile.read(wav)
    soundfile.write(flac, samples, rate)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    assert soundfile.info(flac).frames == len(samples)
    wav.unlink()
    metadata = wav.with_name("metadata.csv")
    metadata.write_text(metadata.read_text().replace(wav.name, flac.name))
    return flac.name


@pytest.fixture
def corpus(corpus_folder, tmp_path):
    return shutil.copytree(corpus_folder, tmp_path / "corpus")


def read_rejected(folder):
    with (folder / "rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_corrupt_files_among_good_ones_are_listed_and_the_run_finishes(corpus, finetune_run):
    splits = ("train", "validation", "test")
    headers = {(split, break_header(corpus, split, 0)) for split in splits}
    halves = {(split, truncate(corpus, split, 2)) for split in splits}
    silent = corpus / "train" / "05.wav"
    soundfile.write(silent, np.zeros(0), 16000)
    zeros = corpus / "train" / "06.wav"
    soundfile.write(zeros, np.zeros(16000), 16000)
    folder = finetune_run("run", data={"root": str(corpus)}, training={"max_steps": 8})
    rejected = read_rejected(folder)
    listed = [(row["split"], row["name"]) for row in rejected]
    assert len(listed) == len(set(listed))
    assert set(listed) == headers | halves | {("train", silent.name), ("train", zeros.name)}
    reasons = {(row["split"], row["name"]): row["reason"] for row in rejected}
    assert {reasons[name] for name in headers} == {"unreadable audio"}
    assert {reasons[name] for name in halves} <= {"unreadable audio", "truncated audio"}
    assert reasons["train", silent.name] == "audio of zero length"
    assert reasons["train", zeros.name] == "silent audio"
    assert json.loads((folder / "report/scores.json").read_text())["utterances"] == 4


def test_a_split_of_truncated_files_is_an_error_with_counts(corpus, finetune_run, tmp_path):
    from finetune.errors import UserError

    for number in range(6):
        truncate(corpus, "validation", number)
    with pytest.raises(UserError, match=r"'validation' was left out: 6 × (unreadable|truncated) audio"):
        finetune_run("run", data={"root": str(corpus)}, training={"max_steps": 2})
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "report").exists()


def test_resumed_run_lists_files_that_were_found_before_the_interruption(corpus, finetune_run, interrupt_run, tmp_path):
    name = truncate(corpus, "train", 2)
    sections = {"data": {"root": str(corpus)}, "training": {"max_steps": 6, "eval_steps": 5}}

    interrupt_run("run", **sections)
    assert [row["name"] for row in read_rejected(tmp_path / "run")] == [name]
    assert [row["name"] for row in read_rejected(finetune_run("run", **sections))] == [name]


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_utterance_without_a_finite_loss_is_listed_and_in_the_verdict(corpus, finetune_run, capsys, monkeypatch):
    monkeypatch.setattr(recordings, "_LOUDEST", np.inf)  # What is so loud would be left out before.
    samples, rate = soundfile.read(corpus / "train" / "03.wav", dtype="float32")
    soundfile.write(corpus / "train" / "03.wav", 1e38 * (1 + samples), rate, subtype="FLOAT")  # Its mean is infinite.
    folder = finetune_run("run", data={"root": str(corpus)}, training={"max_steps": 20, "eval_steps": 10})
    assert [(row["name"], row["reason"]) for row in read_rejected(folder)] == [("03.wav", "no finite loss")]
    said = capsys.readouterr().err
    assert re.search(r"loss is not finite in \d+ of \d+ utterances: see rejected\.csv", said)


def test_rows_of_two_splits_of_one_corpus_are_listed_one_by_one(make_corpus, finetune_run, tmp_path):
    """Row 1 of both has no file, row 0 of both is truncated: the source's number tells them apart."""
    root = tmp_path / "corpus"
    for seed, split in enumerate(("train", "validation", "test")):
        make_corpus(root / split, ["ab", "cab", "bad", "dab"], seed=seed)
        truncate(root, split, 0)
        (root / split / "01.wav").unlink()
    sources = [{"root": str(root), "train_split": split} for split in ("train", "test")]
    data = {"root": None, "sources": sources}
    rejected = read_rejected(finetune_run("run", data=data, training={"batch_seconds": 3, "max_steps": 4}))
    trained = sorted((row["source_number"], row["row"]) for row in rejected if row["split"] == "train")
    assert trained == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
