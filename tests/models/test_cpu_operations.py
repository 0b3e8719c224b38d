"""CPU operations compute the same output and gradients as the modules of the model."""

import pytest
import torch
from transformers import Wav2Vec2ForCTC

from finetune.models.build import CTCObjective
from finetune.models.cpu_operations import attend_by_utterance, use_cpu_operations

UTTERANCES = (0, 1, 2, 5)  # 0.5 s to 1.5 s: padding matters


def learn(objective, batch, precision):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss, _ = objective(batch)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
    return float(loss.detach()), gradient


@pytest.mark.parametrize(("precision", "tolerance"), [("no", 1e-4), ("bf16", 0.03)])
@pytest.mark.parametrize("base", ["base_folder", "group_norm_base_folder"])
def test_loss_and_gradients_do_not_change(build, make_batch, request, base, precision, tolerance):
    folder, batch = str(request.getfixturevalue(base)), make_batch(*UTTERANCES)
    plain = CTCObjective(build(folder, freeze_feature_encoder=False))
    fast = CTCObjective(build(folder, freeze_feature_encoder=False))
    use_cpu_operations(fast.model)
    # In float32, because PyTorch's own bf16 is off by 20 % on a CPU with amx_bf16.
    (expected_loss, expected), (loss, gradient) = learn(plain, batch, "no"), learn(fast, batch, precision)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert float((gradient - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize("counts", [(70, 33), (64, 5), (420, 401)])
def test_attention_is_within_each_utterance(counts, precision, tolerance):
    generator = torch.Generator().manual_seed(0)
    frames = sum(counts) + 7  # zeros follow
    parts = torch.randn(3, 1, 4, frames, 8, generator=generator).to(getattr(torch, precision))
    leaves = [part.requires_grad_() for part in parts.unbind()]
    attended, _ = attend_by_utterance(torch.nn.Identity(), *leaves, list(counts))
    assert attended.dtype == parts.dtype
    assert not attended[:, sum(counts) :].any()
    exact = [part.detach().float().requires_grad_() for part in leaves]
    pieces = [
        torch.nn.functional.scaled_dot_product_attention(*utterance)
        for utterance in zip(*(part[:, :, : sum(counts)].split(counts, 2) for part in exact), strict=True)
    ]
    expected = torch.cat(pieces, 2).transpose(1, 2)
    assert torch.allclose(attended[:, : sum(counts)].float(), expected, atol=tolerance)
    weights = torch.randn(expected.shape, generator=generator)
    (attended[:, : sum(counts)].float() * weights).sum().backward()
    (expected * weights).sum().backward()
    for leaf, other in zip(leaves, exact, strict=True):
        assert float((leaf.grad.float() - other.grad).norm() / other.grad.norm()) < tolerance


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_attention_weights_are_dropped(precision):
    torch.manual_seed(0)
    query = torch.ones(1, 1, 64, 8, dtype=precision)
    attended, _ = attend_by_utterance(torch.nn.Identity(), query, query, query, [64], dropout=0.5)
    assert 0.9 < float(attended.float().mean()) < 1.1
    assert float(attended.float().std()) > 0.05


def test_the_saved_model_is_an_ordinary_one(build, make_batch, tmp_path):
    model, batch = build(), make_batch(0)
    use_cpu_operations(model)
    model.eval().save_pretrained(tmp_path)
    saved = Wav2Vec2ForCTC.from_pretrained(tmp_path)
    assert saved.config._attn_implementation == "sdpa"
    with torch.no_grad():
        logits = [m(batch.input_values, attention_mask=batch.attention_mask).logits for m in (model, saved)]
    valid = slice(int(batch.num_frames))  # What is said of padding means nothing.
    assert torch.allclose(*(each[:, valid] for each in logits), atol=1e-5)


@pytest.mark.parametrize("base", ["base_folder", "group_norm_base_folder"])
def test_values_computed_from_frozen_weights_are_cached(build, make_batch, request, base):
    model, batch = build(str(request.getfixturevalue(base))).eval(), make_batch(*UTTERANCES)

    def compute():
        with torch.no_grad():
            return model(batch.input_values, attention_mask=batch.attention_mask).logits

    use_cpu_operations(model)
    expected = compute()
    use_cpu_operations(model, frozen=True)
    assert torch.equal(compute(), expected)
    model.wav2vec2.encoder.pos_conv_embed.conv.bias.data += 1  # They are not frozen after all: nobody looks again.
    assert torch.equal(compute(), expected)
