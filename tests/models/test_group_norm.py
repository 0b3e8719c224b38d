"""Group norm over valid frames: padding has no effect, and the parameters and files of the model do not change."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2ForCTC

from finetune.models.group_norm import normalize_valid_frames

SAMPLES = (9000, 24000, 400, 16001)  # 400: one frame


def build_plain(norm: str = "group", **changes: Any) -> Any:
    """A tiny model of plain Transformers, with random norm weights."""
    from finetune.models.configuration import build_config

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    convolutions = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    values = {"feat_extract_norm": norm, "vocab_size": 9, "layerdrop": 0.0, "apply_spec_augment": False}
    dropouts = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(build_config({**small, **convolutions, **values, **dict.fromkeys(dropouts, 0.0), **changes}))
    first = model.wav2vec2.feature_extractor.conv_layers[0]
    torch.nn.init.normal_(first.layer_norm.weight, 1, 0.3)
    torch.nn.init.normal_(first.layer_norm.bias, 0, 0.3)
    return model.eval()


@pytest.fixture
def plain() -> Any:
    """A model with Transformers' group norm."""
    return build_plain()


@pytest.fixture
def waveforms() -> list[torch.Tensor]:
    """Waveforms of different lengths, levels and means, with correlated samples, as in speech."""
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(count, generator=generator).cumsum(0) for count in SAMPLES]
    return [(wave - wave.mean()) / wave.std() * (1 + i) + 0.1 for i, wave in enumerate(noise)]


def treated(model: Any) -> Any:
    model = deepcopy(model)
    normalize_valid_frames(model)
    return model


def pad(waveforms: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The waveforms with 0.1 s of padding behind the longest, and their mask."""
    device = waveforms[0].device
    values = torch.nn.utils.rnn.pad_sequence([*waveforms, torch.zeros(25600, device=device)], batch_first=True)[:-1]
    lengths = torch.tensor([len(waveform) for waveform in waveforms], device=device)
    return {"input_values": values, "attention_mask": (torch.arange(25600, device=device) < lengths[:, None]).int()}


def largest_difference(model: Any, plain: Any, waveforms: list[torch.Tensor]) -> float:
    """The largest difference between the logits of a padded batch and plain Transformers' logits of each utterance."""
    with torch.no_grad():
        together = model(**pad(waveforms)).logits
        alone = [plain(waveform[None]).logits[0] for waveform in waveforms]
    pairs = zip(together, alone, strict=True)
    return max(float((row[: len(logits)] - logits).abs().max()) for row, logits in pairs)


def test_the_output_for_an_utterance_does_not_depend_on_the_batch(plain: Any, waveforms: list[torch.Tensor]) -> None:
    assert largest_difference(plain, plain, waveforms) > 0.01
    assert largest_difference(treated(plain), plain, waveforms) < 1e-5


def test_layer_norm_does_not_change(waveforms: list[torch.Tensor]) -> None:
    plain = build_plain("layer", conv_bias=True)
    model = treated(plain)
    assert type(model.wav2vec2.feature_extractor) is type(plain.wav2vec2.feature_extractor)
    assert largest_difference(model, plain, waveforms) < 1e-5


def test_without_a_mask_all_frames_are_valid(plain: Any, waveforms: list[torch.Tensor]) -> None:
    model = treated(plain)
    values = pad(waveforms)["input_values"]
    for arguments, named in (((values,), {}), ((), {"input_values": values}), ((values, torch.ones_like(values)), {})):
        assert torch.allclose(model(*arguments, **named).logits, plain(values).logits, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("conv_bias", [False, True])
def test_gradients_of_a_padded_batch_are_the_sum_of_those_alone(
    waveforms: list[torch.Tensor], checkpointing: bool, conv_bias: bool
) -> None:
    plain = build_plain(conv_bias=conv_bias).double().train()  # float32 has gradients that are nothing but noise
    model, waveforms = treated(plain), [waveform.double() for waveform in waveforms]
    if checkpointing:
        model.activation_checkpointing_enable()
    frames = model._get_feat_extract_output_lengths(torch.tensor(SAMPLES)).tolist()
    # Both batches go forward before one goes back: what is computed again must not see the other's lengths.
    halves = [model(**pad(part)).logits for part in (waveforms[:2], waveforms[2:])]
    rows = [row[:count] for row, count in zip([*halves[0], *halves[1]], frames, strict=True)]
    torch.cat(rows).pow(3).sum().backward()
    for waveform in waveforms:
        plain(waveform[None]).logits.pow(3).sum().backward()
    for (name, parameter), (_, expected) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        if not name.endswith("masked_spec_embed"):  # no masks here
            assert torch.allclose(parameter.grad, expected.grad, rtol=1e-6, atol=1e-9), name


def test_the_saved_model_is_an_ordinary_one(plain: Any, waveforms: list[torch.Tensor], tmp_path: Path) -> None:
    model = treated(plain)
    assert list(model.state_dict()) == list(plain.state_dict())
    model.save_pretrained(tmp_path / "treated")
    plain.save_pretrained(tmp_path / "plain")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "treated" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    loaded = Wav2Vec2ForCTC.from_pretrained(tmp_path / "treated")
    assert torch.equal(loaded(waveforms[0][None]).logits, plain(waveforms[0][None]).logits)


def test_a_second_conversion_has_no_effect(plain: Any, waveforms: list[torch.Tensor]) -> None:
    assert largest_difference(treated(treated(plain)), plain, waveforms) < 1e-5


def test_replaced_modules_keep_their_class_and_share_their_parameters(
    plain: Any, waveforms: list[torch.Tensor]
) -> None:
    encoder = plain.wav2vec2.feature_extractor
    first = encoder.conv_layers[0]
    kinds, expected = (type(encoder), type(first)), first(waveforms[0][None, None])
    normalize_valid_frames(plain)
    assert (type(encoder), type(first)) == kinds
    assert torch.equal(first(waveforms[0][None, None]), expected)
    assert plain.wav2vec2.feature_extractor.conv_layers[0].conv.weight is first.conv.weight


def test_frozen_stays_frozen(plain: Any, waveforms: list[torch.Tensor]) -> None:
    model = treated(plain).train()
    model.freeze_feature_encoder()
    model(**pad(waveforms)).logits.sum().backward()
    assert all(parameter.grad is None for parameter in model.wav2vec2.feature_extractor.parameters())
    assert model.lm_head.weight.grad.any()


def test_the_error_of_bfloat16_is_similar_to_that_of_plain_transformers(
    plain: Any, waveforms: list[torch.Tensor]
) -> None:
    model, alone = treated(plain), [waveforms[1]]
    with torch.no_grad():
        exact = plain(waveforms[1][None]).logits
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = model(**pad(alone)).logits[:, : exact.shape[1]], plain(waveforms[1][None]).logits
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (ours - exact).square().mean() < 1.5 * (theirs - exact).square().mean()


def test_a_channel_with_a_millionth_of_the_power_is_normalised_exactly(plain: Any) -> None:
    slow = 10 * torch.sin(torch.arange(20000) * 1e-3)
    with torch.no_grad():
        plain.wav2vec2.feature_extractor.conv_layers[0].conv.weight[:] = torch.tensor([1.0, -1] + 8 * [0.0])
    assert largest_difference(treated(plain), plain, [slow, slow[:9000]]) < 1e-4


def test_silence_stays_finite(plain: Any) -> None:
    assert largest_difference(treated(plain), plain, [torch.zeros(9000)]) < 1e-5


def test_it_compiles_without_graph_breaks(plain: Any, waveforms: list[torch.Tensor]) -> None:
    compiled: Callable[..., Any] = torch.compile(treated(plain), backend="eager", fullgraph=True)
    assert largest_difference(compiled, plain, waveforms) < 1e-5


@pytest.mark.gpu
def test_on_a_gpu_the_output_for_an_utterance_does_not_depend_on_the_batch(
    plain: Any, waveforms: list[torch.Tensor], gpu: str
) -> None:
    """Without TF32, which rounds to ten bits."""
    plain, waveforms = plain.to(gpu), [waveform.to(gpu) for waveform in waveforms]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert largest_difference(plain, plain, waveforms) > 0.01
        assert largest_difference(treated(plain), plain, waveforms) < 1e-4
