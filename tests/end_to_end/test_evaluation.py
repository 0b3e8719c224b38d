"""Models on data sets: one report for each pair, the same numbers however they are computed, and comparisons."""

import base64
import csv
import json
import os
import sys
from dataclasses import replace

import pytest
from programs import execute

from finetune.cli import main
from finetune.data.sources import Source
from finetune.evaluation.results import read_results
from finetune.evaluation.scoring import EvaluationOptions, Speed, evaluate


@pytest.fixture
def other_corpus(corpus_folder, tmp_path):
    """The validation utterances as a test set, with an accent for each."""
    folder = tmp_path / "other corpus" / "test"
    folder.mkdir(parents=True)
    with (corpus_folder / "validation" / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "metadata.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "speaker", "accent"])
        for i, row in enumerate(rows):
            (folder / row["file_name"]).symlink_to(corpus_folder / "validation" / row["file_name"])
            writer.writerow([row["file_name"], row["text"], row["speaker"], "ab"[i % 2]])
    return folder.parent


def test_two_models_on_two_data_sets_make_four_reports_and_a_table(
    learned_run, model_folder, corpus_folder, other_corpus, tmp_path, capsys
):
    models, places = [str(learned_run / "model"), str(model_folder)], [str(corpus_folder), str(other_corpus)]
    options = ["--data", places[0], "--data", places[1], "--json", str(tmp_path / "s.json"), "--show", "1"]
    assert main(["evaluate", *models, *options, "--report", str(tmp_path / "reports")]) == 0
    lines = capsys.readouterr().out.splitlines()
    written = json.loads((tmp_path / "s.json").read_text())
    pairs = [(model, place) for model in models for place in places]
    assert [(values["model"], values["data"]) for values in written] == pairs
    for number, (pair, values) in enumerate(zip(pairs, written, strict=True), start=1):
        start = lines.index(f"{pair[0]} on {pair[1]}:")
        assert " word" in lines[start + 1] and lines[start + 2].startswith("  ")  # The worst one.
        assert lines[start + 3].startswith(f"WER {100 * values['wer']:.1f} % (95 % interval ")
        assert lines[start + 4].startswith("real-time factor ")
        scores = json.loads((tmp_path / "reports" / str(number) / "scores.json").read_text())
        assert {key: values[key] for key in scores} == scores
    assert [line.split("  ")[0] for line in lines[-4:]] == [model for model, _ in pairs]
    assert lines[-5].split()[:3] == ["model", "data", "WER"]
    assert "\x1b" not in "".join(lines)
    # A report in the way is found before anything is computed.
    assert main(["evaluate", *models, "--data", places[0], "--report", str(tmp_path / "reports")]) == 2
    assert capsys.readouterr().out == ""


def test_each_utterance_s_audio_is_in_the_report_where_it_is_asked_for(model_folder, make_corpus, tmp_path, capsys):
    corpus = make_corpus(tmp_path / "corpus" / "test", ["ab", "bad dad", "cab", "add"])
    (corpus / "01.wav").write_bytes(b"")  # It is left out: what follows is not at its row.
    command = ["evaluate", str(model_folder), "--data", str(corpus.parent)]
    assert main([*command, "--report", str(tmp_path / "report"), "--audio"]) == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    of = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["utterances"]
    assert sorted(of["name"]) == ["00.wav", "02.wav", "03.wav"]
    for name, audio in zip(of["name"], of["audio"], strict=True):
        content = base64.b64decode(audio.removeprefix("data:audio/wav;base64,"))
        assert content == (corpus / name).read_bytes()
    for text in (str(model_folder), "greedy", "lowercase", "real-time factor"):
        assert text in page.partition("<main>")[0]
    capsys.readouterr()
    assert main([*command, "--audio"]) == 2
    assert capsys.readouterr() == ("", "finetune: --audio is for a report's players: add --report DIR.\n")


def test_what_is_known_of_each_utterance_is_kept(learned_run, other_corpus, corpus_folder):
    source = Source(str(other_corpus), columns=("accent",), allow_outside=True)
    [evaluation] = evaluate(str(learned_run / "model"), [source])
    assert {result.columns["accent"] for result in evaluation.results} == {"a", "b"}
    assert all(result.snr_db > 20 and result.source == str(other_corpus) for result in evaluation.results)
    training = {
        word
        for row in csv.DictReader((corpus_folder / "train" / "metadata.csv").open())
        for word in row["text"].split()
    }
    assert all(
        result.unseen_words == sum(word not in training for word in result.reference.split())
        for result in evaluation.results
    )
    speed = evaluation.speed
    assert 0 < speed.real_time_factor < 10 and speed.audio_seconds == evaluation.scores.audio_seconds
    assert "thread" in speed.device or speed.device.startswith("one ")


def test_a_run_reports_noise_and_new_words(learned_run):
    results = read_results(learned_run)
    assert all(result.snr_db is not None and result.unseen_words is not None for result in results)
    assert "greedy" in (learned_run / "report" / "index.html").read_text(encoding="utf-8").partition("<main>")[0]
    scores = json.loads((learned_run / "report" / "scores.json").read_text())
    assert set(scores["intervals"]) >= {"wer", "cer", "ser"}
    assert set(scores["slices"]) <= {"speaker", "seconds", "snr_db", "characters_per_second", "unseen_words"}
    assert {"substitutions", "worst", "characters"} <= set(scores["errors"])


def test_a_run_scores_its_own_splits_as_evaluate_does(finetune_run, make_corpus, tmp_path):
    """Longer and shorter utterances than training takes, and longer than a batch of the evaluation."""
    corpus = tmp_path / "corpus"
    make_corpus(corpus / "train", ["ab", "bad dad", "cab", "add", "dab"] * 2)
    for split in ("validation", "test"):
        make_corpus(corpus / split, ["a", "ab cab", " ".join(["bad"] * 10)], seed=1)
    data = {"root": str(corpus), "min_seconds": 0.35, "max_seconds": 1.2}
    run = finetune_run("run", data=data, training={"max_steps": 2}, evaluation={"batch_seconds": 1})
    scores = json.loads((run / "report" / "scores.json").read_text())
    [alone] = evaluate(str(run / "model"), [Source(str(corpus))])
    assert (scores["utterances"], scores["words"], scores["wer"]) == (3, 13, alone.scores.wer)
    with (run / "rejected.csv").open() as file:
        assert list(csv.DictReader(file)) == []
    training = json.loads((run / "model" / "training.json").read_text())
    assert training["data"]["splits"]["validation"]["utterances"] == 3


def test_texts_and_counts_do_not_depend_on_the_batch(learned_run, corpus_folder):
    found = [
        next(
            evaluate(str(learned_run / "model"), [Source(str(corpus_folder))], EvaluationOptions(batch_seconds=seconds))
        )
        for seconds in (0.1, 80.0)
    ]
    assert found[0].results == found[1].results and len(found[0].results) == 6
    assert (found[0].counts == found[1].counts).all()


def test_hypotheses_are_normalised_as_the_references_are(learned_run, corpus_folder, tmp_path):
    steps = ["uppercase", {"replace": ["D", "dd "]}]
    [evaluation] = evaluate(
        str(learned_run / "model"), [Source(str(corpus_folder))], EvaluationOptions(normalization=steps)
    )
    assert any("dd" in result.hypothesis for result in evaluation.results)
    for result in evaluation.results:
        assert result.hypothesis == " ".join(result.raw_hypothesis.upper().replace("D", "dd ").split())
        assert result.reference == " ".join(result.raw_reference.upper().replace("D", "dd ").split())


def test_an_unknown_character_stays_one(learned_run):
    from finetune.evaluation.scoring import build_hypothesis_normalizer
    from finetune.inference.recogniser import Recogniser

    recogniser = Recogniser.load(str(learned_run / "model"), "cpu")
    normalize = build_hypothesis_normalizer(("nfkc", "lowercase", "remove_punctuation"), recogniser)
    assert normalize("Ca[UNK]t,  x") == "ca[UNK]t x"


def test_models_are_compared_and_so_are_their_reports(learned_run, model_folder, corpus_folder, tmp_path, capsys):
    models = [str(model_folder), str(learned_run / "model")]
    data = ["--data", str(corpus_folder)]
    assert main(["compare", *models, *data, "--json", str(tmp_path / "by-models.json")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"A: {models[0]}", f"B: {models[1]}"]
    assert said[2].startswith("B is better by ") and "95 % interval" in said[2]
    reports = [str(tmp_path / "one"), str(tmp_path / "two")]
    for model, report in zip(models, reports, strict=True):
        assert main(["evaluate", model, *data, "--report", report]) == 0
    assert main(["compare", *reports, "--json", str(tmp_path / "by-reports.json")]) == 0
    by_models, by_reports = (json.loads((tmp_path / f"by-{kind}.json").read_text()) for kind in ("models", "reports"))
    assert by_models.pop("names") == models and by_reports.pop("names") == reports
    assert by_models == by_reports
    # A run's own report is one, too.
    assert main(["compare", reports[1], str(learned_run)]) == 0
    assert "no significant difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{model}", "{model}"], "There is no report in"),
        (["{run}", "nowhere"], "There is no report in nowhere: expected a folder with utterances.jsonl"),
        (["{run}", "{run}", "--json", "no/folder/s.json"], "no/folder/s.json can't be written"),
        (["{model}", "nowhere/at/all", "--data", "{corpus}"], "There is no model at nowhere/at/all"),
        (["{model}", "{model}", "--data", "nowhere/at/all"], "There is no data at nowhere/at/all"),
    ],
)
def test_what_cannot_be_compared_is_refused(learned_run, corpus_folder, capsys, arguments, words):
    places = {"run": learned_run, "model": learned_run / "model", "corpus": corpus_folder}
    assert main(["compare", *(argument.format(**places) for argument in arguments)]) == 2
    written = capsys.readouterr()
    assert words in written.err and written.err.count("\n") == 1 and written.out == ""


def test_speed_names_the_device_and_the_processes():
    speed = Speed(30.0, 600.0, 1, "one H100")
    words = "(30.0 s of forward passes and decoding for 600.0 s of audio)"
    assert speed.summary() == f"real-time factor 0.05 on one H100 {words}"
    assert replace(speed, processes=2).summary().startswith("real-time factor 0.05, of each of 2 processes on one H100")
    assert speed.to_json()["real_time_factor"] == 0.05


@pytest.mark.long
def test_full_disk_is_one_sentence_and_leaves_no_half_of_a_report(learned_run, corpus_folder, tmp_path):
    """As with a full disk no file grows beyond a limit."""
    program = """
import resource, signal, sys
from finetune.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for option, place in zip(sys.argv[1::2], sys.argv[2::2]):
    print("exit code", main(["evaluate", MODEL, "--data", DATA, option, place]), flush=True)
"""
    program = program.replace("MODEL", repr(str(learned_run / "model"))).replace("DATA", repr(str(corpus_folder)))
    places = [tmp_path / "report", tmp_path / "scores.json"]
    said = execute([sys.executable, "-c", program, "--report", places[0], "--json", places[1]]).splitlines()
    ends = [i for i, line in enumerate(said) if line.startswith("exit code")]
    assert [said[end] for end in ends] == ["exit code 2"] * 2, said
    for place, end in zip(places, ends, strict=True):
        assert f"{place} can't be written: " in said[end - 1]
        assert not place.exists()
    assert not (tmp_path / "report").exists() and not list(tmp_path.glob(".report*"))


def test_what_was_computed_is_kept_when_the_output_cannot_be_printed(
    learned_run, corpus_folder, tmp_path, monkeypatch, capsys
):
    def run(name, output):
        evaluated = ["evaluate", str(learned_run / "model"), "--data", str(corpus_folder), "--show", "1"]
        with monkeypatch.context() as patched, output:
            patched.setattr(sys, "stdout", output)
            code = main([*evaluated, "--report", str(tmp_path / name), "--json", str(tmp_path / f"{name}.json")])
        assert (tmp_path / name / "index.html").is_file()
        assert json.loads((tmp_path / f"{name}.json").read_text())["results"]
        return code, capsys.readouterr().err

    reader, writer = os.pipe()
    os.close(reader)
    assert run("gone", os.fdopen(writer, "w")) == (141, "")
    code, said = run("full", os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"))
    assert code == 2 and said == "finetune: No space left on device.\n"
    with (tmp_path / "ascii").open("w", encoding="ascii") as file:
        assert run("letters", file) == (0, "")
    assert "real-time factor" in (tmp_path / "ascii").read_text()
