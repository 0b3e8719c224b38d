"""Models that others made: no code of theirs runs, nothing outside is read or written, and nothing is exhausted."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attacks.limited import Outside, run_limited
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

Change = Callable[[Path, Outside], object]


@pytest.fixture
def model(model_folder: Path, tmp_path: Path, outside: Outside) -> Path:
    """A copy of the tiny model in the folder `work`."""
    return shutil.copytree(model_folder, tmp_path / "work" / "model")


def put(name: str, **values: Any) -> Change:
    """Sets keys of a JSON file."""

    def change(folder: Path, _: Outside) -> None:
        file, other = folder / name, folder / "processor_config.json"
        if name == "preprocessor_config.json" and other.is_file():  # Which would be read in its place.
            file.write_text(json.dumps(json.loads(other.read_text())["feature_extractor"]))
            other.unlink()
        held = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**held, **values}))

    return change


def write(name: str, content: str) -> Change:
    def change(folder: Path, _: Outside) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return change


def bring_code(folder: Path, outside: Outside) -> None:
    """Code that leaves a file outside, under each name that a configuration can give."""
    code = f"import pathlib\npathlib.Path({str(outside.folder / 'ran')!r}).touch()\nclass E: pass\n"
    (folder / "evil.py").write_text(code)
    (folder / "attn").mkdir()
    (folder / "attn" / "__init__.py").write_text(code)


def use_kernel(folder: Path, outside: Outside) -> None:
    bring_code(folder, outside)
    put("config.json", _attn_implementation="evil/attn")(folder, outside)


def use_code(name: str, *classes: str) -> Change:
    def change(folder: Path, outside: Outside) -> None:
        bring_code(folder, outside)
        put(name, auto_map=dict.fromkeys(classes, "evil.E"))(folder, outside)

    return change


def shard(name: str) -> Change:
    """Weights that an index places elsewhere."""

    def change(folder: Path, outside: Outside) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(outside.folder.parent / "weights.safetensors")
        place = name.replace("OUTSIDE", str(outside.folder.parent))
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, place)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def name_vocabulary(folder: Path, outside: Outside) -> None:
    secret = outside.folder.parent / "secret.json"
    shutil.copy(folder / "vocab.json", secret)
    (folder / "vocab.json").unlink()
    put("tokenizer_config.json", vocab_file=str(secret))(folder, outside)


def name_language(folder: Path, outside: Outside) -> None:
    """A language whose file of weights is another's."""
    (folder / "adapter...").mkdir()
    tokens = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({"../../../secret": tokens}))
    save_file({"a": torch.zeros(1)}, outside.folder.parent / "secret.safetensors")


def adapt(**values: Any) -> Change:
    """An adapter of LoRA alone, on a copy of the model as its base."""

    def change(folder: Path, _: Outside) -> None:
        base = shutil.copytree(folder, folder.parent / "base")
        (folder / "model.safetensors").unlink()
        usual = {"peft_type": "LORA", "base_model_name_or_path": str(base), "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps({**usual, **values}))
        save_file({"base_model.model.x": torch.zeros(1)}, folder / "adapter_model.safetensors")

    return change


def decode(settings: dict[str, Any], **attributes: Any) -> Change:
    def change(folder: Path, _: Outside) -> None:
        (folder / "language_model").mkdir()
        (folder / "language_model" / "attrs.json").write_text(json.dumps(attributes))
        (folder / "decoder.json").write_text(json.dumps(settings))
        arpa = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1 <unk>\n-1 <s>\n-1 </s>\n-1 ab\n\n\\end\\\n"
        (folder / "language_model" / "lm.arpa").write_text(arpa)

    return change


def be_sparse(folder: Path, _: Outside) -> None:
    """A configuration of ten billion weights, and weights of a few kilobytes."""
    put("config.json", hidden_size=16384, intermediate_size=65536, num_hidden_layers=48)(folder, _)


def make_pipe(name: str) -> Change:
    def change(folder: Path, _: Outside) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def loop(folder: Path, _: Outside) -> None:
    """An exported model that computes for ever."""
    (folder / "model.safetensors").unlink()
    body = [helper.make_node("Identity", [name], [f"{name}2"]) for name in ("go", "value")]
    shapes = {name: helper.make_tensor_value_info(name, kind, []) for name, kind in
              (("i", 7), ("go", 9), ("value", 1), ("go2", 9), ("value2", 1))}  # fmt: skip
    graph = helper.make_graph(
        body, "body", [shapes["i"], shapes["go"], shapes["value"]], [shapes["go2"], shapes["value2"]]
    )
    constants = [helper.make_tensor("t", 9, [], [True]), helper.make_tensor("zero", 1, [], [0.0])]
    constants += [helper.make_tensor("shape", 7, [3], [1, 4, 7])]
    nodes = [
        helper.make_node("Loop", ["", "t", "zero"], ["end"], body=graph),
        helper.make_node("Expand", ["end", "shape"], ["logits"]),
    ]
    _save_onnx(folder, nodes, constants)


def place_onnx_weights(folder: Path, outside: Outside) -> None:
    (folder / "model.safetensors").unlink()
    weights = TensorProto(name="zero", data_type=1, dims=[1, 4, 7], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "../../home/diary.wav"), ("offset", "0"), ("length", "112")):
        weights.external_data.add(key=key, value=value)
    _save_onnx(folder, [helper.make_node("Identity", ["zero"], ["logits"])], [weights])


def _save_onnx(folder: Path, nodes: list[Any], constants: list[Any]) -> None:
    inputs = [helper.make_tensor_value_info("input_values", 1, [1, "samples"])]
    outputs = [helper.make_tensor_value_info("logits", 1, [1, 4, 7])]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())


TRANSCRIBED: dict[str, Change] = {
    "endless ONNX": loop,
    "ONNX weights elsewhere": place_onnx_weights,
    "auto_map of a feature extractor": use_code("preprocessor_config.json", "AutoFeatureExtractor"),
    "auto_map of a tokenizer": use_code("tokenizer_config.json", "AutoTokenizer"),
    "auto_map of a processor": use_code("processor_config.json", "AutoProcessor"),
    "auto_map of a configuration": use_code("config.json", "AutoConfig", "AutoModelForCTC"),
    "auto_map of another repository": put("preprocessor_config.json", auto_map={"AutoFeatureExtractor": "e/c--e.E"}),
    "kernel": use_kernel,
    "kernel of experts": put("config.json", experts_implementation="evil/kernel"),
    "quantisation": put("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "other configuration": put("config.json", configuration_files=["config.../../x.json"]),
    "100,000 layers": put("config.json", num_hidden_layers=100_000),
    "widths of billions": put("config.json", hidden_size=2**33, intermediate_size=2**40),
    "more weights than there are": be_sparse,
    "many labels": put("config.json", num_labels=10**10),
    "list for a width": put("config.json", hidden_size=[1]),
    "object for convolutions": put("config.json", conv_dim={"a": 1}),
    "no stride": put("config.json", conv_stride=[0] * 7),
    "method replaced": put("config.json", to_dict=1),
    "method of the extractor replaced": put("preprocessor_config.json", pad=1),
    "configuration that nests": write("config.json", "[" * 100_000),
    "vocabulary that nests": write("vocab.json", '{"a":' * 100_000),
    "steps that nest": write("text_normalization.json", '{"steps":' + "[" * 100_000),
    "NaN": write("config.json", '{"model_type": "wav2vec2", "layer_norm_eps": NaN}'),
    "list for a configuration": write("config.json", "[1]"),
    "large file": write("config.json", " " * 200_000_000),
    "pipe": make_pipe("config.json"),
    "rate of 0": put("preprocessor_config.json", sampling_rate=0),
    "rate below 0": put("preprocessor_config.json", sampling_rate=-1),
    "rate of a terahertz": put("preprocessor_config.json", sampling_rate=10**12),
    "wide features": put("preprocessor_config.json", feature_size=10**9),
    "ids of a vocabulary": put("vocab.json", a=10**15),
    "ids that are text": put("vocab.json", a="1"),
    "weights elsewhere": shard("../../weights.safetensors"),
    "weights at an absolute path": shard("OUTSIDE/weights.safetensors"),
    "vocabulary elsewhere": name_vocabulary,
    "language elsewhere": name_language,
    "adapter of a huge rank": adapt(r=10**9),
    "adapter that loads a module": adapt(megatron_config={"a": 1}, megatron_core="evil"),
    "adapter with an endless expression": adapt(target_modules="(.+)+!"),
    "adapter with a foreign class": adapt(auto_mapping={"parent_library": "evil", "base_model_class": "E"}),
    "adapter of itself": adapt(base_model_name_or_path="model"),
    "adapter of a list": adapt(base_model_name_or_path=["model"]),
    "wide beam": decode({"beam_width": 10**12}),
    "beam of text": decode({"beam_width": "wide"}),
    "hotwords in a list": decode({"hotwords": ["ab"]}),
    "weights of text": decode({}, alpha="much"),
    "weights beyond numbers": decode({}, alpha=1e308, beta=-1e308),
    "doubling": put("text_normalization.json", steps=[{"replace": ["^(.*)$", r"\1\1"]}] * 40),
    "steps of text": put("text_normalization.json", steps="nfc"),
    "lengths of text": put("utterance_lengths.json", mean_seconds="long", longest_seconds=6.4),
    "lengths beyond numbers": put("utterance_lengths.json", mean_seconds=1e-320, longest_seconds=1e308),
    "preprocessing for ever": put("audio_preprocessing.json", steps=[{"peak": 0}] * 1_000_000),
}


@pytest.mark.parametrize("name", TRANSCRIBED)
def test_transcribing_with_a_foreign_model(name: str, model: Path, outside: Outside, tmp_path: Path) -> None:
    TRANSCRIBED[name](model, outside)
    work = tmp_path / "work"
    shutil.copy(outside.audio, tmp_path / "speech.wav")
    answer = b"y\n" * 100
    said = run_limited("transcribe", "model", tmp_path / "speech.wav", cwd=work, stdin=answer).require_clean()
    assert said.startswith("finetune: ") and said.count("\n") == 1, said
    outside.require_untouched(work)


@pytest.mark.parametrize(
    "name", ["auto_map of a tokenizer", "kernel", "100,000 layers", "weights elsewhere", "rate of 0"]
)
def test_training_on_a_foreign_base(
    name: str, model: Path, outside: Outside, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    TRANSCRIBED[name](model, outside)
    work = tmp_path / "work"
    recipe = write_recipe(work, model={"base": str(model)})
    said = run_limited("train", recipe, "--output", "run", cwd=work, stdin=b"y\n" * 100).require_clean()
    assert said.count("finetune: ") == 1
    outside.require_untouched(work)


def test_an_endless_normalisation_ends(model: Path, outside: Outside, corpus_folder: Path, tmp_path: Path) -> None:
    text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    data = shutil.copytree(corpus_folder / "test", tmp_path / "data")
    lines = (data / "metadata.csv").read_text().splitlines()
    first, *others = [line.split(",") for line in lines]
    (data / "metadata.csv").write_text(
        "\n".join(",".join(line) for line in [first, *([a, text, c] for a, _, c in others)])
    )
    put("text_normalization.json", steps=[{"replace": ["^(([a-z])+ ?)+$!", "x"]}])(model, outside)
    said = run_limited("evaluate", "model", "--data", data, cwd=tmp_path / "work").require_clean()
    assert "takes longer than 5 s for a text of 44 characters" in said


@pytest.mark.parametrize("name", ["README.md", "vocab.json", "language_model/unigrams.txt", "language_model"])
def test_a_push_sends_nothing_from_outside(name: str, model: Path, outside: Outside, tmp_path: Path) -> None:
    file = model / name
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    file.symlink_to(outside.folder if name == "language_model" else outside.text)
    arguments = ("push", "model", "team/model", "--data", outside.folder, "--dry-run")
    said = run_limited(*arguments, cwd=tmp_path / "work", HF_ENDPOINT="http://127.0.0.1:9").require_clean()
    assert "is a link to a file outside of the model's folder" in said or "can't be read" in said


def test_a_good_model_is_loaded_within_the_limits(model: Path, outside: Outside, tmp_path: Path) -> None:
    run_limited("transcribe", "model", outside.audio, "--output", "texts", cwd=tmp_path / "work").require_clean(0)
    assert (tmp_path / "work" / "texts" / "diary.txt").is_file()
