"""A model on a hub, its folder at a revision, is the same to every command as that folder here."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub import COMMIT, OTHER_TOKEN, TOKEN, Hub
from huggingface_hub import CommitOperationAdd, HfApi
from safetensors.torch import load_file, save_file

from finetune.audio.preprocessing import save_preprocessing
from finetune.cli import main
from finetune.inference.recogniser import Recogniser
from finetune.text.transcripts import save_normalization


@pytest.fixture
def model(hub: Hub, model_folder: Path, corpus_folder: Path, tmp_path: Path) -> Path:
    """A folder with all that a model may carry, and on the hub as team/model@v1; its main has other weights."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    weights["lm_head.weight"].normal_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_normalization(folder, ["lowercase", {"replace": ["a", "ab"]}])
    save_preprocessing(folder, [{"peak": -12}])
    with (corpus_folder / "train" / "metadata.csv").open() as file:
        (tmp_path / "text").write_text("".join(row["text"] + "\n" for row in csv.DictReader(file)))
    assert main(["lm", "build", str(tmp_path / "text"), "--order", "2", "-o", str(tmp_path / "lm")]) == 0
    tune = ["lm", "tune", str(folder), str(tmp_path / "lm"), "--data", str(corpus_folder), "--beam-width", "4"]
    assert main(tune) == 0
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo("team/model")
    files = [file for file in folder.rglob("*") if file.is_file()]
    added = [CommitOperationAdd(file.relative_to(folder).as_posix(), file) for file in files]
    api.create_commit("team/model", added, commit_message="whole")
    api.create_tag("team/model", tag="v1")
    weights["lm_head.weight"].neg_()
    save_file(weights, tmp_path / "other.safetensors", metadata={"format": "pt"})
    other = CommitOperationAdd("model.safetensors", tmp_path / "other.safetensors")
    api.create_commit("team/model", [other], commit_message="other weights")
    return folder


def test_every_command_takes_a_name(
    model: Path, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(corpus_folder)]
    file = tmp_path / "scores.json"
    assert main(["evaluate", "team/model@v1", str(model), "team/model", *data, "--json", str(file)]) == 0
    named, here, newest = (_without_speed(each) for each in json.loads(file.read_text()))
    assert named == here
    assert named["decoder"]["language_model"] == "word 2-gram"
    assert any("ab" in result["reference"] for result in named["results"])
    assert newest["results"] != named["results"]

    speech = str(corpus_folder / "test" / "00.wav")
    texts = []
    for name in ("team/model@v1", str(model)):
        capsys.readouterr()
        assert main(["transcribe", name, speech]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]

    assert main(["compare", "team/model@v1", str(model), *data, "--json", str(file)]) == 0
    assert "A: team/model@v1" in capsys.readouterr().out
    built = ["lm", "build", str(tmp_path / "text"), "--model", "team/model@v1", "-o", str(tmp_path / "second")]
    assert main(built) == 0


def _without_speed(scores: dict[str, Any]) -> dict[str, Any]:
    return {key: scores[key] for key in ("decoder", "results", "wer", "cer")}


def test_what_may_not_be_read_is_a_sentence(
    hub: Hub,
    model_folder: Path,
    corpus_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(model_folder, hub.folder / "models" / "team" / "model")
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    commands = [["transcribe", "team/model", str(corpus_folder / "test" / "00.wav")]]
    commands += [["evaluate", "team/model", "--data", str(corpus_folder)]]
    for rights, words in (({"gated": True}, "team/model is gated"), ({"private": True}, "for a private one log in")):
        hub.restrict("team/model", **rights)
        for command in commands:
            assert main(command) == 2
            said = capsys.readouterr().err
            assert words in said and len(said.strip().splitlines()) == 1
            assert OTHER_TOKEN not in said


def test_an_adapter_alone_finds_its_base_at_the_commit_that_it_was_trained_on(
    hub: Hub, base_folder: Path, corpus_folder: Path, finetune_run: Callable[..., Path]
) -> None:
    shutil.copytree(base_folder, hub.folder / "models" / "team" / "base")
    model = {"base": "team/base", "lora": {"rank": 2, "save": "adapter"}}
    run = finetune_run("run", model=model, training={"max_steps": 1, "eval_steps": 1})
    told = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["revision"]) == ("team/base", COMMIT)
    changed = json.dumps({**json.loads((base_folder / "config.json").read_text()), "hidden_size": 64})
    operations = [CommitOperationAdd("config.json", changed.encode())]
    HfApi(endpoint=hub.endpoint, token=TOKEN).create_commit("team/base", operations, commit_message="other size")
    waveform = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    merged, alone = (Recogniser.load(run / name, "cpu").logits([waveform])[0] for name in ("model", "adapter"))
    assert torch.allclose(merged, alone, atol=1e-5)
