"""The loss of pre-training is that of Transformers, whatever the padding, and new parts follow from the seed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from pretraining import build, collate, masked_data
from safetensors.torch import load_file, save_file

from finetune.errors import UserError
from finetune.models.configuration import load_config
from finetune.models.pretraining import PretrainingObjective, build_pretraining_model, measure_perplexity, spread_codes


def objective_of(model, weight=0.1):
    return PretrainingObjective(model, diversity_weight=weight)


def indices_in_batch(batch):
    """Negatives as Transformers takes them: (batch, frames, negatives), numbers of frames of the whole batch."""
    masks = batch.mask_time_indices
    found = torch.zeros(*masks.shape, batch.labels.shape[1], dtype=torch.long)
    for i, rows in enumerate(batch.labels.split(batch.label_lengths.tolist())):
        places = masks[i].nonzero().flatten()
        found[i, places] = places[rows] + i * masks.shape[1]
    return found


def with_other_codes(batch, model):
    """A batch of one utterance with negatives of other codes alone: equal ones are rounded vectors in Transformers."""
    objective = objective_of(model).eval()
    _, logits = objective._encode(batch)
    codes = logits.argmax(-1)
    other = (codes[batch.labels] != codes[:, None]).any(-1)  # (masked, negatives)
    assert other.any(-1).all()
    chosen = [row[mask].repeat(len(row))[: len(row)] for row, mask in zip(batch.labels, other, strict=True)]
    return replace(batch, labels=torch.stack(chosen))


@pytest.mark.parametrize("training", [False, True])
def test_loss_is_that_of_transformers(base_folder, corpus_folder, monkeypatch, training):
    """In training without noise, which each draws in its own way."""
    from transformers import Wav2Vec2ForPreTraining

    model, _ = build(base_folder)
    batch = with_other_codes(collate(masked_data(base_folder, corpus_folder), 2), model)
    theirs = Wav2Vec2ForPreTraining(model.config).train(training)
    theirs.load_state_dict(model.state_dict())
    theirs.config.apply_spec_augment = True

    def choose(logits, tau, hard):
        soft = (logits / tau).softmax(-1)
        return torch.nn.functional.one_hot(soft.argmax(-1), logits.shape[-1]) + soft - soft.detach()

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", choose)
    monkeypatch.setattr(PretrainingObjective, "_draw_noise", lambda self, batch, logits: torch.zeros_like(logits))
    output = theirs(
        batch.input_values,
        attention_mask=batch.attention_mask,
        mask_time_indices=batch.mask_time_indices,
        sampled_negative_indices=indices_in_batch(batch),
    )
    objective = objective_of(model).train(training)
    if training:
        loss, _, sums = objective(batch)
        assert float(sums["contrastive_loss"]) == pytest.approx(output.contrastive_loss.item(), rel=1e-4)
        masked = int(batch.label_lengths.sum())
        assert float(sums["codebook_perplexity"]) / masked == pytest.approx(
            output.codevector_perplexity.item(), rel=1e-3
        )
        assert loss.item() == pytest.approx(output.loss.item(), rel=1e-4)
        loss.backward()
        output.loss.backward()
        gradients = {name: each.grad for name, each in theirs.named_parameters() if each.grad is not None}
        for name, parameter in model.named_parameters():
            if name in gradients:
                assert torch.allclose(
                    parameter.grad, gradients[name], atol=1e-7 + 2e-3 * float(gradients[name].abs().max())
                ), name
    else:
        assert objective.measure(batch).loss.item() == pytest.approx(output.contrastive_loss.item(), rel=1e-4)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_padding_changes_nothing(base_folder, group_norm_base_folder, corpus_folder, norm):
    base = base_folder if norm == "layer" else group_norm_base_folder
    data, objective = masked_data(base, corpus_folder), objective_of(build(base)[0], weight=0.0)
    together = objective(collate(data, 0, 2))[0]
    alone = sum(objective(collate(data, index))[0] for index in (0, 2))
    assert float(together.detach()) == pytest.approx(float(alone.detach()), rel=1e-4)
    counts = objective.eval().measure(collate(data, 0, 2))
    singles = [objective.measure(collate(data, index)) for index in (0, 2)]
    assert torch.equal(counts.codes, sum(each.codes for each in singles))
    assert int(counts.correct) == sum(int(each.correct) for each in singles)


def test_noise_depends_on_the_utterance_and_the_epoch(base_folder, corpus_folder):
    data, objective = masked_data(base_folder, corpus_folder), objective_of(build(base_folder)[0])
    batch = collate(data, 0, 2)
    assert torch.equal(objective(batch)[0], objective(batch)[0])
    assert not torch.equal(objective(batch)[0], objective(replace(batch, seeds=batch.seeds + 1))[0])
    logits = torch.zeros(int(batch.label_lengths.sum()), 2, 320)
    alone = batch.halves()[1]
    noise = objective._draw_noise(batch, logits)
    assert torch.equal(noise[batch.label_lengths[0] :], objective._draw_noise(alone, logits[batch.label_lengths[0] :]))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.05)  # Of a Gumbel distribution.


def test_temperature_decides_how_sharp_the_gradient_is(base_folder, corpus_folder):
    objective = objective_of(build(base_folder)[0])
    batch = collate(masked_data(base_folder, corpus_folder), 2)
    found = []
    for temperature in (2.0, 0.5):
        objective.temperature = temperature
        objective.zero_grad()
        objective(batch)[0].backward()
        found.append(objective.model.quantizer.weight_proj.weight.grad.clone())
    assert not torch.allclose(found[0], found[1])


def test_every_trained_weight_has_a_gradient(base_folder, corpus_folder):
    """Or several processes would wait for it; also where no frame is masked."""
    data = masked_data(base_folder, corpus_folder)
    batch = collate(data, 0, 2)
    model, _ = build(base_folder)
    objective_of(model)(batch)[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(float(each.weight.grad.abs().sum()) > 0 for each in (model.quantizer.weight_proj, model.project_q))
    model.zero_grad()
    nothing = {"mask_time_indices": torch.zeros_like(batch.mask_time_indices), "labels": batch.labels[:0]}
    empty = replace(batch, **nothing, label_lengths=torch.zeros_like(batch.label_lengths))
    loss = objective_of(model)(empty)[0]
    loss.backward()
    assert float(loss.detach()) == 0 and all(parameter.grad is not None for parameter in model.parameters())


def test_gradient_of_the_convolutions_is_scaled(base_folder, corpus_folder):
    batch = collate(masked_data(base_folder, corpus_folder), 2)
    gradients = {}
    for scale in (1.0, 0.1, 0.0):
        model, _ = build(base_folder, feature_gradient_scale=scale)
        objective_of(model)(batch)[0].backward()
        gradients[scale] = model.base_model.feature_extractor.conv_layers[3].conv.weight.grad
        projection = model.base_model.feature_projection.projection.weight.grad
        gradients[f"projection {scale}"] = projection
    assert torch.allclose(gradients[0.1], 0.1 * gradients[1.0], rtol=1e-3, atol=1e-6)
    assert torch.equal(gradients["projection 0.1"], gradients["projection 1.0"])
    assert gradients[0.0] is None


def test_frames_with_one_code_are_not_told_apart(base_folder, corpus_folder):
    """Without the rule a collapsed codebook would have a loss of zero and an accuracy of one."""
    model, _ = build(base_folder)
    with torch.no_grad():
        model.quantizer.weight_proj.weight.zero_()
        model.quantizer.weight_proj.bias.copy_(torch.arange(len(model.quantizer.weight_proj.bias)) / 100)
    counts = objective_of(model).eval().measure(collate(masked_data(base_folder, corpus_folder), 0, 2))
    assert float(counts.loss) == pytest.approx(0, abs=1e-4) and int(counts.correct) == 0
    assert (counts.codes > 0).sum().item() == 2


def test_a_new_quantizer_is_spread_over_the_codes(base_folder, corpus_folder):
    data, (model, _) = masked_data(base_folder, corpus_folder), build(base_folder)
    batches = [collate(data, *range(start, start + 8)) for start in (0, 8)]
    unheard, objective = collate(data, *range(16, 24)), objective_of(model).eval()

    def perplexity():
        codes = objective.measure(unheard).codes
        return measure_perplexity(codes / codes[0].sum()).item()

    before = perplexity()
    spread_codes(model, batches)
    assert perplexity() > 2 * before
    spread_codes(model, [replace(unheard, mask_time_indices=torch.zeros_like(unheard.mask_time_indices))])
    assert perplexity() > 2 * before


def test_perplexity_is_the_number_of_codes_that_are_in_use():
    codes = torch.zeros(2, 320)
    codes[:, :7] = 1 / 7
    assert float(measure_perplexity(codes)) == pytest.approx(14, rel=1e-3)
    assert float(measure_perplexity(torch.full((2, 320), 1 / 320))) == pytest.approx(640, rel=1e-3)


def test_new_parts_are_named_and_follow_from_the_seed(base_folder):
    (model, new), (again, _), (other, _) = build(base_folder), build(base_folder), build(base_folder, seed=1)
    assert new == ("quantizer",)
    name = "quantizer.weight_proj.weight"
    assert torch.equal(model.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(model.state_dict()[name], other.state_dict()[name])
    kept = "wav2vec2.encoder.layers.0.attention.k_proj.weight"
    assert torch.equal(model.state_dict()[kept], other.state_dict()[kept])
    assert build(None, base_folder)[1] == ()


def test_its_own_result_has_no_new_parts_and_ctc_heads_are_left_out(base_folder, model_folder, tmp_path):
    model, _ = build(base_folder)
    model.save_pretrained(tmp_path)
    again, new = build_pretraining_model(
        load_config(str(tmp_path)), str(tmp_path), dropout=0.0, feature_gradient_scale=0.1, seed=5
    )
    assert new == ()
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    assert build(model_folder)[1][0] == "quantizer"


def test_a_part_of_a_quantizer_is_refused(base_folder, tmp_path):
    build(base_folder)[0].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["quantizer.codevectors"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"some of the weights of a quantizer, and lacks quantizer.codevectors"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_codevectors_per_group": 10_000_000}, "weights of codes: expected"),
        ({"codevector_dim": 7}, "codevector_dim that num_codevector_groups divides"),
        ({"num_codevector_groups": 0}, "at least one of each"),
        ({"add_adapter": True}, "add_adapter"),
    ],
)
def test_codebooks_that_cannot_be_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        build_pretraining_model(tiny_config("layer", **changes), None, dropout=0.0, feature_gradient_scale=0.1, seed=0)


def test_relatives_are_refused_with_the_reason(tmp_path: Path):
    from transformers import HubertConfig

    with pytest.raises(
        UserError, match="A hubert model can't be pre-trained here: its own pre-training has another loss"
    ):
        build_pretraining_model(HubertConfig(), None, dropout=0.0, feature_gradient_scale=0.1, seed=0)
