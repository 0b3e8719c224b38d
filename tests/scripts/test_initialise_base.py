"""A wav2vec2 made of Whisper's encoder: the weights that are read, the layers that are copied, and what is learned."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from initialise_base import build_student, collect, main
from synthesis import SynthesisError
from torch.nn import functional
from transformers import (
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from whisper_convolutions import Crops, fit_convolutions, hear, normalise, read
from whisper_encoder import WhisperEncoder, explained, read_weights

WIDTH, LAYERS, HEADS, INNER = 32, 2, 4, 64


def write_whisper(path: Path, model: Any) -> None:
    """Write the encoder of a WhisperModel as CTranslate2 does, with half precision."""
    encoder = model.encoder
    arrays: dict[str, Any] = {
        "num_heads": np.int16(HEADS),
        "position_encodings/encodings": encoder.embed_positions.weight,
    }

    def add(name: str, module: Any, gain: str = "weight", offset: str = "bias") -> None:
        arrays[f"{name}/{gain}"], arrays[f"{name}/{offset}"] = module.weight, module.bias

    add("conv1", encoder.conv1)
    add("conv2", encoder.conv2)
    add("layer_norm", encoder.layer_norm, "gamma", "beta")
    for number, layer in enumerate(encoder.layers):
        part, attention = f"layer_{number}/self_attention", layer.self_attn
        add(f"{part}/layer_norm", layer.self_attn_layer_norm, "gamma", "beta")
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        arrays[f"{part}/linear_0/weight"] = torch.cat([query.weight, key.weight, value.weight])
        arrays[f"{part}/linear_0/bias"] = torch.cat([query.bias, torch.zeros(WIDTH), value.bias])
        add(f"{part}/linear_1", attention.out_proj)
        part = f"layer_{number}/ffn"
        add(f"{part}/layer_norm", layer.final_layer_norm, "gamma", "beta")
        add(f"{part}/linear_0", layer.fc1)
        add(f"{part}/linear_1", layer.fc2)
    content = struct.pack("<I", 6) + _text("WhisperSpec") + struct.pack("<II", 3, len(arrays) + 1)
    arrays = {"decoder/anything": np.zeros((2, 3), np.int8), **{f"encoder/{name}": a for name, a in arrays.items()}}
    for name, value in arrays.items():
        array = value.detach().numpy().astype(np.float16) if isinstance(value, torch.Tensor) else np.asarray(value)
        kind = {"int8": 1, "int16": 2, "float16": 4}[array.dtype.name]
        content += _text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        content += struct.pack("<BI", kind, array.nbytes) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content + struct.pack("<I", 0))


def _text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


@pytest.fixture(scope="module")
def whisper() -> Any:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=WIDTH,
        encoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        encoder_ffn_dim=INNER,
        decoder_layers=1,
        decoder_attention_heads=HEADS,
        decoder_ffn_dim=INNER,
    )
    model = WhisperModel(config).eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.copy_(parameter.half())
    return model


@pytest.fixture(scope="module")
def teacher(whisper: Any, tmp_path_factory: pytest.TempPathFactory) -> WhisperEncoder:
    path = tmp_path_factory.mktemp("whisper") / "model.bin"
    write_whisper(path, whisper)
    return WhisperEncoder(read_weights(path))


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of changing tones."""
    folder = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    for number in range(44):
        pitch = np.repeat(generator.uniform(200, 3000, 18), 2000)
        samples = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16000) + 0.01 * generator.normal(size=36000)
        soundfile.write(folder / f"{number}.wav", samples, 16000)
    return folder


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processor of letters, without a model."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "vocab.json").write_text('{"<pad>": 0, "|": 1, "a": 2, "b": 3}')
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", unk_token="<pad>")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def test_the_encoder_computes_what_whisper_does(whisper: Any, teacher: WhisperEncoder) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 30 * 16000).astype(np.float32)
    features = WhisperFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = whisper.encoder(features).last_hidden_state
        found = teacher.layers(teacher.stem(torch.from_numpy(samples)[None]) + teacher.positions)[-1]
    assert (found - expected).abs().max() < 1e-3


@pytest.fixture(scope="module")
def student(teacher: WhisperEncoder, speech: Path, alphabet: Path) -> Any:
    """With all units kept, and nothing trained."""
    tokenizer = Wav2Vec2Processor.from_pretrained(alphabet).tokenizer
    statistics = collect(teacher, sorted(speech.glob("*.wav")), INNER, 0)
    return build_student(teacher, tokenizer, statistics).eval()


def test_layers_compute_what_whisper_does(teacher: WhisperEncoder, student: Any) -> None:
    hidden = torch.randn(1, 30, WIDTH)
    with torch.no_grad():
        expected = teacher.layers(hidden)
        found = hidden
        for layer in student.wav2vec2.encoder.layers:
            found = layer(found)[0]
            found = found if found.ndim == 3 else found[None]
    # The outputs of the feed-forward parts were fitted, so they are near, not equal.
    assert functional.mse_loss(found, expected[-2]) < 0.02 * expected[-2].var()


@pytest.mark.long
def test_convolutions_hear_what_whisper_does_at_the_same_time(
    teacher: WhisperEncoder, student: Any, speech: Path
) -> None:
    paths = sorted(speech.glob("*.wav"))
    torch.manual_seed(0)
    assert fit_convolutions(student, teacher, Crops(paths, 0), 60) > 0.6
    samples = read(paths[0])[None, :32000]
    with torch.no_grad():
        features = student.wav2vec2.feature_extractor(normalise(samples)).transpose(1, 2)
        found = student.wav2vec2.feature_projection(features)[0][0]
        shares = [
            explained([found[2:-2]], [hear(teacher, functional.pad(samples, (shift, 0)))[0][2 : len(found) - 2]])
            for shift in (0, 160, 320)
        ]
    assert shares[0] > max(shares[1:]) + 0.1, shares


def test_a_file_of_another_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(struct.pack("<I", 6) + _text("TransformerSpec") + bytes(20))
    with pytest.raises(SynthesisError, match=r"is TransformerSpec of version 6; expected WhisperSpec"):
        read_weights(tmp_path / "model.bin")


@pytest.mark.long
def test_it_learns_and_writes_a_base(
    whisper: Any, speech: Path, alphabet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_whisper(tmp_path / "whisper" / "model.bin", whisper)
    shares = []
    for steps in ("2", "60"):
        command = ["initialise_base.py", str(tmp_path / "whisper"), str(speech), str(tmp_path / f"base-{steps}")]
        options = ["--base", str(alphabet), "--inner", "16", "--spectrum-steps", "20", "--steps", steps]
        monkeypatch.setattr("sys.argv", [*command, *options])
        assert main() == 0
        shares.append(float(capsys.readouterr().out.split("explained: ")[1].split()[0]))
    assert shares[1] > shares[0] + 0.1, shares
    written = Wav2Vec2ForCTC.from_pretrained(tmp_path / "base-60")
    assert written.config.hidden_size == WIDTH and written.config.intermediate_size == 16
    assert written.config.vocab_size == 6  # with the ends of sentences
    Wav2Vec2Processor.from_pretrained(tmp_path / "base-60")
