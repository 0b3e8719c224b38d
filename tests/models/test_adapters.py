"""Adapters depend on the base model and the seed only; only adapters and the head are trained."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file

from finetune.errors import UserError
from finetune.models.adapters import add_lora, find_language_adapter
from finetune.models.build import CTCObjective
from finetune.models.configuration import load_config
from finetune.training.loop import train_step
from finetune.training.optimization import build_optimizer


@pytest.fixture
def adapt(build):
    """A tiny model and the model of peft that contains it, with LoRA from a seed."""

    def make(seed=0, **changes):
        model = build()
        defaults = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
        return model, add_lora(model, **{**defaults, **changes}, revision="main", seed=seed)

    return make


@pytest.fixture
def build_language(build, mms_base_folder):
    """A tiny MMS model for one of its languages or for another."""

    def make(language, **arguments):
        base = str(mms_base_folder)
        return build(base=base, language_adapter=language, **arguments)

    return make


def trained(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_lora_depends_on_its_seed_only(adapt):
    torch.manual_seed(1)
    first, _ = adapt(seed=5)
    torch.manual_seed(2)
    again, _ = adapt(seed=5)
    other, _ = adapt(seed=6)
    drawn = {name for name in trained(first) if "lora_A" in name}
    assert len(drawn) == 4
    for name in drawn:
        assert torch.equal(trained(first)[name], trained(again)[name])
        assert not torch.equal(trained(first)[name], trained(other)[name])


def test_lora_starts_as_the_base_model_and_is_merged_in_place(adapt, build, make_batch, accelerator):
    model, lora = adapt()
    batch = make_batch(0, 1)
    assert torch.equal(CTCObjective(model).eval()(batch)[0], CTCObjective(build()).eval()(batch)[0])
    assert all("lora_" in name or name.startswith("lm_head.") for name in trained(model))
    optimizer = build_optimizer(model, 1e-2, 0.0)
    for _ in range(2):
        train_step(accelerator, CTCObjective(model.train()), optimizer, [batch], 1.0)
    loss = CTCObjective(model).eval()(batch)[0]
    assert lora.merge_and_unload() is model
    assert model.state_dict().keys() == build().state_dict().keys()
    assert torch.allclose(CTCObjective(model).eval()(batch)[0], loss, rtol=1e-5)
    assert not torch.allclose(loss, CTCObjective(build()).eval()(batch)[0], rtol=1e-2)


@pytest.mark.parametrize("module", ["k_proj", "out_proj", "intermediate_dense", "feature_projection.projection"])
def test_each_linear_layer_can_have_lora(adapt, module):
    model, _ = adapt(target_modules=[module])
    assert any(f"{module}.lora_A" in name for name in trained(model))


def test_adapters_of_a_language_are_loaded_once_and_trained(build_language, mms_base_folder):
    model = build_language("deu")
    weights = load_file(mms_base_folder / "adapter.deu.safetensors")
    adapters = {name for name in weights if not name.startswith("lm_head.")}
    assert trained(model).keys() == {*adapters, "lm_head.weight", "lm_head.bias"}
    assert all(torch.equal(trained(model)[name], weights[name]) for name in adapters)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(1.0)
    before = deepcopy(model.state_dict())
    model.tie_weights()  # Transformers' hook for loading a language, which others call too.
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_adapters_of_a_new_language_depend_on_the_seed(build_language):
    first, again, other = (build_language("xyz", seed=seed) for seed in (1, 1, 2))
    name = "wav2vec2.encoder.layers.1.adapter_layer.linear_2.weight"
    assert torch.equal(trained(first)[name], trained(again)[name])
    assert not torch.equal(trained(first)[name], trained(other)[name])
    assert 0.01 < trained(first)[name].std() < 0.03  # The configuration's initializer_range is 0.02.


def test_an_unreachable_hub_is_not_a_model_without_the_language(mms_base_folder):
    with pytest.raises(UserError, match=r"may or may not have adapter\.deu\.safetensors"):
        find_language_adapter("some/base", load_config(str(mms_base_folder)), "deu")
