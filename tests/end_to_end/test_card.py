"""The card of a real run: every figure is the report's, the recipe in the repository is the run's, nobody is named."""

import csv
import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from finetune.cli import main
from finetune.evaluation.report import read_scores
from finetune.publishing.card_scores import insert_results
from finetune.publishing.leaks import find_leaks
from finetune.publishing.model_index import build_results
from finetune.publishing.record import describe_scores
from finetune.recipe.load import load_recipe


def read_tables(text):
    """Each table of a card, by the heading it stands under: its rows, each a list of cells."""
    tables, heading = {}, ""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open":
            heading = following.content
        elif token.type == "table_open":
            tables[heading] = []
        elif token.type == "tr_open":
            tables[heading].append([])
        elif token.type in ("td_open", "th_open"):
            tables[heading][-1].append("".join(child.content for child in following.children))
    return tables


def say(scores, rate):
    interval = scores["intervals"][rate]
    return f"{100 * scores[rate]:.1f} %" + (
        f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    )


@pytest.fixture
def card(learned_run):
    return ModelCard.load(learned_run / "model" / "README.md")


@pytest.fixture
def scores(learned_run):
    return json.loads((learned_run / "report" / "scores.json").read_text(encoding="utf-8"))


def test_every_figure_is_the_report_s(card, scores, corpus_folder):
    tables = read_tables(card.text)
    counts = [str(scores[name]) for name in ("utterances", "words", "substitutions", "deletions", "insertions")]
    about = [corpus_folder.name, "test", "greedy", say(scores, "wer"), say(scores, "cer"), say(scores, "ser")]
    assert tables["Evaluation"][1:] == [about + counts]
    slices = [
        [say(each, "wer"), say(each, "cer"), str(each["utterances"]), str(each["words"])]
        for slices in scores["slices"].values()
        for each in slices
    ]
    assert [row[2:] for row in tables["Errors"][1:]] == slices and len(slices) > 4
    [index] = {
        (each.dataset_name, each.dataset_split, each.metric_args["utterances"]) for each in card.data.eval_results
    }
    assert index == (corpus_folder.name, "test", scores["utterances"])
    for each in card.data.eval_results:
        assert each.metric_value == pytest.approx(100 * scores[each.metric_type], abs=0.005)
        ends = [100 * end for end in scores["intervals"][each.metric_type]]
        assert each.metric_args["interval_95"] == pytest.approx(ends, abs=0.005)
        assert each.metric_args["decoder"] == scores["evaluated"]["decoder"] == {"name": "greedy"}
        assert each.metric_args["normalization"] == scores["evaluated"]["normalization"]
    assert len(card.data.eval_results) == 2
    assert f"{scores['wrong_utterances']} of {scores['utterances']} utterances have a word error" in card.text
    for kind in ("substitutions", "characters"):
        for each in scores["errors"][kind]:
            assert f"{each['reference']} → {each['hypothesis']} × {each['count']}" in card.text


def test_what_it_was_trained_on_is_what_was_there(card, learned_run, corpus_folder):
    rows = {row[0]: row[1:] for row in read_tables(card.text)["Training data"][1:]}
    for split in ("train", "validation", "test"):
        with (corpus_folder / split / "metadata.csv").open() as file:
            there = list(csv.DictReader(file))
        assert rows[split][0] == str(len(there)) and rows[split][2] == str(len({row["speaker"] for row in there}))
        assert rows[split][4] == "16 kHz"
    assert "No utterance was skipped" in card.text
    values = yaml.safe_load((learned_run / "recipe.yaml").read_text(encoding="utf-8"))
    told = dict(read_tables(card.text)["Training procedure"][1:])
    assert told["training.learning_rate"] == str(values["training"]["learning_rate"])
    assert told["training.max_steps"] == str(values["training"]["max_steps"])
    assert f"transformers {values['provenance']['packages']['transformers']}" in card.text
    assert str(values["provenance"]["commit"]) in card.text


def test_the_published_recipe_is_the_run_s(learned_run, base_folder, corpus_folder):
    published = learned_run / "model" / "recipe.yaml"
    values = yaml.safe_load(published.read_text(encoding="utf-8"))
    assert values["model"]["base"] == f"./{base_folder.name}" and values["data"]["root"] == f"./{corpus_folder.name}"
    recipe = load_recipe(published, [f"model.base={base_folder}", f"data.root={corpus_folder}"])
    original = load_recipe(learned_run / "recipe.yaml")
    assert recipe.model_copy(update={"provenance": None}) == original.model_copy(update={"provenance": None})


def test_what_was_left_out_is_counted_by_reason(finetune_run, make_corpus, tmp_path):
    for split in ("train", "test"):
        make_corpus(tmp_path / "corpus" / split, ["ab", "bad dad", "cab", "add", "dab", "", "ab"])
    run = finetune_run("some", data={"root": str(tmp_path / "corpus"), "max_seconds": 0.6}, training={"max_steps": 1})
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    with (run / "rejected.csv").open() as file:
        reasons = [(row["split"], row["reason"]) for row in csv.DictReader(file)]
    # Of the test split an utterance without words is scored, and one that is too long for training.
    assert set(reasons) == {("train", "too long"), ("train", "empty transcript")}
    for split, reason in set(reasons):
        assert f"{reasons.count((split, reason))} × {reason} ({split})" in card
    assert "held out of the training split" in card


def test_nothing_gets_out_that_must_not(learned_run, base_folder, corpus_folder, finetune_run):
    steps = [{"replace": ["/home/x", "y"]}, "lowercase"]
    publishing = {"title": f"{corpus_folder}/mine", "limitations": f"Only {base_folder}."}
    other = finetune_run("other", publishing=publishing, text={"normalization": steps}, training={"max_steps": 1})
    for run in (learned_run, other):
        for file in (run / "model").iterdir():
            text = file.read_bytes()
            for secret in (base_folder, corpus_folder, learned_run):
                assert str(secret).encode() not in text, file
            assert b"00.wav" not in text and b"test-0" not in text, f"{file} names a file or a speaker"
    assert find_leaks(learned_run / "model") == []
    published = load_recipe(other / "model" / "recipe.yaml")
    assert published.text.normalization == tuple(steps), "a pattern of a transcript is no path of a machine"


def test_a_language_model_that_is_saved_later_gets_onto_the_card(learned_run, corpus_folder, tmp_path, card):
    model = tmp_path / "model"
    shutil.copytree(learned_run / "model", model)
    (tmp_path / "text.txt").write_text("ab cab\nbad dad\nadd dab ab\n" * 3)
    assert main(["lm", "build", str(tmp_path / "text.txt"), "-o", str(tmp_path / "lm"), "--order", "2"]) == 0
    assert main(["lm", "tune", str(model), str(tmp_path / "lm"), "--data", str(corpus_folder)]) == 0
    tuned = json.loads((model / "decoder.json").read_text())["tuned"]
    after = ModelCard.load(model / "README.md")
    gain = f"WER is {100 * tuned['wer']:.1f} % with it and {100 * tuned['greedy_wer']:.1f} % without"
    assert gain in after.text and gain not in card.text
    assert read_tables(after.text) == read_tables(card.text), "what was measured greedily stays so called"
    assert find_leaks(model) == []


def test_a_later_report_s_scores_fit_into_the_card(learned_run, corpus_folder, tmp_path, card, capsys):
    command = ["evaluate", str(learned_run / "model"), "--data", str(corpus_folder)]
    assert main([*command, "--report", str(tmp_path / "test")]) == 0
    assert main([*command, "--report", str(tmp_path / "validation"), "--split", "validation"]) == 0
    text = (learned_run / "model" / "README.md").read_text(encoding="utf-8")

    def insert(card, name):
        return insert_results(card, build_results(describe_scores(read_scores(tmp_path / name))), "model")

    assert insert(text, "test") == text, "the same figures of the same set"
    both = ModelCard(insert(text, "validation"))
    assert [each.dataset_split for each in both.data.eval_results] == ["test", "test", "validation", "validation"]
    assert both.text == card.text


def test_a_run_in_the_current_folder_has_a_name(write_recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "tones").mkdir()
    monkeypatch.chdir(tmp_path / "tones")
    recipe = write_recipe(tmp_path, training={"max_steps": 1})
    assert main(["train", str(recipe), "--output", "."]) == 0, capsys.readouterr().err
    card = ModelCard.load("model/README.md")
    assert card.data.to_dict()["model-index"][0]["name"] == "tones"
    assert "<title>tones: test</title>" in (tmp_path / "tones" / "report" / "index.html").read_text(encoding="utf-8")
