"""An interrupted run that is resumed equals the uninterrupted one, bit for bit."""

import json
import shutil
import sys

import pytest
from programs import started

from finetune.errors import UserError
from finetune.text.training_words import load_training_words

# All that is random is switched on: dropout, masks, speed, noise, gain; the interruption is inside an epoch.
SECTIONS = {
    "model": {"dropout": 0.2},
    "augmentation": {"speed": [0.9, 1.1], "formant_perturbation": 0.2, "noise_snr_db": [5, 20], "gain_db": [-6, 6]},
    "training": {"max_steps": 10, "eval_steps": 4, "log_steps": 3, "mask_time_probability": 0.2, "learning_rate": 3e-3},
}

OF_THE_MACHINE = {"step_seconds", "audio_seconds_per_second", "memory_gib"}


def losses_and_rates(folder, read_lines):
    lines = read_lines(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in OF_THE_MACHINE} for line in lines]


def assert_same_run(resumed, whole, read_lines):
    """The same lines, files and bytes; only times may differ."""
    assert losses_and_rates(resumed, read_lines) == losses_and_rates(whole, read_lines)
    files = [{str(path.relative_to(run)) for path in run.rglob("*")} for run in (resumed, whole)]
    assert files[0] == files[1]
    compared = {file for file in files[0] if file.endswith((".safetensors", ".pt", "progress.json", ".jsonl", ".csv"))}
    assert len(compared) == 2 + 1 + 2 * 3 + 1 + 1  # Top level, best, two checkpoints, model, report.
    for file in compared - {"metrics.jsonl"}:
        if file.endswith("progress.json"):
            found = [json.loads((run / file).read_text()) for run in (resumed, whole)]
            assert found[0] | {"seconds": 0} == found[1] | {"seconds": 0}
            continue
        assert (resumed / file).read_bytes() == (whole / file).read_bytes(), file


@pytest.fixture(scope="module")
def whole(finetune_run_in, tmp_path_factory):
    """The uninterrupted run, which tests compare with others and do not change."""
    return finetune_run_in(tmp_path_factory.mktemp("whole"), "whole", **SECTIONS)


@pytest.mark.long
@pytest.mark.parametrize(
    "interruptions", [[6], [1], [6, 9]], ids=["after a checkpoint", "before the first checkpoint", "twice"]
)
def test_resumed_run_equals_the_uninterrupted_one(finetune_run, interrupt_run, whole, read_lines, interruptions):
    for step in interruptions:
        interrupt_run("resumed", step, **SECTIONS)
    assert_same_run(finetune_run("resumed", **SECTIONS), whole, read_lines)


def test_resumed_run_starts_from_its_checkpoint(finetune_run, interrupt_run, capsys):
    interrupt_run("run", 6, **SECTIONS)
    capsys.readouterr()
    folder = finetune_run("run", **SECTIONS)
    assert "going on from step 4" in capsys.readouterr().err
    assert json.loads((folder / "checkpoints/step-000010/progress.json").read_text())["step"] == 10


def test_another_recipe_does_not_resume_an_unfinished_run(finetune_run, interrupt_run):
    interrupt_run("run", 6, **SECTIONS)
    with pytest.raises(UserError, match="unfinished run of another recipe"):
        finetune_run("run", training={"max_steps": 11})


def test_killed_run_equals_the_uninterrupted_one(finetune_run, write_recipe, read_lines, tmp_path):
    sections = {**SECTIONS, "training": {**SECTIONS["training"], "max_steps": 60, "eval_steps": 10}}
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "finetune", "train", write_recipe(tmp_path, **sections), "--output", run]
    with started(command) as program:
        program.wait_for((run / "checkpoints/step-000010").exists)
    assert not (run / "report").exists()
    assert_same_run(finetune_run("killed", **sections), finetune_run("whole", **sections), read_lines)


@pytest.mark.long
def test_a_damaged_checkpoint_is_skipped_for_the_one_before_it(
    finetune_run, interrupt_run, whole, read_lines, tmp_path, capsys
):
    interrupt_run("resumed", 9, **SECTIONS)
    file = tmp_path / "resumed" / "checkpoints" / "step-000008" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-100])
    capsys.readouterr()
    assert_same_run(finetune_run("resumed", **SECTIONS), whole, read_lines)
    said = capsys.readouterr().err
    assert "step-000008, where optimizer.pt has changed since it was written: going on from step-000004 instead" in said
    assert "going on from step 4\n" in said


def test_a_run_of_an_earlier_version_is_resumed(finetune_run, interrupt_run, whole, read_lines, tmp_path, capsys):
    interrupt_run("resumed", 6, **SECTIONS)
    checkpoint = tmp_path / "resumed" / "checkpoints" / "step-000004"
    (checkpoint / "manifest.json").unlink()
    progress = json.loads((checkpoint / "progress.json").read_text())
    del progress["data"]
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    recipe = tmp_path / "resumed" / "recipe.yaml"
    written = recipe.read_text()
    assert "formant_perturbation: 0.2" in written
    recipe.write_text(written.replace("formant_perturbation", "vocal_tract"))
    assert_same_run(finetune_run("resumed", **SECTIONS), whole, read_lines)
    assert "step-000004 has no manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize("step", [1, 6], ids=["before the first checkpoint", "after it"])
def test_changed_data_are_refused_unless_allowed(finetune_run, interrupt_run, tmp_path, corpus_folder, capsys, step):
    """The transcripts have other letters, in a vocabulary of the same size."""
    data = {"root": str(shutil.copytree(corpus_folder, tmp_path / "corpus"))}
    interrupt_run("run", step, **SECTIONS, data=data)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    table = tmp_path / "corpus" / "train" / "metadata.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text(
        "\n".join([header, *(row.translate(str.maketrans("abcd", "bcde")) for row in rows)]).replace(".wbv", ".wav")
    )
    with pytest.raises(UserError, match=r"its data have changed since .*data.allow_changes=true") as refused:
        finetune_run("run", **SECTIONS, data=data)
    assert "vocabulary: was [PAD] | a b c d [UNK], is [PAD] | b c d e [UNK]" in str(refused.value)
    assert "training split: 24 utterances" in str(refused.value) and "validation" not in str(refused.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before
    finetune_run("run", **SECTIONS, data={**data, "allow_changes": True})
    assert "note: going on with other data: vocabulary: was" in capsys.readouterr().err
    words = load_training_words(tmp_path / "run" / "model")
    assert words and "ebe" in words and "dad" not in words


@pytest.mark.long
def test_the_best_weights_are_scored_again_on_a_changed_validation_split(
    finetune_run, interrupt_run, tmp_path, corpus_folder, capsys, read_lines
):
    """Otherwise a WER on the old split decides, and nothing that is trained later may be taken."""
    data = {"root": str(shutil.copytree(corpus_folder, tmp_path / "corpus"))}
    sections = {**SECTIONS, "training": {**SECTIONS["training"], "keep_best": 3}}
    interrupt_run("run", 6, **sections, data=data)
    table = tmp_path / "corpus" / "validation" / "metadata.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *(row.replace(",", ",add dab cab ", 1) for row in rows)]))
    resumed = finetune_run("run", **sections, data={**data, "allow_changes": True})
    assert "the weights of step 4 on the data as they are now: validation WER" in capsys.readouterr().err
    whole = finetune_run("whole", **sections, data=data)
    best = [json.loads((run / "checkpoints/step-000010/progress.json").read_text())["best"] for run in (resumed, whole)]
    assert len(best[0]) == 3 and best[0] == best[1]
    logs = [[line for line in read_lines(run / "metrics.jsonl") if "blank_ratio" in line] for run in (resumed, whole)]
    kept = ("step", "validation_wer", "validation_cer", "blank_ratio")  # Plots and verdicts take the best one of these.
    assert [[line[key] for key in kept] for line in logs[0]] == [[line[key] for key in kept] for line in logs[1]]
    assert "earlier_validation_wer" in logs[0][0]
    assert (resumed / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


@pytest.mark.long
def test_a_vocabulary_of_another_size_is_not_to_be_allowed_after_a_checkpoint(
    finetune_run, interrupt_run, tmp_path, corpus_folder
):
    """Its weights fit no other head, so that is not advised; before a checkpoint all data can be allowed."""
    data = {"root": str(shutil.copytree(corpus_folder, tmp_path / "corpus"))}
    for name, step in (("early", 1), ("late", 6)):
        interrupt_run(name, step, **SECTIONS, data=data)
    table = tmp_path / "corpus" / "train" / "metadata.csv"
    table.write_text(table.read_text().replace(",dad", ",ead", 1))
    expected = r"late can't go on: .*a b c d e \[UNK\].*fit .*Put them back, or train with another --output\.$"
    for allow_changes in (False, True):
        with pytest.raises(UserError, match=expected):
            finetune_run("late", **SECTIONS, data={**data, "allow_changes": allow_changes})
    with pytest.raises(UserError, match=r"data\.allow_changes=true\.$"):
        finetune_run("early", **SECTIONS, data=data)
    finetune_run("early", **SECTIONS, data={**data, "allow_changes": True})
