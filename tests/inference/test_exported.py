"""Exports compute the same as the model, and other files are not loaded as exports."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from transformers import Wav2Vec2Processor

from finetune.errors import UserError
from finetune.inference import exported
from finetune.inference.exported import FILE, write_model
from finetune.inference.onnx_graph import list_operators
from finetune.inference.recogniser import Recogniser
from finetune.models.build import build_model
from finetune.models.configuration import load_config, load_feature_extractor
from finetune.text.vocabulary import PAD, build_tokenizer, build_vocabulary

SECONDS = (0.05, 0.3, 1.0, 2.5)


@pytest.fixture(scope="module", params=["layer norm", "group norm"])
def original(
    request: pytest.FixtureRequest, base_folder: Path, group_norm_base_folder: Path, tmp_path_factory: Any
) -> Path:
    """The folder of a model with a random head."""
    base = str(base_folder if request.param == "layer norm" else group_norm_base_folder)
    config, vocabulary = load_config(base), build_vocabulary("abcd")
    model: Any = build_model(
        config, base, vocabulary=vocabulary, blank=PAD, dropout=0.0, mask_time_probability=0.0, seed=0
    )
    torch.nn.init.normal_(model.lm_head.weight)
    folder: Path = tmp_path_factory.mktemp("original")
    model.save_pretrained(folder)
    Wav2Vec2Processor(load_feature_extractor(base, config), build_tokenizer(vocabulary)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def export(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """`export(int8)` is the folder of an exported model, made once: it takes seconds."""
    folders: dict[bool, Path] = {}

    def write(int8: bool) -> Path:
        if int8 not in folders:
            folders[int8] = tmp_path_factory.mktemp("exported")
            write_model(Recogniser.load(original, "cpu").model, folders[int8], int8=int8)
            for file in original.glob("*.json"):
                (folders[int8] / file.name).write_bytes(file.read_bytes())
        return folders[int8]

    return write


@pytest.mark.long
@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-5), (True, 0.03)])
def test_exported_logits_are_those_of_the_model_for_any_length(
    original: Path, export: Callable[[bool], Path], int8: bool, tolerance: float
) -> None:
    rng = np.random.default_rng(0)
    waveforms = [0.1 * rng.standard_normal(int(16000 * seconds)).astype(np.float32) for seconds in SECONDS]
    expected, num_frames = Recogniser.load(original, "cpu").logits(waveforms)
    logits, frames = Recogniser.load(export(int8), precision="auto").logits(waveforms)
    assert frames == num_frames
    for row, other, count in zip(logits, expected, frames, strict=True):
        difference = (row - other)[:count].norm() / other[:count].norm()
        assert float(difference) < tolerance
        assert not int8 or float(difference) > 1e-5


@pytest.mark.long
def test_only_products_of_weights_are_in_8_bits(export: Callable[[bool], Path]) -> None:
    folder = export(True)
    kinds = [node.op_type for node in onnx.load(folder / FILE).graph.node]
    assert kinds.count("MatMulInteger") == 2 * 6 + 2  # of two layers, the projection of features, and the head
    assert kinds.count("Conv") in (6, 7, 8)
    assert not {"ConvInteger", "QLinearConv"} & set(kinds)
    assert [file.name for file in folder.glob("*.onnx*")] == [FILE]


def _read_weights(file: Path) -> list[np.ndarray]:
    """The weights (inputs, outputs) of all products of integers in an ONNX file."""
    graph = onnx.load(file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [values[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger"]


def _multiply_without_vnni(activations: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The product of u8 (frames, inputs) and s8 (inputs, outputs) as `pmaddubsw` has it: pairs saturate in 16 bits."""
    odd = weight.shape[0] % 2
    a = np.pad(activations.astype(np.int32), ((0, 0), (0, odd)))
    w = np.pad(weight.astype(np.int32), ((0, odd), (0, 0)))
    pairs = a[:, 0::2, None] * w[None, 0::2] + a[:, 1::2, None] * w[None, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(1)  # type: ignore[no-any-return]


@pytest.mark.long
def test_no_product_saturates_on_cpus_without_vnni(export: Callable[[bool], Path], tmp_path: Path) -> None:
    def saturates(file: Path) -> bool:
        weights = _read_weights(file)
        assert len(weights) == 2 * 6 + 2
        assert {weight.dtype for weight in weights} == {np.dtype(np.int8)}
        # The worst that activations can do: all are 255, on the sum of two neighbouring weights.
        worst = max(255 * int(np.abs(w.astype(np.int32)[:-1] + w.astype(np.int32)[1:]).max()) for w in weights)
        rng = np.random.default_rng(0)
        differ = False
        for weight in weights:
            activations = rng.integers(0, 256, (64, weight.shape[0]), dtype=np.uint8)
            exact = activations.astype(np.int32) @ weight.astype(np.int32)
            differ |= not np.array_equal(_multiply_without_vnni(activations, weight), exact)
        assert differ == (worst > 2**15 - 1)
        return differ

    assert not saturates(export(True) / FILE)
    # Weights in 8 bits do.
    quantize_dynamic(export(False) / FILE, tmp_path / FILE, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
    assert saturates(tmp_path / FILE)


def test_weights_in_8_bits_of_an_earlier_version_are_refused_without_vnni(
    original: Path, export: Callable[[bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(export(False), tmp_path, dirs_exist_ok=True)
    quantize_dynamic(export(False) / FILE, tmp_path / FILE, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
    for sets in (["avx2", "avx_vnni"], ["avx2", "avx512_f", "avx512_vnni"], ["neon"]):
        monkeypatch.setattr(exported, "list_instruction_sets", lambda sets=sets: sets)
        assert Recogniser.load(tmp_path).num_symbols == Recogniser.load(original, "cpu").num_symbols
    for sets in ([], ["avx2"], ["avx2", "avx512_f"]):
        monkeypatch.setattr(exported, "list_instruction_sets", lambda sets=sets: sets)
        with pytest.raises(UserError, match=r"was exported by an earlier version, .* export the model again"):
            Recogniser.load(tmp_path)
        for int8 in (False, True):
            assert Recogniser.load(export(int8)).num_symbols == Recogniser.load(original, "cpu").num_symbols


def test_other_onnx_files_are_refused(original: Path, tmp_path: Path) -> None:
    for file in original.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / FILE).write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"model\.onnx can't be loaded: "):
        Recogniser.load(tmp_path)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [value], [other])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / FILE)
    with pytest.raises(UserError, match=r"takes x and gives y: expected a model that finetune export wrote"):
        Recogniser.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((original / "model.safetensors").read_bytes())
    assert (
        Recogniser.load(tmp_path).model.config.architectures
        == json.loads((original / "config.json").read_text())["architectures"]
    )  # Its own weights come before an ONNX file beside them.


def test_export_of_another_vocabulary_or_of_weights_that_are_not_finite_is_refused(
    original: Path, export: Callable[[bool], Path], tmp_path: Path
) -> None:
    other = shutil.copytree(export(False), tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 8}))
    (other / "vocab.json").write_text(json.dumps({"[PAD]": 0, "|": 1, **dict(zip("abcdef", range(2, 8), strict=True))}))
    with pytest.raises(UserError, match=r"gives 7 logits in a frame, all finite, .* vocabulary of 8: expected as many"):
        Recogniser.load(other)
    broken = shutil.copytree(export(False), tmp_path / "broken")
    proto = onnx.load(broken / FILE)
    tensor = max(proto.graph.initializer, key=lambda each: numpy_helper.to_array(each).size)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    onnx.save(proto, broken / FILE)
    with pytest.raises(UserError, match=r"gives 7 logits in a frame, not all finite"):
        Recogniser.load(broken)


@pytest.mark.bf16
def test_a_precision_other_than_that_of_the_export_is_refused(export: Callable[[bool], Path]) -> None:
    with pytest.raises(UserError, match=r"leave out the precision bfloat16"):
        Recogniser.load(export(False), precision="bfloat16")


@pytest.mark.long
def test_a_graph_with_a_loop_is_refused(export: Callable[[bool], Path], tmp_path: Path) -> None:
    """A loop may not end, also in a function or a branch."""
    endless = helper.make_node("Loop", ["", "go", "zero"], ["logits"], body=helper.make_graph([], "body", [], []))
    branch = helper.make_graph([endless], "branch", [], [])
    choice = helper.make_node("If", ["go"], ["logits"], then_branch=branch, else_branch=branch)
    function = helper.make_function("own", "Own", [], [], [endless], [helper.make_opsetid("", 18)])
    for number, (nodes, functions) in enumerate([([endless], []), ([choice], []), ([], [function])]):
        folder = shutil.copytree(export(False), tmp_path / str(number))
        onnx.save(helper.make_model(helper.make_graph(nodes, "graph", [], []), functions=functions), folder / FILE)
        with pytest.raises(UserError, match=r"model\.onnx has loops \(Loop\): expected a model that finetune export"):
            Recogniser.load(folder, "cpu")


@pytest.mark.long
def test_operators_are_those_that_onnx_finds(export: Callable[[bool], Path]) -> None:
    for int8 in (False, True):
        file = export(int8) / FILE
        assert list_operators(file) == {node.op_type for node in onnx.load(file).graph.node}
    damaged = export(False) / FILE
    content = damaged.read_bytes()
    for size in range(1, 400, 7):
        (damaged.parent / "short.onnx").write_bytes(content[:size])
        with contextlib.suppress(ValueError):
            list_operators(damaged.parent / "short.onnx")
