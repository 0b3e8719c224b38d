"""From a recipe to a trained model, and the files of its run directory."""

import csv
import json

import pytest
import torch
import yaml

from finetune.cli import main
from finetune.data.sources import Source
from finetune.evaluation.scoring import EvaluationOptions, evaluate
from finetune.inference.utterance_statistics import UtteranceStatistics
from finetune.recipe.load import load_recipe
from finetune.run.experiment import run

RUN_FILES = {
    "recipe.yaml",
    "rejected.csv",
    "training_words.txt.gz",
    "metrics.jsonl",
    "curves.png",
    "checkpoints/step-000300/model.safetensors",
    "checkpoints/step-000300/optimizer.pt",
    "checkpoints/step-000300/progress.json",
    "checkpoints/step-000300/manifest.json",
    "checkpoints/step-000400/model.safetensors",
    "checkpoints/step-000400/optimizer.pt",
    "checkpoints/step-000400/progress.json",
    "checkpoints/step-000400/manifest.json",
    "model/README.md",
    "model/recipe.yaml",
    "model/training.json",
    "model/config.json",
    "model/model.safetensors",
    "model/processor_config.json",
    "model/text_normalization.json",
    "model/tokenizer_config.json",
    "model/utterance_lengths.json",
    "model/utterance_statistics.json",
    "model/vocab.json",
    "report/index.html",
    "report/scores.json",
    "report/training.html",
    "report/utterances.jsonl",
}


@pytest.fixture
def scores(learned_run):
    return json.loads((learned_run / "report" / "scores.json").read_text())


def test_tiny_model_learns(scores, finetune_run):
    untrained = json.loads((finetune_run("one-step", training={"max_steps": 1}) / "report/scores.json").read_text())
    assert untrained["wer"] >= 0.9
    assert scores["wer"] <= 0.35
    assert scores["cer"] <= 0.15


def test_the_lengths_of_training_utterances_are_kept_beside_the_model(learned_run):
    train = json.loads((learned_run / "model/training.json").read_text())["data"]["splits"]["train"]
    assert json.loads((learned_run / "model/utterance_lengths.json").read_text()) == {
        "mean_seconds": train["seconds"] / train["utterances"],
        "longest_seconds": train["longest_seconds"],
    }


def test_confidences_and_blank_ratios_of_the_validation_split_are_kept_beside_the_model(learned_run, corpus_folder):
    [evaluation] = evaluate(
        str(learned_run / "model"), [Source(str(corpus_folder))], EvaluationOptions(split="validation")
    )
    statistics = UtteranceStatistics.load(learned_run / "model")
    assert statistics.confidence.count == statistics.blank_ratio.count == 6
    for value in ("confidence", "blank_ratio"):
        measured = [getattr(result, value) for result in evaluation.results]
        kept = getattr(statistics, value).quantiles
        assert (kept[0], kept[-1]) == pytest.approx((min(measured), max(measured)), abs=1e-6)
        assert kept[50] == pytest.approx(sorted(measured)[2] / 2 + sorted(measured)[3] / 2, abs=1e-6)
    assert statistics.confidence.quantiles[0] > 0.5 and 0.1 < statistics.blank_ratio.quantiles[0] < 0.9


def test_validation_improves_and_is_logged(learned_run, read_lines):
    lines = read_lines(learned_run / "metrics.jsonl")
    wers = [line["validation_wer"] for line in lines if "validation_wer" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(wers) == 4
    assert min(wers) <= 0.35 < wers[0]
    assert losses[-1] < 0.1 * losses[0]


def test_run_directory_holds_exactly_its_files(learned_run):
    best = json.loads((learned_run / "checkpoints/step-000400/progress.json").read_text())["best"]
    files = RUN_FILES | {f"checkpoints/best/step-{step:06d}.safetensors" for _, _, step in best}
    assert len(best) == 1
    assert {str(path.relative_to(learned_run)) for path in learned_run.rglob("*") if path.is_file()} == files
    folders = {"checkpoints", "checkpoints/best", "checkpoints/step-000300", "checkpoints/step-000400"}
    found = {str(path.relative_to(learned_run)) for path in learned_run.rglob("*") if path.is_dir()}
    assert found == folders | {"model", "report"}


def test_best_weights_are_those_of_the_lowest_validation_wer(learned_run, read_lines):
    validations = [line for line in read_lines(learned_run / "metrics.jsonl") if "validation_wer" in line]
    progress = json.loads((learned_run / "checkpoints/step-000400/progress.json").read_text())
    best = min(validations, key=lambda line: (line["validation_wer"], line["validation_cer"]))
    assert progress["best"] == [[best["validation_wer"], best["validation_cer"], best["step"]]]


def test_recipe_in_the_run_has_all_values_and_their_provenance(learned_run):
    values = yaml.safe_load((learned_run / "recipe.yaml").read_text())
    assert values["training"]["max_gradient_norm"] == 1.0
    assert values["training"]["seed"] == 0
    assert set(values["provenance"]) >= {"finetune", "python", "packages"}
    assert load_recipe(learned_run / "recipe.yaml").training.max_steps == 400


def test_head_vocabulary_and_blank_of_the_saved_model_agree(learned_run):
    from transformers import AutoModelForCTC, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(learned_run / "model") for kind in (AutoModelForCTC, AutoTokenizer))
    assert model.lm_head.out_features == model.config.vocab_size == len(tokenizer) == 7
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_nothing_was_left_out(learned_run):
    assert list(csv.reader((learned_run / "rejected.csv").open())) == [
        ["split", "row", "name", "reason", "detail", "source", "source_number"]
    ]


def test_report_names_each_test_utterance_once(learned_run, read_lines, scores):
    names = [line["name"] for line in read_lines(learned_run / "report/utterances.jsonl")]
    assert sorted(names) == [f"{i:02d}.wav" for i in range(6)]
    assert scores["utterances"] == 6


@pytest.mark.long
def test_same_recipe_gives_the_same_run(finetune_run):
    first, again = (finetune_run(name) for name in ("first", "again"))
    for file in ("model/model.safetensors", "report/utterances.jsonl"):
        assert (first / file).read_bytes() == (again / file).read_bytes()


def test_run_can_start_from_an_architecture_without_a_base(finetune_run, base_folder):
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim")
    config = json.loads((base_folder / "config.json").read_text())
    folder = finetune_run("nothing", model={"base": None, "architecture": {key: config[key] for key in keys}})
    assert json.loads((folder / "model/config.json").read_text())["hidden_size"] == config["hidden_size"]


@pytest.mark.parametrize("kind", [pytest.param("lstm", marks=pytest.mark.slow), "cnn"])
def test_a_baseline_learns_from_nothing(kind, finetune_run):
    narrow = {"hidden_size": 32, "num_hidden_layers": 2, "num_mel_bins": 32}
    training = {"max_steps": 120, "eval_steps": 120, "log_steps": 60, "learning_rate": 1e-2, "warmup_ratio": 0.05}
    model = {"base": None, "architecture": {"type": kind, **narrow}, "dropout": 0.0}
    folder = finetune_run("nothing", model=model, training=training)
    assert json.loads((folder / "report/scores.json").read_text())["cer"] < 0.4
    assert "finetune.models.baselines" in (folder / "model/README.md").read_text()


def test_random_weights_change_what_is_trained(finetune_run, read_lines):
    training = {"max_steps": 1, "seed": 1}  # The tiny base itself is what seed 0 draws.
    pretrained = finetune_run("pretrained", training=training)
    random = finetune_run("random", model={"random_weights": True}, training=training)
    losses = [read_lines(folder / "metrics.jsonl")[0]["loss"] for folder in (pretrained, random)]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_finished_run_is_not_overwritten(learned_run):
    from finetune.errors import UserError

    before = (learned_run / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds a finished run"):
        run(load_recipe(learned_run / "recipe.yaml").model_copy(update={"provenance": None}), learned_run)
    assert (learned_run / "metrics.jsonl").read_bytes() == before


def test_columns_that_the_recipe_names_are_in_the_results(write_recipe, corpus_folder, tmp_path):
    recipe = write_recipe(tmp_path, data={"columns": ["speaker", "text"]}, training={"max_steps": 1})
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "report" / "utterances.jsonl").read_text().splitlines()
    assert len(lines) == 6
    for result in map(json.loads, lines):
        assert result["columns"] == {"speaker": result["speaker"], "text": result["raw_reference"]}
    arguments = ["evaluate", str(tmp_path / "run" / "model"), "--data", str(corpus_folder), "--columns", "speaker"]
    assert main([*arguments, "--json", str(tmp_path / "scores.json")]) == 0
    results = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert [result["columns"] for result in results] == [{"speaker": result["speaker"]} for result in results]


def test_a_missing_column_is_named(write_recipe, tmp_path, capsys):
    assert main(["check", str(write_recipe(tmp_path, data={"columns": ["accent"]}))]) == 2
    assert (
        "has no column accent (data.columns or --columns); it has file_name, text, speaker" in capsys.readouterr().err
    )


def test_training_ends_after_evaluations_without_a_better_one(finetune_run, read_lines, capsys):
    training = {"max_steps": 12, "eval_steps": 2, "learning_rate": 1e-9, "patience": 2}
    folder = finetune_run("run", training=training)
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl") if "validation_wer" in line] == [2, 4, 6]
    assert "no better validation WER in 2 evaluations" in capsys.readouterr().err


def test_training_ends_after_its_time_with_a_score(finetune_run, read_lines):
    folder = finetune_run("run", training={"max_steps": 1000, "eval_steps": 1000, "max_minutes": 1e-4})
    assert {line["step"] for line in read_lines(folder / "metrics.jsonl")} == {1}
    assert (folder / "report" / "scores.json").exists()


@pytest.mark.long
def test_average_of_the_best_checkpoints_is_taken_where_it_is_no_worse(finetune_run, capsys):
    from safetensors.torch import load_file

    training = {"max_steps": 6, "eval_steps": 1, "learning_rate": 1e-5, "keep_best": 3, "average_best": 2}
    folder = finetune_run("run", training=training)
    progress = json.loads((folder / "checkpoints/step-000006/progress.json").read_text())
    files = [folder / f"checkpoints/best/step-{step:06d}.safetensors" for _, _, step in progress["best"]]
    assert len(files) == 3 and sorted(files) == sorted((folder / "checkpoints/best").iterdir())
    model, first, second = (load_file(file) for file in (folder / "model/model.safetensors", *files[:2]))
    said = capsys.readouterr().err
    assert "average of the 2 best checkpoints: validation WER" in said
    taken = "; taken" in said
    for name, tensor in model.items():
        assert torch.allclose(tensor, (first[name] + second[name]) / 2 if taken else first[name], atol=1e-7), name
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])


def test_tracker_that_is_not_installed_is_named(write_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("finetune.training.trackers.find_spec", lambda name: None)
    recipe = write_recipe(tmp_path, training={"trackers": ["wandb"]})
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 2
    assert "training.trackers: wandb is not installed: pip install wandb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_the_values_of_the_log(finetune_run, read_lines):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = finetune_run("run", training={"trackers": ["tensorboard"]})
    (events,) = (folder / "trackers").rglob("events.out.tfevents.*0")
    found = EventAccumulator(str(events)).Reload()
    losses = {line["step"]: line["loss"] for line in read_lines(folder / "metrics.jsonl") if "loss" in line}
    assert {event.step: event.value for event in found.Scalars("loss")} == pytest.approx(losses)
    assert {event.step for event in found.Scalars("validation_wer")} == {2, 4}


@pytest.mark.bf16
def test_one_process_makes_runs_of_different_precision(finetune_run, read_lines):
    runs = [
        finetune_run(f"{i}-{name}", training={"mixed_precision": name}) for i, name in enumerate(("no", "bf16", "no"))
    ]
    first, half, again = ([line.get("loss") for line in read_lines(run / "metrics.jsonl")] for run in runs)
    assert first == again != half
