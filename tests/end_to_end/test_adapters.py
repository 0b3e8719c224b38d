"""Runs that train a few weights: LoRA, merged or saved as an adapter, and one language's adapters of an MMS model."""

import json
import shutil
import sys
import warnings

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoProcessor, Wav2Vec2ForCTC, pipeline

from finetune.cli import main
from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser
from finetune.publishing.parity import require_parity

LORA = {"rank": 4, "alpha": 8, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "save": "adapter"}
# Enough to move weights by more than rounding.
TRAINING = {"max_steps": 6, "eval_steps": 3, "learning_rate": 1e-2, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def lora_run(finetune_run_in, tmp_path_factory):
    """A finished run of six steps with LoRA, with the adapter saved too; tests do not change it."""
    return finetune_run_in(tmp_path_factory.mktemp("lora"), "lora", model={"lora": LORA}, training=TRAINING)


@pytest.fixture
def run_language(finetune_run, mms_base_folder):
    """`run_language("deu", vocabulary="base")` runs six steps of one language's adapters."""

    def train(language, name="mms", **text):
        model = {"base": str(mms_base_folder), "language_adapter": language}
        return finetune_run(name, model=model, text=text, training=TRAINING)

    return train


def moved(base, model):
    """Names of the weights that both files have and that differ."""
    before, after = (load_file(folder / "model.safetensors") for folder in (base, model))
    before = {name.removeprefix("wav2vec2."): weight for name, weight in before.items()}
    after = {name.removeprefix("wav2vec2."): weight for name, weight in after.items()}
    shapes = {name for name in before if name in after and before[name].shape == after[name].shape}
    return {name for name in shapes if not torch.equal(before[name], after[name])}


def texts(model, files, capsys):
    """The texts of this package and of Transformers alone for each file."""
    ours = []
    for file in files:
        capsys.readouterr()
        assert main(["transcribe", str(model), str(file), "--precision", "float32"]) == 0
        ours += capsys.readouterr().out.splitlines()
    recognise = pipeline("automatic-speech-recognition", model=str(model))
    waveforms = [soundfile.read(file, dtype="float32")[0] for file in files]
    return ours, [recognise({"raw": waveform, "sampling_rate": 16000})["text"] for waveform in waveforms]


def test_lora_changes_only_the_named_projections_and_the_head(lora_run, base_folder):
    projections = {f"encoder.layers.{i}.attention.{name}_proj.weight" for i in (0, 1) for name in "qv"}
    assert moved(base_folder, lora_run / "model") == projections
    head = load_file(lora_run / "model/model.safetensors")["lm_head.bias"]
    assert len(head) == 7 and head.all()  # It began with zeros.


def test_merged_model_is_an_ordinary_one_with_the_texts_of_the_recogniser(
    learned_run, finetune_run, corpus_folder, capsys
):
    model = {"base": str(learned_run / "model"), "lora": LORA}
    run = finetune_run("lora", model=model, text={"vocabulary": "base"}, training={"learning_rate": 1e-3})
    assert json.loads((run / "model/config.json").read_text())["architectures"] == ["Wav2Vec2ForCTC"]
    names = set(load_file(run / "model/model.safetensors"))
    assert names == set(Wav2Vec2ForCTC(AutoConfig.from_pretrained(run / "model")).state_dict())
    files = sorted((corpus_folder / "test").glob("*.wav"))
    ours, theirs = texts(run / "model", files, capsys)
    assert ours == theirs and len(set(ours)) > 1
    said = map(json.loads, (run / "report/utterances.jsonl").read_text().splitlines())
    assert {result["name"]: result["hypothesis"] for result in said} == dict(
        zip([file.name for file in files], ours, strict=True)
    )


def test_adapter_alone_gives_the_merged_models_logits(lora_run, base_folder, corpus_folder, capsys):
    from peft import PeftModel

    folder = lora_run / "adapter"
    assert sum(file.stat().st_size for file in folder.iterdir()) < (lora_run / "model/model.safetensors").stat().st_size
    waveform = torch.from_numpy(soundfile.read(corpus_folder / "test/00.wav", dtype="float32")[0])[None]
    config = AutoConfig.from_pretrained(folder)
    base = Wav2Vec2ForCTC.from_pretrained(base_folder, config=config, ignore_mismatched_sizes=True)
    merged = Wav2Vec2ForCTC.from_pretrained(lora_run / "model").eval()
    untrained = base.eval()(waveform).logits
    adapted = PeftModel.from_pretrained(base, folder).eval()
    assert torch.allclose(adapted(waveform).logits, merged(waveform).logits, atol=1e-5)
    assert not torch.allclose(untrained, merged(waveform).logits, atol=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Notices of one library to the other are not for users.
        loaded = Recogniser.load(str(folder)).model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in merged.state_dict().items())
    scores = [json.loads((lora_run / "report/scores.json").read_text())]
    for model in ("adapter", "model"):
        output = lora_run.parent / f"{model}.json"
        assert main(["evaluate", str(lora_run / model), "--data", str(corpus_folder), "--json", str(output)]) == 0
        scores.append(json.loads(output.read_text()))
        assert scores[-1].pop("model") == str(lora_run / model) and scores[-1].pop("speed")
    assert scores[1] == scores[2]
    assert {key: scores[1][key] for key in scores[0]} == scores[0]


@pytest.mark.long
def test_adapter_alone_passes_the_parity_gate(lora_run, corpus_folder):
    waveform = soundfile.read(corpus_folder / "test/00.wav", dtype="float32")[0]
    (text,) = Recogniser.load(str(lora_run / "adapter"), "cpu").recognise([waveform])
    require_parity(lora_run / "adapter", [("00.wav", waveform, text)])
    with pytest.raises(UserError, match="gives other texts"):
        require_parity(lora_run / "adapter", [("00.wav", waveform, text + "!")])


def test_example_on_the_adapters_card_runs(lora_run, base_folder, corpus_folder, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "published"
    shutil.copytree(lora_run / "adapter", folder)
    speech = corpus_folder / "test/00.wav"
    shutil.copy(speech, folder / "speech.wav")
    card = (folder / "README.md").read_text()
    assert str(base_folder) not in card and "library_name: peft" in card
    code = card.split("```python\n")[1].split("```")[0].replace(f'"{base_folder.name}"', f'"{base_folder}"')
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(code, {})
    said = capsys.readouterr().out
    assert main(["transcribe", str(lora_run / "model"), str(speech), "--precision", "float32"]) == 0
    assert said == capsys.readouterr().out


def test_no_adapter_is_saved_by_default(finetune_run):
    folder = finetune_run("merged", model={"lora": {"rank": 2}}, training={"max_steps": 1})
    assert not [path for path in folder.iterdir() if "adapter" in path.name]


@pytest.mark.parametrize("kind", ["lora", "language"])
def test_resumed_run_equals_the_uninterrupted_one(kind, finetune_run, interrupt_run, mms_base_folder):
    language = {"base": str(mms_base_folder), "language_adapter": "deu"}
    sections = {"model": {"dropout": 0.1, **(language if kind == "language" else {"lora": LORA})}, "training": TRAINING}
    whole = finetune_run("whole", **sections)
    interrupt_run("resumed", 5, **sections)
    resumed = finetune_run("resumed", **sections)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.suffix in (".safetensors", ".pt"))
    assert len(files) == 1 + 2 * 2 + 2  # Best, two checkpoints, and the model with an adapter beside it or in it.
    for file in files:
        assert (resumed / file).read_bytes() == (whole / file).read_bytes(), file


def test_language_adapter_changes_only_adapters_and_head(run_language, mms_base_folder):
    base = load_file(mms_base_folder / "model.safetensors")
    run = run_language("deu", vocabulary="base")
    changed = moved(mms_base_folder, run / "model")
    assert changed == {name.removeprefix("wav2vec2.") for name in base if "adapter_layer" in name}
    before, after = load_file(mms_base_folder / "adapter.deu.safetensors"), load_file(run / "model/model.safetensors")
    # The base's own head: [PAD], |, a, b, c, d, [UNK] are its rows 0, 4, 5 to 8 and 3, and have moved a little.
    rows = before["lm_head.weight"][[0, 4, 5, 6, 7, 8, 3]]
    assert 0 < (after["lm_head.weight"] - rows).abs().max() < 0.1
    adapters = [name for name in before if "adapter_layer" in name]
    assert all(0 < (after[name] - before[name]).abs().max() < 0.1 for name in adapters)


def test_a_language_that_the_base_lacks_starts_from_new_adapters(run_language, mms_base_folder, capsys):
    run = run_language("xyz")
    assert "trained: adapters for xyz (new, for the base has none), and the head" in capsys.readouterr().err
    after = load_file(run / "model/model.safetensors")
    weight = after["wav2vec2.encoder.layers.0.adapter_layer.linear_1.weight"]
    assert weight.abs().max() < 0.2  # The base's have a deviation of a quarter.
    assert sorted(path.name for path in (run / "model").glob("adapter.*")) == ["adapter.xyz.safetensors"]


def test_saved_language_loads_in_each_way_that_transformers_has(run_language, mms_base_folder, corpus_folder, capsys):
    run = run_language("deu")
    files = sorted((corpus_folder / "test").glob("*.wav"))
    ours, theirs = texts(run / "model", files, capsys)
    assert ours == theirs and len(set(ours)) > 1
    processor = AutoProcessor.from_pretrained(run / "model")
    processor.tokenizer.set_target_lang("deu")
    assert len(processor.tokenizer) == 7
    plain = Wav2Vec2ForCTC.from_pretrained(run / "model").state_dict()
    named = Wav2Vec2ForCTC.from_pretrained(run / "model", target_lang="deu").state_dict()
    shutil.copytree(mms_base_folder, run / "base")
    shutil.copy(run / "model/adapter.deu.safetensors", run / "base")
    base = Wav2Vec2ForCTC.from_pretrained(run / "base", target_lang="deu", ignore_mismatched_sizes=True).state_dict()
    for name, weight in plain.items():
        assert torch.equal(weight, named[name]) and torch.equal(weight, base[name]), name


@pytest.mark.long
def test_run_of_a_language_is_a_base_for_the_next(run_language, finetune_run, capsys):
    first = run_language("deu")
    model = {"base": str(first / "model"), "language_adapter": "deu"}
    finetune_run("second", model=model, text={"vocabulary": "extended"}, training={"max_steps": 1})
    assert "trained: adapters for deu (on from the base's), and the head" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "overrides", "words"),
    [
        ("base_folder", ["model.language_adapter=deu"], "has no adapters (its adapter_attn_dim is null)"),
        (
            "mms_base_folder",
            ["model.language_adapter=xyz", "text.vocabulary=base"],
            "has no head for xyz to go on from",
        ),
    ],
)
def test_languages_that_a_base_cannot_learn_are_refused(
    base, overrides, words, request, write_recipe, tmp_path, capsys
):
    recipe = write_recipe(tmp_path, model={"base": str(request.getfixturevalue(base))})
    assert main(["check", str(recipe), *overrides]) == 2
    assert words in capsys.readouterr().err


def test_damaged_language_adapter_is_refused(mms_base_folder, write_recipe, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(mms_base_folder, base)
    recipe = write_recipe(tmp_path, model={"base": str(base), "language_adapter": "deu"})
    whole, file = (base / "model.safetensors").read_bytes(), f"adapter.deu.safetensors of {base}"
    refused = {b"half": f"{file} can't be used: ", whole: f"The weights of {file} don't fit its configuration: "}
    for content, said in refused.items():
        (base / "adapter.deu.safetensors").write_bytes(content)
        assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_peft_the_error_names_the_package_to_install(
    lora_run, write_recipe, corpus_folder, tmp_path, monkeypatch, capsys
):
    recipe = write_recipe(tmp_path, model={"lora": {}})
    assert main(["check", str(recipe)]) == 0
    assert "trained: LoRA of rank 16 beside q_proj, v_proj, and the head" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "peft", None)
    for command in (
        ["check", str(recipe)],
        ["transcribe", str(lora_run / "adapter"), str(corpus_folder / "test/00.wav")],
    ):
        assert main(command) == 2
        assert "needs the package peft: pip install 'finetune[lora]'" in capsys.readouterr().err


def test_adapters_that_cannot_be_used_are_refused(lora_run, corpus_folder, tmp_path, capsys):
    adapter = shutil.copytree(lora_run / "adapter", tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    for change, words in (
        ({"peft_type": "IA3"}, "is an adapter of type IA3; expected LORA that names its base"),
        ({"base_model_name_or_path": None}, "expected LORA that names its base"),
        ({"base_model_name_or_path": "/nowhere/base"}, "/nowhere/base"),
    ):
        file.write_text(json.dumps(config | change))
        assert main(["transcribe", str(adapter), str(corpus_folder / "test/00.wav")]) == 2
        assert words in capsys.readouterr().err
