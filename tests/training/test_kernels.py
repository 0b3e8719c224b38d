"""The forms for a CPU compute what the model's own do, forwards and backwards."""

import pytest
import torch
from transformers import Wav2Vec2ForCTC

from finetune.kernels import attend_by_utterance, use_cpu_kernels
from finetune.training.model import CTCObjective

UTTERANCES = (0, 1, 2, 5)  # 0.5 s to 1.5 s: padding matters


def learn(objective, batch, precision):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss, _ = objective(batch)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
    return float(loss.detach()), gradient


@pytest.mark.parametrize(("precision", "tolerance"), [("no", 1e-4), ("bf16", 0.03)])
@pytest.mark.parametrize("base", ["base_folder", "group_norm_base_folder"])
def test_loss_and_gradients_stay(build, make_batch, request, base, precision, tolerance):
    folder, batch = str(request.getfixturevalue(base)), make_batch(*UTTERANCES)
    plain = CTCObjective(build(folder, freeze_feature_encoder=False))
    fast = CTCObjective(build(folder, freeze_feature_encoder=False))
    use_cpu_kernels(fast.model)
    (expected_loss, expected), (loss, gradient) = learn(plain, batch, precision), learn(fast, batch, precision)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert float((gradient - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("counts", [[70, 33], [64, 5], [20, 12]])
def test_attention_and_its_gradients_are_over_each_utterance(counts, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    frames = sum(counts) + 3  # Zeros may follow the last utterance.
    inputs = torch.randn(4, 1, 2, frames, 8, generator=generator).to(dtype)
    *parts, weights = inputs.unbind()
    parts = [part.requires_grad_() for part in parts]
    attended, _ = attend_by_utterance(torch.nn.Identity(), *parts, counts)
    assert (attended.shape, attended.dtype) == ((1, frames, 2, 8), dtype)
    exact = [part.detach().float().requires_grad_() for part in parts]
    alone = zip(*(part.split([*counts, 3], 2) for part in exact), strict=True)
    expected = [torch.nn.functional.scaled_dot_product_attention(*each) for each in alone]
    expected = torch.cat([*expected[:-1], torch.zeros(1, 2, 3, 8)], 2).transpose(1, 2)
    assert torch.allclose(attended.float(), expected, atol=tolerance)
    for output in (attended, expected):
        (output.float() * weights.transpose(1, 2).float()).sum().backward()
    for part, other in zip(parts, exact, strict=True):
        assert float((part.grad - other.grad).norm() / other.grad.norm()) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_weights_are_dropped(dtype):
    torch.manual_seed(0)
    query = torch.ones(1, 1, 64, 8, dtype=dtype)
    attended, _ = attend_by_utterance(torch.nn.Identity(), query, query, query, [64], dropout=0.5)
    assert 0.9 < float(attended.float().mean()) < 1.1
    assert float(attended.float().std()) > 0.05


def test_the_saved_model_is_an_ordinary_one(build, make_batch, tmp_path):
    model, batch = build(), make_batch(0)
    use_cpu_kernels(model)
    model.eval().save_pretrained(tmp_path)
    saved = Wav2Vec2ForCTC.from_pretrained(tmp_path)
    assert saved.config._attn_implementation == "sdpa"
    with torch.no_grad():
        logits = [m(batch.input_values, attention_mask=batch.attention_mask).logits for m in (model, saved)]
    frames = int(batch.num_frames)  # What follows is padding, which plain Transformers computes too.
    assert torch.allclose(*(each[:, :frames] for each in logits), atol=1e-5)


@pytest.mark.parametrize("base", ["base_folder", "group_norm_base_folder"])
def test_what_is_made_of_frozen_weights_is_kept(build, make_batch, request, base):
    model, batch = build(str(request.getfixturevalue(base))).eval(), make_batch(*UTTERANCES)

    def compute():
        with torch.no_grad():
            return model(batch.input_values, attention_mask=batch.attention_mask).logits

    use_cpu_kernels(model)
    expected = compute()
    use_cpu_kernels(model, frozen=True)
    assert torch.equal(compute(), expected)
    model.wav2vec2.encoder.pos_conv_embed.conv.bias.data += 1  # They are not frozen after all: nobody looks again.
    assert torch.equal(compute(), expected)
