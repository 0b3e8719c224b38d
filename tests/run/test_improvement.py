"""Learning from corrections, for real: the tiny model learns new tones, and the gate judges it."""

import csv
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.errors import UserError
from finetune.recipe.load import load_recipe
from finetune.run import improvement
from finetune.run.candidate import build_candidate_recipe, read_speech
from finetune.run.gate import GateLimits
from finetune.run.improvement import ImproveOptions, Version, improve, read_improvement, read_version
from finetune.run.preparation import prepare

pytestmark = pytest.mark.long

# The tiny models take milliseconds, of which ratios are chance; their test sets are small.
LIMITS = GateLimits(max_slowdown=5, margin=0.25)
OPTIONS = ImproveOptions(replay_share=0.6, limits=LIMITS)
SHORT = replace(OPTIONS, shares=(0.5, 1.0))


@pytest.fixture(scope="module")
def snapshot(write_snapshot, tmp_path_factory):
    """24 training, 12 validation and 24 test utterances of the new tones."""
    return write_snapshot(tmp_path_factory.mktemp("snapshot") / "snapshot")


@pytest.fixture(scope="module")
def improved(champion, snapshot, improve_recipe, tmp_path_factory):
    """An improvement that passed, in a folder that no test changes."""
    output = tmp_path_factory.mktemp("improved") / "output"
    return improve(champion, snapshot, improve_recipe(), output, OPTIONS), output


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def test_a_real_improvement_passes(improved, champion):
    found, output = improved
    assert found.passed, found.refusals
    assert [check.name for check in found.checks] == [
        "golden set no worse", "corrections better", "texts belong to the recordings", "parity with Transformers",
        "size", "speed",
    ]  # fmt: skip
    assert found.corrections.after < found.corrections.before - 0.3
    assert [each.name for each in found.domains] == ["phone0", "phone1"]
    assert {each.name for each in output.iterdir()} == {
        "averaging.json", "gate.json", "model", "plan.json", "report.html", "training",
    }  # fmt: skip
    before, candidate, after = map(weights_of, (champion, output / "training" / "model", output / "model"))
    for name, weight in after.items():
        assert torch.allclose(weight, torch.lerp(before[name], candidate[name], found.share), atol=1e-6)
    card = (output / "model" / "README.md").read_text()
    assert f"{100 * found.golden.after:.1f}" in card and f"{100 * found.corrections.after:.1f}" in card


def test_the_report_and_the_verdict_say_the_same(improved):
    found, output = improved
    assert read_improvement(output) == found
    page = (output / "report.html").read_text()
    assert "passed</h1>" in page and "<del>refused</del>" not in page
    assert found.golden.name in page and "phone1" in page
    version = read_version("May", output)
    assert version == Version("May", {each.name: each.after for each in (found.golden, *found.domains)})
    with_history = improvement.build_improvement_report("x", found, (version, Version("June", {"gone": 0.5})))
    assert "<td>May</td>" in with_history and "gone" in with_history and "unknown" in with_history


def test_shuffled_texts_are_refused(champion, write_snapshot, improve_recipe, tmp_path):
    poisoned = write_snapshot(tmp_path / "snapshot", shuffled=True)
    found = improve(champion, poisoned, improve_recipe(), tmp_path / "output", SHORT)
    assert not found.passed
    assert any(reason.startswith("corrections better: WER") for reason in found.refusals)
    assert "refused</h1>" in (tmp_path / "output" / "report.html").read_text()


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_batches_have_the_share_of_old_utterances(share, champion, snapshot, improve_recipe):
    recipe = improve_recipe()
    speech = read_speech(recipe, champion, snapshot)
    prepared = prepare(build_candidate_recipe(recipe, champion, snapshot, speech, share))
    epochs = 40
    batches = itertools.takewhile(lambda batch: batch[0][0] < epochs, prepared.order(5, seed=0))
    heard = [prepared.train.utterances[index].source for batch in batches for _, index, _ in batch]
    assert heard.count(str(snapshot)) == epochs * len(speech.new.train.utterances)
    assert 1 - heard.count(str(snapshot)) / len(heard) == pytest.approx(share, abs=0.01)


def test_without_replay_no_old_utterance_is_heard(champion, snapshot, improve_recipe):
    recipe = improve_recipe()
    speech = read_speech(recipe, champion, snapshot)
    prepared = prepare(build_candidate_recipe(recipe, champion, snapshot, speech, 0))
    assert {each.source for each in prepared.train.utterances} == {str(snapshot)}
    assert prepared.vocabulary == json.loads((champion / "vocab.json").read_text())
    assert None not in prepared.head_rows


def test_the_share_is_chosen_on_validation_only(improved, champion, snapshot, improve_recipe, tmp_path):
    """With other texts in the test split the same share is chosen, and the gate refuses."""
    found, output = improved
    other = shutil.copytree(snapshot, tmp_path / "snapshot")
    with (other / "test" / "metadata.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    with (other / "test" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([row[0], "dab dab dab", *row[2:]] for row in rows[1:])])
    again = improve(champion, other, improve_recipe(), tmp_path / "output", OPTIONS)
    assert (again.share, again.averaging) == (found.share, found.averaging)
    assert again.corrections.after > found.corrections.after
    assert (tmp_path / "output/model/model.safetensors").read_bytes() == (
        output / "model/model.safetensors"
    ).read_bytes()


@pytest.fixture(scope="module")
def whole(champion, snapshot, improve_recipe, tmp_path_factory):
    """A short improvement that nothing interrupted."""
    return improve(champion, snapshot, improve_recipe(20), tmp_path_factory.mktemp("whole") / "output", SHORT)


@pytest.mark.parametrize(
    "stage",
    [
        "_write_model",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("run", "_average", "_judge")),
        pytest.param("build_improvement_report", marks=pytest.mark.slow),
    ],
)
def test_what_was_interrupted_before_a_stage_ends_the_same(stage, champion, snapshot, improve_recipe, whole, tmp_path):
    recipe, output = improve_recipe(20), tmp_path / "output"
    with pytest.MonkeyPatch.context() as patched:

        def fail(*_):
            raise KeyboardInterrupt

        patched.setattr(improvement, stage, fail)
        with pytest.raises(KeyboardInterrupt):
            improve(champion, snapshot, recipe, output, SHORT)
    assert not (output / "gate.json").exists()
    assert_same(improve(champion, snapshot, recipe, output, SHORT), whole)


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_the_same(champion, snapshot, improve_recipe, tmp_path):
    recipe, output = improve_recipe(60, training={"log_steps": 5, "eval_steps": 10}), tmp_path / "output"
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    program = (
        "import sys\nfrom pathlib import Path\nfrom finetune.recipe.load import load_recipe\n"
        "from finetune.run.gate import GateLimits\nfrom finetune.run.improvement import ImproveOptions, improve\n"
        "champion, snapshot, recipe, output = map(Path, sys.argv[1:])\n"
        "limits = GateLimits(max_slowdown=5, margin=0.25)\n"
        "options = ImproveOptions(replay_share=0.6, shares=(0.5, 1.0), limits=limits)\n"
        "improve(champion, snapshot, load_recipe(recipe), output, options)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, champion, snapshot, tmp_path / "recipe.yaml", output]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list((output / "training" / "checkpoints").glob("step-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (output / "training" / "report").exists()
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert_same(
        improve(champion, snapshot, recipe, output, SHORT),
        improve(champion, snapshot, recipe, tmp_path / "whole", SHORT),
    )


def assert_same(found, whole) -> None:
    """All but the times."""
    assert [replace(check, found="") for check in found.checks] == [replace(check, found="") for check in whole.checks]
    assert replace(found, checks=(), model=whole.model) == replace(whole, checks=())
    before, after = weights_of(found.model), weights_of(whole.model)
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_the_language_model_is_copied_and_tuned_again(champion, snapshot, old_data, improve_recipe, tmp_path):
    from finetune.cli import main

    with_model = shutil.copytree(champion, tmp_path / "champion")
    (tmp_path / "text").write_text("ab cab\nbad dad\nadd dab\nab bad add\n")
    language_model = str(tmp_path / "lm")
    assert main(["lm", "build", str(tmp_path / "text"), "--order", "2", "-o", language_model]) == 0
    tune = ["lm", "tune", str(with_model), language_model, "--data", str(old_data), "--beam-width", "20"]
    assert main([*tune, "--hotword", "dad=2"]) == 0
    found = improve(with_model, snapshot, improve_recipe(40), tmp_path / "output", SHORT)
    settings = json.loads((found.model / "decoder.json").read_text())
    assert settings["hotwords"] == {"dad": 2.0}
    assert settings["tuned"]["utterances"] == 24  # Both validation splits.
    before, after = (folder / "language_model" / "lm.arpa" for folder in (with_model, found.model))
    assert before.read_bytes() == after.read_bytes()
    assert next(check for check in found.checks if check.name.startswith("parity")).passed


def test_lora_is_merged_before_averaging(champion, snapshot, improve_recipe, tmp_path):
    recipe = improve_recipe(10, model={"freeze_feature_encoder": True, "lora": {"rank": 2}})
    found = improve(champion, snapshot, recipe, tmp_path / "output", SHORT)
    assert weights_of(found.model).keys() == weights_of(champion).keys()


def test_a_missing_test_split_of_the_snapshot_is_a_refusal(champion, write_snapshot, improve_recipe, tmp_path):
    small = write_snapshot(tmp_path / "snapshot", counts=(24, 12, 0))
    found = improve(champion, small, improve_recipe(4), tmp_path / "output", SHORT)
    assert not found.passed
    assert any("too few utterances: 0 utterances" in reason for reason in found.refusals)
    assert len(found.checks) == 6


def test_what_cannot_be_used_is_one_sentence(
    champion, snapshot, improve_recipe, write_snapshot, improved, corpus_folder, tmp_path
):
    without = write_snapshot(tmp_path / "snapshot", counts=(24, 0, 12))
    held = improve_recipe(data={"root": str(corpus_folder / "train")})
    other = improve_recipe(model={"language_adapter": "deu", "freeze_feature_encoder": True})
    recipe, new = improve_recipe(), tmp_path / "new"
    for arguments, sentence in (
        ((tmp_path, snapshot, recipe, new), "has no model.safetensors"),
        ((champion, without, recipe, new), "has no validation split"),
        ((champion, snapshot, held, tmp_path / "held"), "have no test split"),
        ((champion, snapshot, other, new), "language_adapter can't be improved"),
        ((champion, snapshot, improve_recipe(5), improved[1]), "another recipe"),
        ((champion, snapshot, recipe, champion), "holds other files"),
        ((champion, snapshot, recipe, new, ImproveOptions(replay_share=1)), "share of replay is 1"),
        ((champion, snapshot, recipe, new, ImproveOptions(shares=(0.0,))), "above 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            improve(*arguments)
        shutil.rmtree(new, ignore_errors=True)
