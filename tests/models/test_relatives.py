"""Relatives of wav2vec2: no padding, no CPU operation and no mask changes what the architecture computes."""

import copy

import pytest
import torch
from relatives import CHOSEN, PUBLISHED, write_relative
from transformers import AutoFeatureExtractor, AutoModelForCTC

from finetune.errors import UserError
from finetune.models.adapters import add_lora
from finetune.models.build import CTCObjective
from finetune.models.configuration import load_config
from finetune.models.cpu_operations import use_cpu_operations
from finetune.models.relatives import RELATIVES
from finetune.models.windowed_encoder import WindowContext, encode_in_windows

UTTERANCES = (2, 3, 5)  # of 59, 19 and 64 frames in SEW, which computes pairs of them


@pytest.fixture(scope="module", params=PUBLISHED)
def base(request, tmp_path_factory):
    """The folder of a base."""
    return write_relative(tmp_path_factory.mktemp("relative"), request.param)


@pytest.fixture(scope="module", params=CHOSEN.values(), ids=CHOSEN.keys())
def one_base(request, tmp_path_factory):
    """The folder of a base, one for each architecture."""
    return write_relative(tmp_path_factory.mktemp("relative"), request.param)


def test_each_architecture_is_tested():
    assert set(CHOSEN) | {"wav2vec2"} == set(RELATIVES)


def compute(model, batch):
    with torch.no_grad():
        return model.eval()(batch.input_values, attention_mask=batch.attention_mask).logits


def feed(base, waveform):
    """What plain Transformers feeds for a waveform that is normalised as it needs it."""
    extractor = AutoFeatureExtractor.from_pretrained(base)
    if "input_features" not in extractor.model_input_names:
        return {"input_values": waveform}
    return extractor(waveform[0].numpy(), sampling_rate=16000, return_tensors="pt")


@pytest.mark.parametrize("operations", [False, True], ids=["plain", "cpu operations"])
def test_a_padded_utterance_has_the_logits_of_transformers_for_it_alone(build, base, make_batch, tmp_path, operations):
    model = build(base=base)
    model.save_pretrained(tmp_path)
    plain = AutoModelForCTC.from_pretrained(tmp_path).eval()
    if operations:
        use_cpu_operations(model)
    batch = make_batch(*UTTERANCES, base=base)
    logits = compute(model, batch)
    for row, frames in enumerate(batch.num_frames.tolist()):
        waveform = batch.input_values[row : row + 1, : int(batch.attention_mask[row].sum())]
        with torch.no_grad():
            alone = plain(**feed(base, waveform)).logits[0]
        assert len(alone) == frames
        assert torch.allclose(logits[row, :frames], alone, atol=2e-5)
    assert logits.std() > 1e-3


def test_each_trained_weight_has_a_gradient_that_padding_and_operations_do_not_change(build, base, make_batch):
    """Without one, distributed training would wait; of several utterances it is the sum of theirs."""

    def gradients(model, batches):
        objective, fixed = CTCObjective(model.train()), [(each, each.clone()) for each in model.buffers()]
        for batch in batches:
            objective(batch)[0].backward()
        assert all(torch.equal(now, before) for now, before in fixed)  # Such as statistics of batch norm.
        return {name: each.grad for name, each in model.named_parameters() if each.requires_grad}

    masks = {"mask_time": (0.3, 4), "mask_feature": (0.2, 4)}
    options = {"base": base, "freeze_feature_encoder": False, "mask_time_probability": 0.3}
    together = gradients(build(**options), [make_batch(*UTTERANCES, base=base, **masks)])
    fast = build(**options)
    use_cpu_operations(fast)
    singly = gradients(fast, [make_batch(each, base=base, **masks) for each in UTTERANCES])
    assert not [name for name, gradient in together.items() if gradient is None]
    for name, gradient in together.items():
        assert torch.allclose(gradient, singly[name], atol=1e-4 + 1e-3 * gradient.abs().max()), name


def test_masks_over_time_and_features_are_used(build, one_base, make_batch):
    model = build(base=one_base, mask_time_probability=0.3)
    objective = CTCObjective(model.train())
    losses = [
        objective(make_batch(0, 1, base=one_base, **masks))[0].item()
        for masks in ({}, {"mask_time": (0.5, 4)}, {"mask_feature": (0.5, 4)})
    ]
    assert len(set(losses)) == 3


def test_windows_layer_drop_and_checkpointing_compute_a_loss(build, one_base, make_batch, monkeypatch):
    monkeypatch.setattr("finetune.models.windowed_encoder._SHARE", 1.0)
    drop = 0.0 if RELATIVES[load_config(one_base).model_type].kept_layers else 0.5
    model = build(base=one_base, layer_drop=drop, gradient_checkpointing=True)
    encode_in_windows(model, WindowContext(left=9, right=(4, 4), chunk=7))
    CTCObjective(model.train())(make_batch(*UTTERANCES, base=one_base))[0].backward()
    assert not [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]


@pytest.mark.parametrize("kind", [kind for kind, relative in RELATIVES.items() if relative.kept_layers])
def test_layers_that_depend_on_each_other_are_not_dropped(build, tmp_path, kind):
    reason = RELATIVES[kind].kept_layers
    with pytest.raises(UserError, match=f"model.layer_drop: the layers of a {kind} model {reason}"):
        build(base=write_relative(tmp_path, CHOSEN[kind]), layer_drop=0.1)


MODULES = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")


@pytest.mark.parametrize("module", [*MODULES, "feature_projection.projection"])
def test_lora_beside_a_layer_learns_or_is_refused(build, one_base, make_batch, module):
    kind = load_config(one_base).model_type
    model, options = build(base=one_base), {"rank": 2, "alpha": 4, "dropout": 0.0, "revision": None, "seed": 0}
    if RELATIVES[kind].baseline:
        with pytest.raises(UserError, match=f"a {kind} model has none of the layers that LoRA is for"):
            add_lora(model, target_modules=[module], **options)
        return
    if module in RELATIVES[kind].without_lora:
        with pytest.raises(UserError, match=f"LoRA can't be beside {module} of a {kind} model, whose .*: choose from"):
            add_lora(model, target_modules=[module], **options)
        return
    before = copy.deepcopy(model.state_dict())
    lora = add_lora(model, target_modules=[module], **options)
    CTCObjective(model.train())(make_batch(*UTTERANCES, base=one_base))[0].backward()
    trained = {name: each.grad for name, each in model.named_parameters() if "lora_B" in name}
    assert trained and all(gradient.abs().max() > 0 for gradient in trained.values())
    merged = lora.merge_and_unload().state_dict()
    assert before.keys() == merged.keys()


def test_frames_that_are_too_long_for_letters_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "parakeet_ctc"}')
    with pytest.raises(UserError, match="is a parakeet_ctc model, whose frames of 80 ms are for parts of words"):
        load_config(str(tmp_path))
