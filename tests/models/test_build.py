"""The model has a new head of the right size; its output depends on the batch and the seed only."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2ForCTC

from finetune.errors import UserError
from finetune.models.build import CTCObjective
from finetune.models.configuration import load_config
from finetune.models.cpu_operations import use_cpu_operations
from finetune.training.loop import train_step
from finetune.training.optimization import build_optimizer


def equal(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_head_has_one_output_for_each_token_and_the_blank_is_the_pad_token(build, vocabulary):
    model = build()
    assert model.lm_head.out_features == model.config.vocab_size == len(vocabulary)
    assert model.config.pad_token_id == vocabulary["[PAD]"]


def test_the_head_is_new_even_if_the_base_has_one_of_the_same_size(build, vocabulary, tmp_path):
    old = build(seed=5)
    with torch.no_grad():
        old.lm_head.bias.fill_(3.0)
    old.save_pretrained(tmp_path)
    new = build(base=str(tmp_path), seed=0)
    assert new.lm_head.weight.shape == old.lm_head.weight.shape
    assert not torch.isclose(new.lm_head.weight, old.lm_head.weight).any()
    assert not new.lm_head.bias.any()
    assert equal(new.wav2vec2, old.wav2vec2)


def test_rows_of_the_bases_head_are_kept_where_asked(build, tmp_path):
    old = build(vocabulary={"[PAD]": 0, "|": 1, "a": 2, "[UNK]": 3}, seed=5)
    torch.nn.init.normal_(old.lm_head.bias)
    old.save_pretrained(tmp_path)
    new = build(base=str(tmp_path), head_rows=[0, 1, 2, None, None, None, 3])
    for token, row in ((0, 0), (1, 1), (2, 2), (6, 3)):
        assert torch.equal(new.lm_head.weight[token], old.lm_head.weight[row])
        assert torch.equal(new.lm_head.bias[token], old.lm_head.bias[row])
    assert not new.lm_head.bias[3:6].any() and new.lm_head.weight[3:6].all()
    assert new.lm_head.out_features == new.config.vocab_size == 7


def test_rows_of_a_missing_head_are_refused(build):
    with pytest.raises(UserError, match="no CTC head"):
        build(head_rows=[0, 1, 2, 3, 4, 5, 6])


class _Attack:
    """A pickle that runs code if the unpickler is not restricted."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_weights_without_safetensors_are_read_and_run_nothing(build, tmp_path):
    old = build(seed=5)
    old.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(old.state_dict(), tmp_path / "pytorch_model.bin")
    assert equal(build(base=str(tmp_path), seed=0).wav2vec2, old.wav2vec2)
    torch.save({**old.state_dict(), "more": _Attack(tmp_path / "attacked")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has a pytorch_model\.bin that could run code, so it is not read") as refused:
        build(base=str(tmp_path))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "attacked").exists()


def test_head_of_another_size_is_replaced(build, tmp_path):
    build(vocabulary={"[PAD]": 0, "|": 1, "[UNK]": 2}).save_pretrained(tmp_path)
    assert build(base=str(tmp_path)).lm_head.out_features == 7


def test_encoder_has_the_weights_of_the_base(build, base_folder):
    base = Wav2Vec2ForCTC.from_pretrained(base_folder)
    assert equal(build().wav2vec2.feature_extractor, base.wav2vec2.feature_extractor)
    assert equal(build().wav2vec2.encoder, base.wav2vec2.encoder)


def test_only_the_head_depends_on_the_seed(build):
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    assert equal(first, again)
    assert equal(first.wav2vec2, other.wav2vec2)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_without_a_base_the_weights_are_random(build):
    pretrained, random = build(), build(base=None)
    shapes = [[p.shape for p in model.parameters()] for model in (pretrained, random)]
    assert shapes[0] == shapes[1]
    for name in ("feature_extractor", "encoder"):
        assert not equal(getattr(pretrained.wav2vec2, name), getattr(random.wav2vec2, name))


def test_no_layer_is_dropped_at_random(build, base_folder):
    assert load_config(str(base_folder)).layerdrop > 0
    assert build().config.layerdrop == 0.0


@pytest.mark.parametrize("frozen", [True, False])
def test_feature_encoder_is_trained_only_when_not_frozen(build, make_batch, accelerator, frozen):
    model = build(freeze_feature_encoder=frozen)
    before = deepcopy(model)
    optimizer = build_optimizer(model, 1e-2, 0.1)
    model.train()
    for _ in range(2):
        train_step(accelerator, CTCObjective(model), optimizer, [make_batch(0, 1)], 1.0)
    assert equal(model.wav2vec2.feature_extractor, before.wav2vec2.feature_extractor) is frozen
    assert not equal(model.wav2vec2.encoder, before.wav2vec2.encoder)


def test_masks_come_from_the_batch_alone(build, make_batch):
    objective = CTCObjective(build(mask_time_probability=0.5)).train()
    batch = make_batch(0, 1, 2, mask_time=(0.5, 4))
    (first, _), (again, _) = objective(batch), objective(batch)
    other, _ = objective(make_batch(0, 1, 2, mask_time=(0.5, 4), epoch=1))
    assert batch.mask_time_indices.any()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_with_mask_probability_zero_no_mask_is_drawn(build, make_batch):
    batch = make_batch(0, 1, 2)
    objective = CTCObjective(build(mask_time_probability=0.0))
    assert batch.mask_time_indices is None
    assert torch.equal(objective.train()(batch)[0], objective.eval()(batch)[0])


def test_dropout_acts_in_training_only(build, make_batch):
    batch = make_batch(0, 1)
    objective = CTCObjective(build(dropout=0.3))
    assert not torch.equal(objective.train()(batch)[0], objective(batch)[0])
    assert torch.equal(objective.eval()(batch)[0], objective(batch)[0])


def test_features_are_masked_where_the_batch_says_and_in_training_only(build, make_batch):
    objective, batch = CTCObjective(build()), make_batch(0, 1, mask_feature=(0.3, 4))
    assert batch.mask_feature_indices.any()
    seen = []
    encoder = objective.model.wav2vec2.encoder
    # Hooks run in the order of their making: this one sees what the objective's leaves.
    encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    objective.train()(batch)
    objective.eval()(batch)
    zero = (seen[0] == 0).all(dim=1)
    assert torch.equal(zero, batch.mask_feature_indices)
    assert not (seen[1] == 0).all(dim=1).any()


def test_a_skipped_layer_returns_its_input_and_every_parameter_has_a_gradient(build, make_batch):
    model, plain, batch = build(layer_drop=0.5).train(), build().train(), make_batch(0, 1)
    torch.manual_seed(0)
    losses = {float(CTCObjective(model)(batch)[0].detach()) for _ in range(30)}
    assert len(losses) == 4  # Of two layers any may be left out.
    without_layers = build().train()
    without_layers.wav2vec2.encoder.layers = torch.nn.ModuleList()
    expected = {float(CTCObjective(kind)(batch)[0].detach()) for kind in (plain, without_layers)}
    assert all(min(abs(loss - found) for found in losses) < 1e-4 for loss in expected)
    for _ in range(6):
        model.zero_grad()
        CTCObjective(model)(batch)[0].backward()
        assert all(p.grad is not None for p in model.wav2vec2.encoder.layers.parameters())
    evaluated = CTCObjective(model).eval()(batch)[0].item()
    assert evaluated == pytest.approx(CTCObjective(plain).eval()(batch)[0].item())


def test_a_copy_of_a_model_with_layer_drop_computes_with_its_own_weights(build, make_batch):
    model, batch = build(layer_drop=0.5).eval(), make_batch(0, 1)
    other = deepcopy(model)
    for parameter in other.wav2vec2.encoder.layers.parameters():
        parameter.data.zero_()
    assert CTCObjective(model)(batch)[0].item() != CTCObjective(other)(batch)[0].item()


def test_gradient_checkpointing_gives_the_same_gradient_with_dropout_and_layer_drop(build, make_batch):
    gradients = []
    for checkpointing in (False, True):
        model = build(dropout=0.2, layer_drop=0.4, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(1)
        CTCObjective(model)(make_batch(0, 1))[0].backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        layers = [layer.gradient_checkpointing for layer in model.wav2vec2.encoder.layers]
        assert layers == [checkpointing] * 2
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_attention_can_be_chosen(build, make_batch):
    batch = make_batch(0, 2)
    losses = [CTCObjective(build(attention=name)).eval()(batch)[0].item() for name in ("sdpa", "eager")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert build(attention="eager").config._attn_implementation == "eager"
    with pytest.raises(UserError, match="can't be loaded as a model"):
        build(attention="flash_attention_2")


def test_what_a_config_asks_of_other_programs_is_left_out(base_folder, tmp_path, build, make_batch):
    """As the one of facebook/wav2vec2-base, which has `gradient_checkpointing`."""
    asked = {"gradient_checkpointing": True, "output_attentions": True, "output_hidden_states": True}
    base = shutil.copytree(base_folder, tmp_path / "base")
    values = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**values, **asked, "return_dict": False}))
    model = build(str(base)).train()
    use_cpu_operations(model)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    CTCObjective(model)(make_batch(0, 2))[0].backward()
    model.save_pretrained(tmp_path / "model")
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert not any(written.get(key) for key in asked)
