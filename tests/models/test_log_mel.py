"""Wav2Vec2-BERT hears waveforms here, and in plain Transformers the features of its own feature extractor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from relatives import ADAPTED, CHOSEN, write_relative
from transformers import AutoFeatureExtractor, AutoProcessor, SeamlessM4TFeatureExtractor

from finetune.errors import UserError
from finetune.models.configuration import encoder_convolutions, load_config, load_feature_extractor
from finetune.models.log_mel import LogMelFeatures, count_frames
from finetune.models.processors import save_processor
from finetune.text.vocabulary import build_tokenizer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base."""
    return Path(write_relative(tmp_path / "base", CHOSEN["wav2vec2-bert"]))


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_features_and_their_mask_are_those_of_plain_transformers_in_any_batch() -> None:
    rng = np.random.default_rng(0)
    loud = [rng.standard_normal(length).astype(np.float32) * 0.1 for length in (800, 801, 16000, 16160, 16319, 5000)]
    # Digital silence, with an offset, before and after speech.
    silent = [np.concatenate([np.zeros(4000), loud[2], np.full(4160, 0.25)]).astype(np.float32), np.zeros(1600, "f4")]
    waveforms = [*loud, *silent]
    lengths = torch.tensor([len(each) for each in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(each) for each in waveforms], batch_first=True)
    features, attended = LogMelFeatures(80)(padded, lengths)
    plain = SeamlessM4TFeatureExtractor()
    for row, waveform in enumerate(waveforms):
        theirs = plain(waveform, sampling_rate=16000, return_tensors="pt")
        frames = count_frames(len(waveform))
        assert theirs["input_features"].shape[1] == frames
        valid = theirs["attention_mask"][0].bool()
        assert torch.equal(attended[row, :frames], valid) and not attended[row, frames:].any()
        assert torch.allclose(features[row, :frames][valid], theirs["input_features"][0][valid], atol=1e-4)
        alone, mask = LogMelFeatures(80)(torch.from_numpy(waveform)[None], None)
        assert torch.equal(mask[0], valid) and torch.allclose(alone[0], features[row, :frames], atol=1e-6)


def test_features_of_a_single_window_are_zero_and_not_attended_to() -> None:
    waveforms = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32))
    lengths = torch.tensor([399, 400, 559, 1000])  # Without a window, with one, and with four.
    features, attended = LogMelFeatures(80)(waveforms, lengths)
    assert not features[:3].any() and not attended[:3].any()
    assert features[3].isfinite().all() and features[3].any() and attended[3].all()
    alone, mask = LogMelFeatures(80)(waveforms[:1, :400], None)
    assert torch.equal(alone, torch.zeros(1, 1, 160)) and not mask.any()


@pytest.mark.parametrize("name", [CHOSEN["wav2vec2-bert"], ADAPTED])
def test_frames_are_counted_as_for_convolutions(tmp_path: Path, name: str) -> None:
    config = load_config(write_relative(tmp_path, name))
    for samples in (800, 801, 16000, 16160, 16319):
        frames = samples
        for kernel, stride in encoder_convolutions(config):
            frames = (frames - kernel) // stride + 1
        assert frames == count_frames(samples, config)


def test_what_is_saved_is_what_plain_transformers_reads(base: Path, tmp_path: Path) -> None:
    config = load_config(str(base))
    save_processor(tmp_path, load_feature_extractor(str(base), config), build_tokenizer({"<pad>": 0, "|": 1, "a": 2}))
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is SeamlessM4TFeatureExtractor
    assert type(AutoProcessor.from_pretrained(tmp_path)).__name__ == "Wav2Vec2BertProcessor"
    again = load_feature_extractor(str(tmp_path), config)
    assert again.to_dict() == SeamlessM4TFeatureExtractor().to_dict()


def test_what_would_be_fed_otherwise_is_refused(base: Path) -> None:
    config, file = load_config(str(base)), base / "preprocessor_config.json"
    before = file.read_text()
    for wrong in ({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, {"num_mel_bins": 40}, {"stride": 1}):
        change(file, **wrong)
        [(key, value)] = wrong.items()
        with pytest.raises(UserError, match=f"has {key} {value}, not "):
            load_feature_extractor(str(base), config)
        file.write_text(before)
    file.unlink()
    with pytest.raises(UserError, match=r"has no usable preprocessor_config\.json, which says how audio is fed"):
        load_feature_extractor(str(base), config)
    for dimension in (1, 10_000_000):  # Features that could not be held in memory, before they are built.
        config.feature_projection_input_dim = dimension
        with pytest.raises(UserError, match=f"has a feature_projection_input_dim of {dimension}: expected 2 to 512"):
            load_feature_extractor(str(base), config)


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        ("wav2vec2-bert", {"adapter_kernel_size": 5}, "adapter_kernel_size 5 and adapter_stride 2: expected"),
        ("wav2vec2-bert", {"num_adapter_layers": 9}, "num_adapter_layers 9, .*: expected 1 to 3 layers"),
        ("wav2vec2-conformer", {}, "padding of a batch in a wav2vec2-conformer model: expected a model without"),
    ],
)
def test_an_adapter_that_would_be_computed_otherwise_is_refused(
    tmp_path: Path, kind: str, values: dict[str, int], sentence: str
) -> None:
    base = Path(write_relative(tmp_path / "base", CHOSEN[kind]))
    change(base / "config.json", add_adapter=True, **values)
    with pytest.raises(UserError, match=sentence):
        load_config(str(base))
