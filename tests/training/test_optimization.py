"""The schedule of the learning rate, and the parameters with weight decay."""

import math

import pytest

from finetune.training.optimization import build_optimizer, learning_rate_factor, set_learning_rate


def test_rate_rises_and_falls_linearly():
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(11)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0])


def test_without_warmup_the_first_step_has_the_peak_rate():
    assert [learning_rate_factor(step, 4, 0.0) for step in range(4)] == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3])


@pytest.mark.parametrize("max_steps", [1, 2, 3, 1000])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.99])
def test_each_rate_is_above_zero_and_at_most_the_peak(max_steps, warmup_ratio):
    factors = [learning_rate_factor(step, max_steps, warmup_ratio) for step in range(max_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1.0


def test_each_trained_parameter_is_in_one_group_and_only_matrices_decay(build):
    model = build(freeze_feature_encoder=True)
    groups = build_optimizer(model, 1e-3, 0.1).param_groups
    decayed, others = ([g for g in groups if g["weight_decay"] == decay] for decay in (0.1, 0.0))
    frozen = {id(p) for p in model.wav2vec2.feature_extractor.parameters()}
    grouped = [id(p) for p in [p for group in groups for p in group["params"]]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if id(p) not in frozen)
    assert len(groups) == len(decayed) + len(others) == 4
    assert all(p.ndim > 1 for group in decayed for p in group["params"])
    assert all(p.ndim <= 1 for group in others for p in group["params"])


def test_betas_are_those_of_wav2vec2(build):
    optimizer = build_optimizer(build(), 1e-3, 0.0)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.98)}
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}


def test_cosine_schedule_is_half_a_cosine():
    factors = [learning_rate_factor(step, 10, 0.2, "cosine") for step in range(11)]
    assert factors[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert factors[6] == pytest.approx(0.5)
    assert factors[4] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert factors[10] == pytest.approx(0.0)


def test_tri_stage_holds_the_peak_and_falls_to_a_twentieth():
    factors = [learning_rate_factor(step, 20, 0.1, "tri_stage", 0.4) for step in range(21)]
    assert factors[:2] == pytest.approx([0.5, 1.0])
    assert factors[2:11] == pytest.approx([1.0] * 9)
    assert factors[15] == pytest.approx(math.sqrt(0.05))
    assert factors[20] == pytest.approx(0.05)


def test_head_and_layers_have_their_scale_of_the_rate(build):
    model = build()
    optimizer = build_optimizer(model, 1e-3, 0.1, head_learning_rate=5e-3, layer_decay=0.5)
    set_learning_rate(optimizer, 1e-4)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert {round(rate, 9) for name, rate in named.items() if name.startswith("lm_head.")} == {5e-4}
    for part, rate in (("encoder.layers.1.", 5e-5), ("encoder.layers.0.", 2.5e-5), ("feature_projection.", 1.25e-5)):
        assert {round(value, 9) for name, value in named.items() if part in name} == {rate}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in model.parameters() if p.requires_grad and p.ndim > 1} == {0.1}
