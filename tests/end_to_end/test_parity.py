"""`transformers.pipeline` without this package gives the texts that this package gives."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from finetune.cli import main

# Runs where nothing of ours and none of what we need beyond transformers and torch can be found.
PIPELINE = """
import importlib.machinery, json, sys

missing = {"finetune", "accelerate", "datasets", "evaluate", "jiwer", "soundfile", "torchaudio"}

class PathFinder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

builtin = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter)
sys.meta_path[:] = [*builtin, PathFinder]
for name in missing:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} can be imported")

import numpy
from transformers import pipeline

model, audio, output = sys.argv[1:]
recognise = pipeline("automatic-speech-recognition", model=model)
with numpy.load(audio) as waveforms:
    texts = {name: recognise({"raw": waveforms[name], "sampling_rate": 16000})["text"] for name in waveforms}
assert not missing & {name.partition(".")[0] for name in sys.modules}
with open(output, "w") as file:
    json.dump(texts, file)
"""


def texts_of_pipeline(model, files, folder):
    waveforms = {file.name: soundfile.read(file, dtype="float32")[0] for file in files}
    np.savez(folder / "audio.npz", **waveforms)
    command = [sys.executable, "-I", "-c", PIPELINE, model, folder / "audio.npz", folder / "texts.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "texts.json").read_text())


def texts_of_evaluate(model, corpus, folder):
    arguments = ["evaluate", str(model), "--data", str(corpus), "--split", "test"]
    assert main([*arguments, "--json", str(folder / "scores.json")]) == 0
    return {row["name"]: row["raw_hypothesis"] for row in json.loads((folder / "scores.json").read_text())["results"]}


def texts_of_transcribe(model, files, folder, *options):
    arguments = [*options, "--format", "json", "--output", str(folder), "--precision", "float32"]
    assert main(["transcribe", str(model), *map(str, files), *arguments]) == 0
    return {file.name: json.loads((folder / f"{file.stem}.json").read_text())["text"] for file in files}


@pytest.mark.long
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_pipeline_evaluate_and_transcribe_give_the_same_texts(
    norm, learned_run, finetune_run, group_norm_base_folder, corpus_folder, tmp_path
):
    if norm == "layer":
        run = learned_run
    else:  # After one step it says nonsense, but says it.
        run = finetune_run("group", model={"base": str(group_norm_base_folder)}, training={"max_steps": 1})
    files = sorted((corpus_folder / "test").glob("*.wav"))
    expected = texts_of_pipeline(run / "model", files, tmp_path)  # one at a time; ours go through in one batch
    assert len(expected) == 6
    assert len({soundfile.info(file).frames for file in files}) > 1
    assert all(expected.values())
    assert len(set(expected.values())) > 1
    assert texts_of_evaluate(run / "model", corpus_folder, tmp_path) == expected
    assert texts_of_transcribe(run / "model", files, tmp_path / "texts") == expected
    reported = map(json.loads, (run / "report/utterances.jsonl").read_text().splitlines())
    assert {row["name"]: row["raw_hypothesis"] for row in reported} == expected


def test_evaluate_agrees_with_the_report_of_the_run(learned_run, corpus_folder, tmp_path):
    texts_of_evaluate(learned_run / "model", corpus_folder, tmp_path)
    found = json.loads((tmp_path / "scores.json").read_text())
    reported = json.loads((learned_run / "report/scores.json").read_text())
    assert {key: found[key] for key in reported} == reported


@pytest.mark.gpu
def test_transcribing_on_a_gpu_gives_the_texts_of_the_cpu(learned_run, corpus_folder, tmp_path, gpu):
    files = sorted((corpus_folder / "test").glob("*.wav"))
    texts = [
        texts_of_transcribe(learned_run / "model", files, tmp_path / folder, "--device", device)
        for folder, device in (("there", gpu), ("here", "cpu"))
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0].values())) > 1
