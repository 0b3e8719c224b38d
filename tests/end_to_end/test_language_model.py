"""A language model from text to a recogniser that decodes with it, by the commands alone."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.decoding import decoder
from finetune.decoding.decoder import load_decoder, load_language_model
from finetune.inference.recogniser import Recogniser


@pytest.fixture(scope="module")
def language_model(corpus_folder, tmp_path_factory):
    """Of the training transcripts; order 2."""
    folder = tmp_path_factory.mktemp("lm")
    with (corpus_folder / "train" / "metadata.csv").open() as file:
        (folder / "text").write_text("".join(row["text"] + "\n" for row in csv.DictReader(file)))
    assert main(["lm", "build", str(folder / "text"), "--order", "2", "-o", str(folder / "lm")]) == 0
    return folder / "lm"


@pytest.fixture
def kenlm_files():
    """Binary files of KenLM, of words that the tones spell."""
    return Path(__file__).parents[1] / "decoding" / "kenlm"


@pytest.fixture
def model(learned_run, tmp_path):
    """A copy of the model that knows the tones."""
    return shutil.copytree(learned_run / "model", tmp_path / "model")


def tune(model, language_model, corpus, *options):
    return main(["lm", "tune", str(model), str(language_model), "--data", str(corpus), "--beam-width", "20", *options])


def evaluate(model, corpus, tmp_path, *options):
    file = tmp_path / "scores.json"
    assert main(["evaluate", str(model), "--data", str(corpus), "--json", str(file), *options]) == 0
    return json.loads(file.read_text())


def test_tuned_language_model_is_saved_with_the_model_which_then_decodes_with_it(
    model, language_model, corpus_folder, tmp_path, capsys
):
    before = evaluate(model, corpus_folder, tmp_path)
    assert before["decoder"] == {"name": "greedy"}
    capsys.readouterr()
    assert tune(model, language_model, corpus_folder, "--hotword", "dad=2") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("greedy: WER ") and said[1].startswith("with the language model: WER ")

    # The layout that pyctcdecode 0.5 reads, to the file: it refuses a folder of more.
    assert sorted(file.name for file in (model / "language_model").iterdir()) == [
        "attrs.json",
        "lm.arpa",
        "unigrams.txt",
    ]
    attributes = json.loads((model / "language_model" / "attrs.json").read_text())
    assert set(attributes) == {"alpha", "beta", "unk_score_offset", "score_boundary"}
    alphabet = json.loads((model / "alphabet.json").read_text())
    assert alphabet == {"labels": ["", " ", "a", "b", "c", "d", "⁇"], "is_bpe": False}
    assert set((model / "language_model" / "unigrams.txt").read_text().split()) == {
        "ab", "cab", "bad", "dad", "add", "dab",
    }  # fmt: skip

    after = evaluate(model, corpus_folder, tmp_path)
    assert after["decoder"]["language_model"] == "word 2-gram"
    assert after["decoder"]["hotwords"] == {"dad": 2.0}
    assert after["decoder"]["alpha"] == attributes["alpha"]
    assert after["wer"] <= before["wer"]
    assert evaluate(model, corpus_folder, tmp_path, "--decoder", "greedy")["results"] == before["results"]
    narrow = evaluate(model, corpus_folder, tmp_path, "--beam-width", "1", "--hotword", "bad dab")
    assert narrow["decoder"]["beam_width"] == 1
    assert narrow["decoder"]["hotwords"] == {"dad": 2.0, "bad dab": 10.0}
    # Plain Transformers loads it as before.
    from transformers import pipeline

    assert pipeline("automatic-speech-recognition", model=str(model)).type == "ctc"


def test_a_model_laid_out_by_others_decodes(model, language_model, corpus_folder):
    """With what Wav2Vec2ProcessorWithLM saves alone: no file of ours."""
    assert tune(model, language_model, corpus_folder) == 0
    tokenizer = Recogniser.load(str(model)).tokenizer
    ours = load_decoder(str(model), tokenizer, 7)
    (model / "decoder.json").unlink()
    (model / "language_model.safetensors").unlink()
    theirs = load_decoder(str(model), tokenizer, 7)
    assert theirs.weights == ours.weights
    assert theirs.language_model.counts == ours.language_model.counts
    assert load_language_model(model / "language_model").words == theirs.language_model.words


def test_kenlms_hash_tables_are_saved_with_the_model_as_they_are(
    model, language_model, kenlm_files, corpus_folder, tmp_path
):
    assert tune(model, language_model, corpus_folder) == 0
    (tmp_path / "lm").mkdir()
    shutil.copy(kenlm_files / "probing.bin", tmp_path / "lm" / "4gram.bin")
    assert tune(model, tmp_path / "lm", corpus_folder) == 0
    # The layout that pyctcdecode 0.5 reads, and nothing of the language model before.
    folder = model / "language_model"
    assert sorted(file.name for file in folder.iterdir()) == ["attrs.json", "lm.bin", "unigrams.txt"]
    assert (folder / "lm.bin").read_bytes() == (tmp_path / "lm" / "4gram.bin").read_bytes()
    assert not (model / "language_model.safetensors").exists()
    assert evaluate(model, corpus_folder, tmp_path)["decoder"]["language_model"] == "word 4-gram"
    # Its own language model, which lies where the new one will.
    assert tune(model, folder, corpus_folder) == 0
    assert (folder / "lm.bin").read_bytes() == (tmp_path / "lm" / "4gram.bin").read_bytes()


def test_tuning_again_takes_the_place_of_what_was_there(model, language_model, corpus_folder, tmp_path):
    assert tune(model, language_model, corpus_folder, "--hotword", "dad") == 0
    assert tune(model, language_model, corpus_folder) == 0
    assert evaluate(model, corpus_folder, tmp_path)["decoder"]["hotwords"] == {}
    assert not list(model.glob(".*partial"))


def test_an_interrupted_tuning_is_named_and_leaves_what_was_there(
    model, language_model, corpus_folder, tmp_path, monkeypatch, capsys
):
    assert tune(model, language_model, corpus_folder, "--hotword", "dad") == 0
    files = {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}

    def fail(*_):
        raise OSError("full")

    with monkeypatch.context() as patched:
        patched.setattr(decoder, "_list_labels", fail)  # for the last file
        assert tune(model, language_model, corpus_folder) == 2
    assert capsys.readouterr().err.endswith("finetune: full.\n")
    assert {file: file.read_bytes() for file in model.rglob("*") if file.is_file()} == files
    # Killed before the last rename.
    (model / "language_model").rename(model / ".language_model.partial")
    assert main(["evaluate", str(model), "--data", str(corpus_folder)]) == 2
    assert "was interrupted" in capsys.readouterr().err


def test_what_cannot_be_used_is_one_sentence(model, language_model, corpus_folder, tmp_path, capsys):
    upper = tmp_path / "upper"
    (tmp_path / "text").write_text("AB CAB\nDAD ADD\n")
    build = ["lm", "build", str(tmp_path / "text"), "-o", str(upper), "--order", "2", "--normalization", "uppercase"]
    assert main(build) == 0
    other = shutil.copytree(model, tmp_path / "other")
    assert tune(other, language_model, corpus_folder) == 0
    alphabet = json.loads((other / "alphabet.json").read_text())
    alphabet["labels"][2] = "x"
    (other / "alphabet.json").write_text(json.dumps(alphabet))
    binary = tmp_path / "binary" / "lm.bin"
    binary.parent.mkdir()
    binary.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    capsys.readouterr()
    data = ["--data", str(corpus_folder)]
    for arguments, sentence in (
        (["lm", "tune", str(model), str(upper), *data], "text in lower case"),
        (["lm", "tune", str(model), str(tmp_path / "nowhere"), *data], "There is no language model in"),
        (["lm", "tune", str(model), str(binary.parent), *data], "it ends within its header, at 52 bytes"),
        (["lm", "tune", "some/model", str(language_model), *data], "is not a folder here"),
        (["lm", "tune", str(model), str(language_model), *data, "--split", "dev"], "dev"),
        (["evaluate", str(other), *data], "belongs to another model"),
        (["evaluate", str(model), *data, "--hotword", "fun"], "characters that the model can't write"),
        (["evaluate", str(model), *data, "--decoder", "greedy", "--beam-width", "5"], "no beam and no hotwords"),
        (["evaluate", str(model), *data, "--beam-width", "0"], "beam_width is 0"),
    ):
        assert main(arguments) == 2, arguments
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and sentence in said[0], said
    assert not (model / "language_model").exists()
