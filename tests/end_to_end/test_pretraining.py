"""Pre-training on speech without transcripts: it learns, goes on after a kill, and its result is a base."""

import json
import math
import shutil
import signal
import sys
from pathlib import Path

import pytest
from programs import execute, started
from safetensors.torch import load_file

from finetune.cli import main
from finetune.errors import Interrupted
from finetune.recipe.load import load_recipe
from finetune.run.callbacks import TrainerCallback
from finetune.run.pretraining import pretrain
from finetune.run.training_run import TrainingRun

# All that is random is switched on: dropout, layer drop, masks, negatives, noise of codes, speed, noise.
SECTIONS = {
    "model": {"dropout": 0.1, "layer_drop": 0.2},
    "augmentation": {"speed": [0.9, 1.1], "noise_snr_db": [5, 20]},
    "pretraining": {"mask_length": 4, "num_negatives": 20, "temperature_decay": 0.99},
    "training": {"max_steps": 40, "eval_steps": 10, "log_steps": 3, "learning_rate": 3e-3, "num_workers": 1},
}
OF_THE_MACHINE = {"step_seconds", "audio_seconds_per_second", "memory_gib"}


@pytest.fixture(scope="module")
def speech(corpus_folder, tmp_path_factory):
    """The tones without transcripts: a table of files and speakers."""
    folder = shutil.copytree(corpus_folder / "train", tmp_path_factory.mktemp("speech") / "speech")
    rows = (folder / "metadata.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    (folder / "metadata.csv").write_text("".join(f"{name},{speaker}\n" for name, _, speaker in cells))
    return folder


@pytest.fixture(scope="module")
def recipe_of(write_recipe, speech):
    """`recipe_of(folder, training={…})` writes a recipe of pre-training on the tones."""

    def write(folder: Path, **sections) -> Path:
        merged = {name: {**SECTIONS.get(name, {}), **sections.get(name, {})} for name in {*SECTIONS, *sections}}
        folder.mkdir(exist_ok=True)
        return write_recipe(folder, data={"root": str(speech), "validation_fraction": 0.3}, **merged)

    return write


@pytest.fixture(scope="module")
def whole(recipe_of, tmp_path_factory):
    """The uninterrupted run, which tests do not change."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["pretrain", str(recipe_of(folder)), "--output", str(folder / "run")]) == 0
    return folder / "run"


def lines_of(run, read_lines):
    lines = read_lines(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in OF_THE_MACHINE} for line in lines]


def test_a_run_leaves_a_base_and_a_report(whole, read_lines, tmp_path):
    assert {file.name for file in (whole / "model").iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml"
    }  # fmt: skip
    config = json.loads((whole / "model/config.json").read_text())
    assert config["architectures"] == ["Wav2Vec2ForPreTraining"] and config["mask_time_prob"] == 0.05
    result = json.loads((whole / "report/pretraining.json").read_text())
    assert result["steps"] == 40 and result["codes"] == 640
    lines = lines_of(whole, read_lines)
    last = [line for line in lines if "validation_loss" in line][-1]
    assert result["contrastive_accuracy"] == last["validation_contrastive_accuracy"]
    assert {"contrastive_loss", "contrastive_accuracy", "codebook_perplexity"} <= lines[0].keys()
    page = (whole / "report/index.html").read_text()
    assert "Contrastive accuracy, %" in page and "Codebook perplexity" in page
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (whole / "training_words.txt.gz").exists()


def test_plain_transformers_goes_on_with_the_result(whole):
    from transformers import Wav2Vec2ForPreTraining

    model, loading = Wav2Vec2ForPreTraining.from_pretrained(whole / "model", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert model.config.num_codevectors_per_group == 320


@pytest.mark.slow
def test_a_killed_run_equals_the_uninterrupted_one(recipe_of, whole, read_lines, tmp_path):
    run = tmp_path / "run"
    command = ["pretrain", str(recipe_of(tmp_path)), "--output", str(run)]
    with started([sys.executable, "-m", "finetune", *command]) as program:
        program.wait_for((run / "checkpoints/step-000010").exists)
    assert not (run / "report").exists()
    assert main(command) == 0
    assert lines_of(run, read_lines) == lines_of(whole, read_lines)
    for file in ("model/model.safetensors", "checkpoints/step-000040/optimizer.pt", "rejected.csv"):
        assert (run / file).read_bytes() == (whole / file).read_bytes(), file


class Stop(TrainerCallback):
    """Ends a run at its checkpoint, or asks it to stop when a step is logged."""

    def __init__(self, at: str) -> None:
        self._at = at

    def on_log(self, step, values):
        if self._at == "step":
            signal.raise_signal(signal.SIGINT)

    def on_save(self, step):
        if self._at == "checkpoint":
            raise KeyboardInterrupt


def test_a_run_whose_time_is_over_makes_no_further_step(recipe_of, tmp_path):
    recipe = load_recipe(recipe_of(tmp_path, training={"max_minutes": 1e-4}))
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, tmp_path / "run", Stop("checkpoint"))
    for _ in range(2):  # The second time it is killed before it has written the report.
        assert pretrain(recipe, tmp_path / "run").steps == 1
        shutil.rmtree(tmp_path / "run" / "report")


def test_a_run_that_was_stopped_without_a_validation_makes_one_for_its_result(recipe_of, tmp_path, monkeypatch):
    recipe = load_recipe(recipe_of(tmp_path, training={"max_minutes": 60.0}))
    with pytest.raises(Interrupted):
        pretrain(recipe, tmp_path / "run", Stop("step"))
    monkeypatch.setattr(TrainingRun, "_seconds_trained", lambda _: 3601.0)
    assert pretrain(recipe, tmp_path / "run").steps == 5  # Asked at the log of step 3, it stopped after step 4.


def test_its_result_is_fine_tuned_without_complaint(whole, finetune_run, capsys):
    run = finetune_run("tuned", model={"base": str(whole / "model")})
    said = capsys.readouterr().err
    assert "quantizer" not in said and "project_" not in said and "note: " not in said
    weights, before = load_file(run / "model/model.safetensors"), load_file(whole / "model/model.safetensors")
    name = "wav2vec2.feature_extractor.conv_layers.0.conv.weight"  # Frozen in fine-tuning.
    assert weights[name].equal(before[name])
    assert not any(name.startswith(("quantizer", "project_")) for name in weights)


@pytest.mark.slow
def test_pre_training_goes_on_from_its_own_result_with_the_same_codes(whole, recipe_of, tmp_path, capsys):
    recipe = recipe_of(tmp_path, model={"base": str(whole / "model")}, training={"max_steps": 1, "eval_steps": 1})
    assert main(["pretrain", str(recipe), "training.learning_rate=1e-9", "--output", str(tmp_path / "run")]) == 0
    assert "a new one is made" not in capsys.readouterr().err
    name = "quantizer.weight_proj.weight"
    weights = [load_file(each / "model/model.safetensors")[name] for each in (whole, tmp_path / "run")]
    assert weights[0].allclose(weights[1], atol=1e-5)


@pytest.mark.slow
def test_it_learns_to_tell_frames_apart(recipe_of, read_lines, tmp_path):
    """Without the loss for diversity, which a hundred steps on 24 tones can lower by noise alone."""
    quiet = {"model": {"dropout": 0.0, "layer_drop": 0.0}, "augmentation": {"speed": None, "noise_snr_db": None}}
    training = {"max_steps": 100, "eval_steps": 50, "num_workers": 0}
    recipe = recipe_of(tmp_path, **quiet, pretraining={"diversity_weight": 0.0}, training=training)
    assert main(["pretrain", str(recipe), "--output", str(tmp_path / "r")]) == 0
    validations = [line for line in read_lines(tmp_path / "r/metrics.jsonl") if "validation_loss" in line]
    assert validations[-1]["validation_loss"] < 2.85 < 3.04 == pytest.approx(math.log(21), abs=0.01)
    assert validations[-1]["validation_contrastive_accuracy"] > 5 / 21


def test_what_is_new_and_what_is_left_out_is_said(recipe_of, speech, tmp_path, capsys):
    copy = shutil.copytree(speech, tmp_path / "copy")
    (copy / "03.wav").write_bytes(b"no sound")
    recipe = recipe_of(tmp_path, training={"max_steps": 1, "eval_steps": 1})
    assert main(["pretrain", str(recipe), f"data.root={copy}", "--output", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "has no quantizer: a new one is made from seed 0" in captured.err
    assert "left out of train: 1 × " in captured.err
    assert "03.wav" in (tmp_path / "run/rejected.csv").read_text()
    assert captured.out.startswith("pre-trained 1 steps in ") and "codebook perplexity" in captured.out


@pytest.mark.slow
def test_a_collapse_is_said_while_it_happens(recipe_of, tmp_path, capsys):
    recipe = recipe_of(tmp_path, training={"learning_rate": 1.0, "max_steps": 12, "eval_steps": 12})
    assert main(["pretrain", str(recipe), "pretraining.diversity_weight=0", "--output", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "of 640: the codes have collapsed; raise pretraining.diversity_weight" in captured.err
    assert "the codes have collapsed" in captured.out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.lora={}", "training.keep_best=2"], "model.lora: it has no effect in pre-training"),
        (["model.freeze_feature_encoder=false"], "pretraining.feature_gradient_scale=0 freezes the convolutions"),
        (["training.mask_time_probability=0.2"], "pretraining.mask_probability masks frames"),
        (["text.characters=abc"], "text.characters: it has no effect"),
        (["pretraining.end_temperature=3"], "expected pretraining.end_temperature to be at most"),
        (["pretraining.negatives=3"], "pretraining.negatives: unknown key; did you mean num_negatives"),
        (["training.batch_seconds=auto"], "training.batch_seconds"),
        (["model.base=null", "model.architecture={num_codevector_groups: 3}"], "codevector_dim"),
    ],
)
def test_bad_recipes_get_one_sentence_and_write_nothing(recipe_of, tmp_path, capsys, overrides, words):
    command = ["pretrain", str(recipe_of(tmp_path)), *overrides, "--output", str(tmp_path / "run")]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "check"])
def test_commands_of_fine_tuning_refuse_the_section(recipe_of, tmp_path, capsys, command):
    assert main([command, str(recipe_of(tmp_path))]) == 2
    assert "`finetune pretrain`" in capsys.readouterr().err


@pytest.mark.slow
def test_an_architecture_without_a_base_is_pre_trained(recipe_of, base_folder, tmp_path):
    config = json.loads((base_folder / "config.json").read_text())
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim")
    architecture = {key: config[key] for key in keys} | {"num_conv_pos_embedding_groups": 4}
    recipe = recipe_of(
        tmp_path,
        model={"base": None, "architecture": architecture},
        training={"max_steps": 2, "eval_steps": 2},
    )
    assert main(["pretrain", str(recipe), "--output", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/model/config.json").is_file()


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one_with_two_micro_batches(recipe_of, read_lines, tmp_path):
    sections = {
        "model": {"dropout": 0.0, "layer_drop": 0.0},
        "training": {"batch_seconds": 4, "max_steps": 30, "eval_steps": 15, "log_steps": 1},
    }
    two, recipe = tmp_path / "two", recipe_of(tmp_path, **sections)
    launcher = [sys.executable, str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", 2]
    said = execute([*launcher, "-m", "finetune", "pretrain", recipe, "--output", two], tmp_path)
    assert said.count("pre-trained 30 steps") == 1
    one = tmp_path / "one"
    assert main(["pretrain", str(recipe), "training.accumulation=2", "--output", str(one)]) == 0
    for key in ("loss", "contrastive_accuracy", "codebook_perplexity", "validation_loss", "validation_masked_frames"):
        found = [{line["step"]: line[key] for line in lines_of(run, read_lines) if key in line} for run in (two, one)]
        assert found[0].keys() == found[1].keys() and found[0]
        assert found[0] == pytest.approx(found[1], rel=2e-2 if "accuracy" in key else 2e-3), key
