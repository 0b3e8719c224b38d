"""The table of bases in the manual: for each architecture, what it says works, and what is refused for a reason."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import SAMPLING_RATE, WORDS, speak
from hub import Hub
from relatives import ADAPTED, CHOSEN, PUBLISHED, write_relative
from safetensors.numpy import load_file, save_file
from transformers import pipeline

from finetune.cli import main
from finetune.inference.recogniser import Recogniser
from finetune.models.relatives import RELATIVES

PAGE = Path(__file__).parents[2] / "scripts/docs/get_started/choose_base.md"
TRAINING = {
    **{"max_steps": 4, "mask_time_probability": 0.2, "mask_feature_probability": 0.1, "learning_rate": 3e-3},
    "right_context_seconds": [0.1, 0.5],
}
COLUMNS = ("training", "LoRA", "layer drop", "long recordings", "live", "language model", "ONNX", "push")
WORKS = "yes"


def read_table() -> dict[str, dict[str, str]]:
    """The cells of the table by model_type and column."""
    text = PAGE.read_text(encoding="utf-8")
    lines = text.partition("<!-- relatives -->\n")[2].partition("<!-- end -->")[0].strip().splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    found = [dict(zip(header, row, strict=True)) for row in rows]
    return {row["`model_type`"].strip("`"): row for row in found}


# The others take minutes.
_QUICK = ("wavlm", "sew")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, id=name if name == ADAPTED else kind, marks=() if kind in _QUICK else pytest.mark.slow)
        for kind, name in [*CHOSEN.items(), (PUBLISHED[ADAPTED][0], ADAPTED)]
    ],
)
def published(request: pytest.FixtureRequest) -> str:
    """A published checkpoint of each architecture."""
    return str(request.param)


@pytest.fixture(scope="module")
def kind(published: str) -> str:
    """Its architecture."""
    return PUBLISHED[published][0]


@pytest.fixture(scope="module")
def base(published: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a base of this architecture."""
    return write_relative(tmp_path_factory.mktemp("base"), published)


@pytest.fixture(scope="module")
def run(base: str, finetune_run_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps."""
    return finetune_run_in(tmp_path_factory.mktemp("run"), "run", model={"base": base}, training=TRAINING)


@pytest.fixture(scope="module")
def model(run: Path, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the run with a random head, which writes another letter in each frame."""
    folder = shutil.copytree(run / "model", tmp_path_factory.mktemp("nonsense") / "model")
    weights = load_file(folder / "model.safetensors")
    head = weights["lm_head.weight"]
    rng = np.random.default_rng(1 if kind == "sew" else 0)  # The other one writes few letters with this encoder.
    weights["lm_head.weight"] = rng.standard_normal(head.shape).astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech of about a minute, longer than a window."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(file, np.concatenate([speak(" ".join(rng.choice(WORDS, 3)), rng) for _ in range(45)]), 16000)
    return file


@pytest.fixture
def says(kind: str) -> Callable[[str], bool]:
    """Whether the manual says that this works; it says yes or why not."""
    row = read_table()[kind]
    return lambda column: row[column] == WORKS


def recordings(corpus: Path) -> Iterator[np.ndarray]:
    for file in sorted((corpus / "test").glob("*.wav")):
        yield soundfile.read(file, dtype="float32")[0]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[Any], reason: str) -> None:
    """The command ends with exit code 2 and one sentence."""
    capsys.readouterr()
    assert main([str(each) for each in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert re.search(reason, lines[-1]), lines


def test_the_manual_has_each_architecture_and_column() -> None:
    table = read_table()
    assert table.keys() == RELATIVES.keys()
    assert all(row[column] for row in table.values() for column in COLUMNS)
    assert all(table["wav2vec2"][column] == WORKS for column in COLUMNS)


def test_it_trains_and_resumes_bit_equally(
    says: Callable[[str], bool], kind: str, base: str, run: Path, finetune_run: Any, interrupt_run: Any
) -> None:
    assert says("training")
    sections = {"model": {"base": base}, "training": TRAINING}
    interrupt_run("resumed", 3, **sections)
    resumed = finetune_run("resumed", **sections)
    for name in ("model/model.safetensors", "report/utterances.jsonl"):
        assert (resumed / name).read_bytes() == (run / name).read_bytes()
    before, after = load_file(Path(base) / "model.safetensors"), load_file(run / "model/model.safetensors")
    moved = [name for name in after if not np.array_equal(after[name], before.get(name.partition(".")[2], 0))]
    assert len(moved) > (10 if RELATIVES[kind].baseline else 20)
    assert not any("running_" in name or "num_batches" in name for name in moved)


def test_batches_and_plain_transformers_give_the_same_texts(model: Path, corpus_folder: Path) -> None:
    waveforms = list(recordings(corpus_folder))
    recogniser = Recogniser.load(model, "cpu")
    texts = recogniser.recognise(waveforms)
    assert texts == [recogniser.recognise([each])[0] for each in waveforms]
    padded = recogniser.feature_extractor(
        waveforms, sampling_rate=SAMPLING_RATE, padding=True, return_attention_mask=True, return_tensors="pt"
    )
    with torch.no_grad():  # As on a GPU, where a batch is padded.
        logits = recogniser.model(**padded).logits
    alone, num_frames = recogniser.logits(waveforms)
    for row, frames in enumerate(num_frames):
        error = (logits[row, :frames] - alone[row, :frames]).norm() / alone[row, :frames].norm()
        assert error < 2e-5
    recognise = pipeline("automatic-speech-recognition", model=str(model))  # The baselines are registered by now.
    plain = [recognise({"raw": each, "sampling_rate": SAMPLING_RATE})["text"] for each in waveforms]
    assert [" ".join(text.split()) for text in plain] == texts
    assert len(set(texts)) > len(texts) // 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (CHOSEN["wav2vec2-conformer"], "a wav2vec2-conformer model encodes utterances one by one"),
        (CHOSEN["finetune_lstm"], "a finetune_lstm model is small enough for each process"),
        (ADAPTED, "its layers of add_adapter compute utterances one by one"),
    ],
)
def test_shards_of_some_architectures_are_refused(
    name: str, reason: str, write_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("finetune.run.components.is_sharded", lambda accelerator: True)
    recipe = write_recipe(tmp_path, model={"base": write_relative(tmp_path / "base", name)})
    refused(capsys, ["train", recipe, "--output", tmp_path / "run"], reason)


@pytest.mark.slow
def test_layer_drop_and_lora(
    says: Callable[[str], bool], kind: str, base: str, write_recipe: Any, tmp_path: Path, capsys: Any
) -> None:
    for column, option in (("layer drop", {"layer_drop": 0.5}), ("LoRA", {"lora": {"rank": 2, "save": "adapter"}})):
        recipe = write_recipe(tmp_path, model={"base": base, **option}, training={"max_steps": 2})
        command = ["train", recipe, "--output", tmp_path / column]
        if not says(column):
            refused(capsys, command, f"model.l.*{kind} model")
            continue
        assert main([str(each) for each in command]) == 0
    if says("LoRA"):
        recogniser, alone = (Recogniser.load(tmp_path / "LoRA" / each, "cpu") for each in ("model", "adapter"))
        waveform = np.zeros(16000, np.float32)
        assert torch.allclose(recogniser.logits([waveform])[0], alone.logits([waveform])[0], atol=1e-5)


@pytest.mark.slow
def test_long_and_live_recordings_and_a_language_model(
    says: Callable[[str], bool], model: Path, talk: Path, tmp_path: Path, capsys: Any
) -> None:
    assert says("long recordings") and says("live") and says("language model")
    (tmp_path / "text").write_text("\n".join(WORDS))
    assert main(["lm", "build", str(tmp_path / "text"), "--order", "2", "-o", str(tmp_path / "lm")]) == 0
    outputs = []
    for arguments in (["transcribe", model, talk], ["transcribe", model, talk, "--language-model", tmp_path / "lm"]):
        capsys.readouterr()
        assert main([str(each) for each in arguments]) == 0
        outputs.append(capsys.readouterr().out.strip())
    assert len(outputs[0]) > 200  # Letters of nonsense, in words of any length.
    assert outputs[1] and outputs[1] != outputs[0]
    capsys.readouterr()
    assert main(["live", str(model), str(talk), "--format", "json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(len(event["text"]) for event in events if event["type"] == "final") > 200


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "onnx-int8"])
def test_it_is_exported(
    says: Callable[[str], bool], kind: str, model: Path, corpus_folder: Path, tmp_path: Path, capsys: Any, form: str
) -> None:
    command = ["export", model, "--format", form, "-o", tmp_path / "new", "--data", corpus_folder, "--tolerance", "50"]
    if not says("ONNX"):
        refused(capsys, command, f"A {kind} model can't be exported: its ONNX graph")
        assert not (tmp_path / "new").exists()
        return
    assert main([str(each) for each in command]) == 0
    waveforms = [*recordings(corpus_folder), np.zeros(800, np.float32)]
    ours, exported = (Recogniser.load(folder, "cpu").logits(waveforms)[0] for folder in (model, tmp_path / "new"))
    assert ours.shape == exported.shape
    error = (ours - exported).norm() / ours.norm()
    assert error < (1e-4 if form == "onnx" else 0.1)


@pytest.mark.slow
def test_it_is_pushed(
    says: Callable[[str], bool], kind: str, run: Path, writable_hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says("push")
    assert main(["push", str(run), f"team/{kind}"]) == 0
    repository = writable_hub.find(f"team/{kind}")
    assert repository
    files = repository.read(repository.branches["main"])
    assert {"config.json", "model.safetensors", "README.md"} <= files.keys()
    assert f"- {kind}\n" in files["README.md"].place.read_text()
