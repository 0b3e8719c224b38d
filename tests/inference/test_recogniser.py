"""The text of an utterance does not depend on its batch."""

import ast
import json
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCTC, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

import finetune
from finetune.audio.waveforms import Waveform
from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser
from finetune.models.build import build_model
from finetune.models.configuration import load_config, load_feature_extractor
from finetune.models.vocabulary import load_base_vocabulary
from finetune.text.vocabulary import PAD, build_tokenizer, build_vocabulary


@pytest.fixture(params=["layer norm", "group norm"])
def saved(request: pytest.FixtureRequest, base_folder: Path, group_norm_base_folder: Path, tmp_path: Path) -> Path:
    """The folder of a model with a random head."""
    base = str(base_folder if request.param == "layer norm" else group_norm_base_folder)
    config, vocabulary = load_config(base), build_vocabulary("abcd")
    model: Any = build_model(
        config, base, vocabulary=vocabulary, blank=PAD, dropout=0.0, mask_time_probability=0.0, seed=0
    )
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(tmp_path)
    extractor = load_feature_extractor(base, config)
    Wav2Vec2Processor(extractor, build_tokenizer(vocabulary)).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def waveforms() -> list[Waveform]:
    """Sixteen of 0.3 s to 2.5 s and different levels, off centre."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(4800, 40000, 16).astype(int).tolist()
    return [(0.01 * (i + 1) * rng.standard_normal(n) + 0.02).astype(np.float32) for i, n in enumerate(lengths)]


def test_pickled_weights_run_no_code(saved: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (saved / "attacked",)

    (saved / "model.safetensors").unlink()
    torch.save({"weight": Attack()}, saved / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has a pytorch_model\.bin that could run code, so it is not read"):
        Recogniser.load(saved)
    assert not (saved / "attacked").exists()


def test_compressed_pickled_weights_are_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save(weights, saved / "whole.bin")
    with zipfile.ZipFile(saved / "whole.bin") as whole, zipfile.ZipFile(saved / "pytorch_model.bin", "w", 8) as small:
        for part in whole.infolist():
            small.writestr(part.filename, whole.read(part), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"pytorch_model\.bin is compressed, expected it as torch\.save writes it"):
        Recogniser.load(saved)
    (saved / "whole.bin").rename(saved / "pytorch_model.bin")
    Recogniser.load(saved, "cpu")


def test_a_models_own_code_is_never_run(saved: Path) -> None:
    (saved / "own.py").write_text(f"import pathlib\npathlib.Path({str(saved / 'ran')!r}).touch()\n")
    classes = {
        "config.json": {"AutoConfig": "own.Config", "AutoModelForCTC": "own.Model"},
        "preprocessor_config.json": {"AutoFeatureExtractor": "own.Extractor", "AutoProcessor": "own.Processor"},
        "processor_config.json": {"AutoProcessor": "own.Processor"},
        "tokenizer_config.json": {"AutoTokenizer": ["own.Tokenizer", None]},
    }
    for name, own in classes.items():
        values = json.loads((saved / name).read_text()) if (saved / name).is_file() else {}
        (saved / name).write_text(json.dumps({**values, "auto_map": own}))
    for name in reversed(classes):
        with pytest.raises(UserError, match=r"brings its own code \(auto_map in .*\), which is never run"):
            Recogniser.load(saved)
        values = json.loads((saved / name).read_text())
        if name == "config.json":
            break
        (saved / name).write_text(json.dumps({key: value for key, value in values.items() if key != "auto_map"}))
    base, usual = str(saved), {"blank": PAD, "dropout": 0.0, "mask_time_probability": 0.0, "seed": 0}
    for load in (
        lambda: load_config(base),
        lambda: load_feature_extractor(base, Wav2Vec2Config()),
        lambda: load_base_vocabulary(base),
        lambda: build_model(Wav2Vec2Config(), base, vocabulary=build_vocabulary("ab"), **usual),
    ):
        with pytest.raises(UserError, match=r"brings its own code \(auto_map in config\.json\), which is never run"):
            load()
    assert not (saved / "ran").exists()


def test_a_batch_of_16_gives_the_logits_and_texts_of_each_alone(saved: Path, waveforms: list[Waveform]) -> None:
    recogniser = Recogniser.load(str(saved), "cpu")
    together, num_frames = recogniser.logits(waveforms)
    alone = [recogniser.logits([waveform]) for waveform in waveforms]
    assert num_frames == [frames for _, (frames,) in alone]
    for row, (logits, (frames,)) in zip(together, alone, strict=True):
        assert logits.shape[1] == frames
        assert torch.allclose(row[:frames], logits[0], atol=1e-3, rtol=0)
    texts = recogniser.recognise(waveforms)
    assert texts == [text for waveform in waveforms for text in recogniser.recognise([waveform])]
    assert len(set(texts)) > 8


def test_plain_transformers_gives_the_same_logits_for_an_utterance_alone(
    saved: Path, waveforms: list[Waveform]
) -> None:
    model: Any = AutoModelForCTC.from_pretrained(saved)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(saved)
    # No mask helps group norm in plain Transformers: its users are told to give none.
    assert extractor.return_attention_mask == (model.config.feat_extract_norm == "layer")
    together, num_frames = Recogniser.load(str(saved), "cpu").logits(waveforms)
    for row, frames, waveform in zip(together, num_frames, waveforms, strict=True):
        with torch.inference_mode():
            expected = model(**extractor(waveform, sampling_rate=16000, return_tensors="pt")).logits[0]
        assert torch.allclose(row[:frames], expected, atol=1e-3, rtol=0)


PRECISIONS = ["float32", pytest.param("bfloat16", marks=pytest.mark.bf16)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_cpu_logits_are_bit_equal_in_any_batch(saved: Path, waveforms: list[Waveform], precision: str) -> None:
    recogniser = Recogniser.load(saved, "cpu", precision)
    together, num_frames = recogniser.logits(waveforms)
    for row, frames, waveform in zip(together, num_frames, waveforms, strict=True):
        alone, _ = recogniser.logits([waveform])
        assert torch.equal(row[:frames], alone[0])


@pytest.mark.bf16
def test_bfloat16_differs_only_by_its_rounding(saved: Path, waveforms: list[Waveform]) -> None:
    exact, rounded = (Recogniser.load(saved, "cpu", precision) for precision in ("float32", "bfloat16"))
    assert {parameter.dtype for parameter in rounded.model.parameters()} == {torch.bfloat16}
    (expected, num_frames), (logits, _) = exact.logits(waveforms), rounded.logits(waveforms)
    assert logits.dtype == torch.float32
    for row, other, frames in zip(logits, expected, num_frames, strict=True):
        difference = (row - other)[:frames]
        assert 0 < float(difference.norm() / other[:frames].norm()) < 0.03


@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_share_a_recogniser(saved: Path, waveforms: list[Waveform], precision: str) -> None:
    recogniser = Recogniser.load(saved, "cpu", precision)
    expected = [recogniser.logits([waveform])[0] for waveform in waveforms]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda waveform: recogniser.logits([waveform])[0], waveforms))
    assert all(map(torch.equal, found, expected))


def test_a_batch_that_does_not_fit_into_memory_is_split(
    saved: Path, waveforms: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser = Recogniser.load(saved, "cpu")
    expected, num_frames = recogniser.logits(waveforms)
    forward, sizes = recogniser.model.forward, []

    def run_out(input_values: torch.Tensor, **others: Any) -> Any:
        """Simulates a GPU with memory for three waveforms."""
        sizes.append(len(input_values))
        if len(input_values) > room:
            raise torch.OutOfMemoryError
        return forward(input_values, **others)

    monkeypatch.setattr(recogniser.model, "forward", run_out)
    room = 3
    rows = recogniser._compute(waveforms)
    assert sizes[:4] == [16, 8, 4, 2]
    for row, other, frames in zip(rows, expected, num_frames, strict=True):
        assert torch.allclose(row[:frames], other[:frames], atol=1e-3, rtol=0)
    room = 0
    with pytest.raises(UserError, match=r"too much for this GPU's memory"):
        recogniser.logits(waveforms[:1])


def test_unknown_precisions_and_devices_are_named(saved: Path) -> None:
    with pytest.raises(UserError, match=r"fp8 is not a precision: expected auto, float32, bf16 or fp16"):
        Recogniser.load(saved, "cpu", "fp8")
    for device in ("gpu", "cuda:99"):
        with pytest.raises(UserError, match=f"{device} can't be used as a device"):
            Recogniser.load(saved, device)


@pytest.mark.gpu
def test_on_a_gpu_the_logits_are_those_of_the_cpu(saved: Path, waveforms: list[Waveform], gpu: str) -> None:
    """In a padded batch, where the CPU computes each waveform alone; without TF32, which rounds to ten bits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found, frames = Recogniser.load(saved, gpu).logits(waveforms)
    expected, num_frames = Recogniser.load(saved, "cpu").logits(waveforms)
    assert frames == num_frames
    for row, other, count in zip(found, expected, num_frames, strict=True):
        assert torch.allclose(row[:count], other[:count], atol=1e-3, rtol=0)


def test_a_configuration_with_values_out_of_range_is_one_error(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    for content in ({**values, "auto_map": None}, [values], {**values, "conv_dim": 5}):
        (saved / "config.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=re.escape(str(saved))):
            Recogniser.load(saved)


def test_no_loading_call_lets_a_model_run_code() -> None:
    """Without `trust_remote_code=False` Transformers asks on standard input; peft's classes load no code."""
    package = Path(finetune.__file__).parent
    calls = [
        (f"{file.relative_to(package)}:{node.lineno}", ast.unparse(node.func), ast.unparse(node))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    loading = [
        (place, call)
        for place, name, call in calls
        if name == "pipeline" or (name.endswith((".from_pretrained", ".from_config")) and not name.startswith("Peft"))
    ]
    assert len(loading) > 9
    assert [place for place, call in loading if "trust_remote_code=False" not in call] == []
