"""The baselines: their features are what others compute, and they are ordinary models of Transformers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from relatives import write_relative
from transformers import AutoModelForCTC, pipeline
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from finetune.errors import UserError
from finetune.inference.exported import ExportedModel, write_model
from finetune.models.baselines.features import SpectralFeatures
from finetune.models.build import build_model
from finetune.models.configuration import build_config, load_config, load_feature_extractor
from finetune.text.vocabulary import PAD, build_tokenizer, build_vocabulary

NARROW = {"hidden_size": 16, "num_hidden_layers": 2, "num_mel_bins": 32}
VOCABULARY = build_vocabulary("abcd")


def build(kind: str = "cnn", **values):
    """A narrow model with random weights."""
    config = build_config({"type": kind, **NARROW, **values})
    model = build_model(config, None, vocabulary=VOCABULARY, blank=PAD, dropout=0.0, mask_time_probability=0.0, seed=0)
    return model.eval()


def draw(samples: int, seed: int = 0) -> torch.Tensor:
    """Noise of unit variance, (samples,)."""
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def reference_features(waveform: np.ndarray, bins: int, coefficients: int | None) -> np.ndarray:
    """(windows, features) with the functions of Transformers and SciPy."""
    mel = mel_filter_bank(257, bins, 20.0, 8000.0, 16000, mel_scale="htk")
    energies = spectrogram(
        waveform,
        window_function(400, "hann"),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        mel_filters=mel,
        mel_floor=1e-3,
        log_mel="log",
    ).T
    found = energies if coefficients is None else scipy.fft.dct(energies, norm="ortho")[:, :coefficients]
    return (found - found.mean(0)) / np.sqrt(found.var(0) + 0.1)


@pytest.mark.parametrize("coefficients", [None, 13], ids=["log-mel", "mfcc"])
def test_features_are_those_of_other_implementations(coefficients):
    values = {"features": "mfcc", "num_coefficients": coefficients} if coefficients else {}
    config = build_config({"type": "cnn", "num_mel_bins": 40, **values})
    tone = np.sin(np.arange(16000) * np.linspace(0.01, 0.5, 16000))
    waveform = (tone * np.linspace(0, 2, 16000)).astype(np.float32)
    found = SpectralFeatures(config)(torch.from_numpy(waveform)[None], None)[0]
    expected = reference_features(waveform, 40, coefficients)
    assert found.shape == (49, 2, expected.shape[1]) and len(expected) == 98
    np.testing.assert_allclose(found.flatten(0, 1), expected, atol=1e-3)


def test_features_have_zero_mean_and_at_most_unit_variance_without_padding():
    features = SpectralFeatures(build_config({"type": "cnn"}))
    waveforms = torch.stack([draw(16000), torch.cat([draw(9000, 1), torch.zeros(7000)])])
    second = features(waveforms, torch.tensor([16000, 9000]))[1, :27].flatten(0, 1)
    assert second.mean(0).abs().max() < 0.05  # The last window of an odd number is left out.
    assert 0.7 < second.var(0).mean() < 1.0
    silence = features(torch.zeros(1, 16000), None)
    assert silence.abs().max() < 1e-4


def test_features_are_float32_in_models_of_16_bits():
    model = build()
    waveform = draw(8000)[None]
    expected = model.baseline.feature_extractor(waveform, None)
    assert torch.equal(model.to(torch.bfloat16).baseline.feature_extractor(waveform, None), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(build().baseline.feature_extractor(waveform, None), expected)


def test_an_lstm_computes_in_float32_on_a_cpu():
    model, waveform = build("lstm").baseline, draw(8000)[None]
    expected = model(waveform).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(waveform).last_hidden_state, expected)


@pytest.mark.parametrize("values", [{}, {"sampling_rate": 8000}, {"stacked_frames": 3, "hop_seconds": 0.0125}])
@pytest.mark.parametrize("kind", ["lstm", "cnn"])
def test_there_are_as_many_frames_as_promised(kind, values):
    model = build(kind, **values)
    assert model.config.inputs_to_logits_ratio == np.prod(model.config.conv_stride)
    for samples in (1600, 1999, 2000, 2001, 4321):
        frames = model(draw(samples)[None]).logits.shape[1]
        assert frames == model._get_feat_extract_output_lengths(samples)


@pytest.mark.parametrize("kind", ["lstm", "cnn"])
def test_a_saved_model_is_loaded_unchanged_by_transformers(kind, tmp_path):
    model = build(kind, features="mfcc", num_coefficients=20)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCTC.from_pretrained(tmp_path).eval()
    waveform = draw(16000)[None]
    assert torch.equal(loaded(waveform).logits, model(waveform).logits)
    assert "auto_map" not in (tmp_path / "config.json").read_text()


def test_transformers_computes_the_loss_of_labels():
    model = build("lstm")
    lengths = torch.tensor([16000, 9000])
    waveforms, mask = torch.stack([draw(16000), draw(16000, 1)]), torch.arange(16000) < lengths[:, None]
    labels = torch.tensor([[2, 3, 2], [4, -100, -100]])
    output = model(waveforms * mask, attention_mask=mask.long(), labels=labels)
    alone = [
        torch.nn.functional.ctc_loss(
            model(waveform[None, :length]).logits[0].log_softmax(-1),
            target[target >= 0],
            torch.tensor(frames),
            torch.tensor(count),
            blank=VOCABULARY[PAD],
        )
        for waveform, length, target, frames, count in zip(waveforms, lengths, labels, (49, 27), (3, 1), strict=True)
    ]
    assert torch.isclose(output.loss, torch.stack(alone).mean(), atol=1e-5)


def test_the_pipeline_cuts_long_recordings_where_the_model_has_frames(tmp_path):
    from transformers import Wav2Vec2Processor

    model = build()
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(tmp_path)
    extractor = load_feature_extractor(None, model.config)
    Wav2Vec2Processor(extractor, build_tokenizer(VOCABULARY)).save_pretrained(tmp_path)
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path), chunk_length_s=2)
    text = recognise({"raw": draw(10 * 16000).numpy(), "sampling_rate": 16000}, return_timestamps="char")
    assert 9.5 < text["chunks"][-1]["timestamp"][1] <= 10.5


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lstm", "cnn"])
def test_an_export_is_equal_for_any_length_and_leaves_the_model_as_it_is(kind, tmp_path):
    model = build(kind, features="mfcc", num_coefficients=20)
    waveforms = torch.stack([draw(23456), draw(23456, 1)])
    mask = torch.arange(23456) < torch.tensor([[23456], [1600]])
    before = [
        model(waveform[None, :length]).logits[0] for waveform, length in zip(waveforms, (23456, 1600), strict=True)
    ]
    write_model(model, tmp_path, int8=False)
    exported = ExportedModel(tmp_path, model.config)(waveforms, mask)
    for row, expected in zip(exported.logits, before, strict=True):
        assert torch.allclose(row[: len(expected)], expected, atol=1e-4)
    assert torch.equal(model(waveforms[:1]).logits[0], before[0])
    assert before[0].std() > 0.01


REFUSED = [
    ({"type": "gru"}, "unknown type gru; expected lstm or cnn, or no type for a wav2vec2."),
    ({"type": "lstn"}, "unknown type lstn; did you mean lstm?"),
    ({"type": ["cnn"]}, "unknown type"),
    ({"type": "lstm", "feature": "mfcc"}, "unknown keys feature; did you mean features? expected features, "),
    ({"type": "lstm", "kernel_size": 9}, "unknown keys kernel_size; did you mean hidden_size? expected features, "),
    ({"type": "cnn", "vocab_size": 9}, "unknown keys vocab_size"),
    ({"type": "cnn", "kernel_size": 8}, "found 8; expected an odd number"),
    ({"type": "cnn", "features": "plp"}, "found plp; expected log_mel or mfcc"),
    ({"type": "cnn", "hidden_size": "wide"}, "'hidden_size' expected int, got str"),
    ({"type": "cnn", "hidden_size": 0}, "at least 1"),
    ({"type": "cnn", "window_seconds": 10.0}, "windows of 160000 samples every 160"),
    ({"type": "cnn", "hop_seconds": 0.1}, "windows of 400 samples every 1600"),
    ({"type": "cnn", "num_mel_bins": 300}, "found 300; expected 1 to 200"),
    ({"type": "cnn", "features": "mfcc", "num_mel_bins": 30}, "found 40; expected 1 to 30"),
    ({"type": "cnn", "stacked_frames": 90}, "found 90"),
]


@pytest.mark.parametrize(("architecture", "said"), REFUSED)
def test_an_architecture_that_cant_be_is_one_sentence(architecture, said):
    with pytest.raises(UserError) as refused:
        build_config(architecture)
    assert said in str(refused.value) and str(refused.value).startswith("model.architecture: ")
    assert "\n" not in str(refused.value)


def test_keys_are_those_that_the_recipe_may_set():
    from finetune.models.baselines import CONFIGS
    from finetune.models.baselines.configuration import list_keys

    page = (Path(__file__).parents[2] / "recipes/baselines/README.md").read_text(encoding="utf-8")
    for name, kind in CONFIGS.items():
        for key in list_keys(kind):
            assert getattr(build_config({"type": name, key: getattr(kind(), key)}), key) == getattr(kind(), key)
            assert f"| `{key}` |" in page


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"window_seconds": 900.0}, "expected window_seconds"),
        ({"num_mel_bins": 9_000_000}, "num_mel_bins"),
        ({"num_hidden_layers": 100_000}, "found 100000 for num_hidden_layers"),
        ({"to_dict": 1}, "'to_dict', which would replace a part of CNNConfig"),
    ],
)
def test_values_out_of_range_in_a_folder_are_refused(values, said, tmp_path):
    folder = Path(write_relative(tmp_path, "type: cnn"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(UserError, match=said):
        load_config(str(folder))


def test_a_wide_model_without_its_weights_takes_no_memory(tmp_path):
    from finetune.models.weights import load_ctc_model

    folder = Path(write_relative(tmp_path, "type: lstm"))
    config = load_config(str(folder))
    config.hidden_size = 20_000
    with pytest.raises(ValueError, match=r"asks for .* weights, and its files of weights have"):
        load_ctc_model(str(folder), "it", new=["lm_head."], config=config)


@pytest.mark.long
def test_the_package_that_registers_them_needs_nothing_else_of_finetune():
    code = "import sys, finetune.models.baselines; print(*(n for n in sys.modules if n.startswith('finetune')))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    own = "finetune.models.baselines"
    assert own in names
    assert {name for name in names if not name.startswith(own)} == {"finetune", "finetune.models"}
