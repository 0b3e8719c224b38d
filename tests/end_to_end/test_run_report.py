"""The page of a run, and runs side by side."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from finetune.cli import main
from finetune.run.run_report import build_run_report, list_differences, list_results, read_run


@pytest.fixture
def other_run(learned_run, tmp_path):
    """The learned run again, as if it had been trained with another learning rate and stopped early."""
    other = tmp_path / "other"
    shutil.copytree(learned_run, other, ignore=shutil.ignore_patterns("checkpoints", "model", "report"))
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(re.sub(r"learning_rate: .*", "learning_rate: 0.5", recipe))
    lines = (other / "metrics.jsonl").read_text().splitlines(keepends=True)
    (other / "metrics.jsonl").write_text("".join(lines[:5]))
    return other


def test_a_run_has_a_page_with_its_scores_curves_and_examples(learned_run):
    page = (learned_run / "report" / "training.html").read_text()
    scores = json.loads((learned_run / "report" / "scores.json").read_text())
    assert f"{100 * scores['wer']:.1f} %" in page
    history = [json.loads(line) for line in (learned_run / "metrics.jsonl").read_text().splitlines()]
    examples = [line["examples"] for line in history if "validation_wer" in line]
    assert len(examples) > 1 and all(len(each) == 3 for each in examples)
    for reference, hypothesis in examples[-1]:
        assert f">{reference}</th>" in page and f"<td>{hypothesis}</td>" in page
    assert page.count('<polyline class="run-0"') == 6
    assert "training.learning_rate" in page and "training.schedule" not in page  # Differences from the defaults only.
    assert "Every utterance was used." in page
    assert not re.search(r'(?:src|href)="(?!data:,")', page)


def test_texts_of_a_corpus_are_not_interpreted(learned_run):
    run = read_run(learned_run)
    hostile = "<script>alert(1)</script>"
    history = (*run.history, {"step": 401, "examples": [(hostile, hostile)] * 3})
    page = build_run_report([replace(run, history=history, left_out={("train", hostile): 2})])
    assert hostile not in page and page.count("&lt;script&gt;alert(1)") == 4


def test_runs_are_compared_by_what_differs(learned_run, other_run, tmp_path, capsys):
    page = tmp_path / "runs.html"
    assert main(["compare-runs", str(learned_run), str(other_run), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    learned = read_run(learned_run).settings["training.learning_rate"]
    settings = printed.partition("\nsettings\n")[2]
    assert settings == f"  training.learning_rate\n    1: {learned}\n    2: 0.5\n"
    assert "  steps\n    1: 400\n" in printed and "  training time\n" in printed and "    2: unknown\n" in printed
    text = page.read_text()
    assert 'class="run-1"' in text and "Examples over time" not in text
    runs = [read_run(learned_run), read_run(learned_run)]
    assert list_differences(runs) == [] and list_results(runs)[0][1][0] == list_results(runs)[0][1][1]


def test_a_run_without_any_step_has_a_page(other_run):
    (other_run / "metrics.jsonl").write_text("")
    run = read_run(other_run)
    assert run.results == {} and "Recipe" in build_run_report([run])


@pytest.mark.parametrize("damage", ["{", "[1]", '{"loss": 1}', '{"step": 1, "validation_wer": "x", "memory_gib": []}'])
def test_what_is_no_run_is_refused_in_a_sentence(other_run, damage, tmp_path, capsys):
    assert main(["compare-runs", str(tmp_path)]) == 2
    assert "is no run: expected a folder of `finetune train`" in capsys.readouterr().err
    (other_run / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 2}}\n{damage}\n')
    assert main(["compare-runs", str(other_run)]) == 2
    assert "damaged" in capsys.readouterr().err
