"""The loss is a sum over utterances, and the sum that transformers finds for each of them."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from finetune.models.build import CTCObjective

UTTERANCES = (0, 1, 2, 5)  # 0.5 s to 1.5 s: padding matters


@pytest.fixture(params=["layer norm", "group norm"])
def objective(request, build, base_folder, group_norm_base_folder):
    base = base_folder if request.param == "layer norm" else group_norm_base_folder
    return CTCObjective(build(str(base), freeze_feature_encoder=False)).eval().requires_grad_(False)


def in_float64(batch):
    return replace(batch, input_values=batch.input_values.double())


def test_sum_equals_the_sum_of_transformers_losses(objective, make_batch):
    model = objective.model
    model.config.ctc_loss_reduction = "sum"
    expected = 0.0
    for index in UTTERANCES:
        single = make_batch(index)
        labels = single.labels[None]
        expected += model(single.input_values, attention_mask=single.attention_mask, labels=labels).loss.item()
    assert float(objective(make_batch(*UTTERANCES))[0]) == pytest.approx(expected, abs=1e-3)


def test_padded_batch_equals_single_utterances(objective, make_batch):
    batch = make_batch(*UTTERANCES)
    singles = sum(float(objective(make_batch(index))[0]) for index in UTTERANCES)
    assert len(set(batch.num_frames.tolist())) > 1
    assert float(objective(batch)[0]) == pytest.approx(singles, abs=1e-3)


def test_gradients_of_a_padded_batch_are_the_sum_of_those_alone(objective, make_batch):
    together, alone = objective.double().requires_grad_(True), deepcopy(objective)
    together(in_float64(make_batch(*UTTERANCES)))[0].backward()
    for index in UTTERANCES:
        alone(in_float64(make_batch(index)))[0].backward()
    for (name, parameter), (_, expected) in zip(together.named_parameters(), alone.named_parameters(), strict=True):
        if not name.endswith("masked_spec_embed"):  # no masks here
            # The loss is in float32, whatever the model is in.
            assert torch.allclose(parameter.grad, expected.grad, rtol=1e-3, atol=1e-4), name


def test_loss_is_a_sum_and_no_average(objective, make_batch):
    assert float(objective(make_batch(1, 1))[0]) == pytest.approx(2 * float(objective(make_batch(1))[0]), rel=1e-5)


def test_utterance_without_labels_adds_nothing(objective, make_batch):
    batch = make_batch(0, 2)
    first = int(batch.label_lengths[0])
    emptied = replace(batch, labels=batch.labels[first:], label_lengths=torch.tensor([0, batch.label_lengths[1]]))
    assert float(objective(emptied)[0]) == pytest.approx(float(objective(make_batch(2))[0]), abs=1e-3)


def test_batch_without_any_labels_has_loss_zero_and_gradient_zero(build, make_batch):
    objective = CTCObjective(build())
    batch = replace(make_batch(0), labels=torch.zeros(0, dtype=torch.long), label_lengths=torch.tensor([0]))
    loss, _ = objective(batch)
    loss.backward()
    assert loss.item() == 0.0
    assert not objective.model.lm_head.weight.grad.any()


def test_more_labels_than_frames_add_nothing_instead_of_infinity(objective, make_batch):
    batch = make_batch(0)
    many = torch.full((int(batch.num_frames[0]) + 1,), 2)
    loss, impossible = objective(replace(batch, labels=many, label_lengths=torch.tensor([len(many)])))
    assert (float(loss), impossible.tolist()) == (0.0, [True])
    assert objective(batch)[1].tolist() == [False]


def test_mixed_precision_of_its_own_is_that_of_an_autocast_around_it(build, make_batch):
    batch, plain = make_batch(*UTTERANCES), CTCObjective(build())
    cast = CTCObjective(build(), autocast=torch.autocast("cpu", torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        expected = float(plain(batch)[0].detach())
    assert float(cast(batch)[0].detach()) == expected != float(plain(batch)[0].detach())
    assert "forward" not in vars(cast)


@pytest.mark.slow
def test_compiled_encoder_gives_the_same_and_is_compiled_a_few_times(build, make_batch, monkeypatch):
    """Only the front end of the compiler runs: the back end needs a C++ compiler or a GPU."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    plain, compiled = CTCObjective(build()).train(), CTCObjective(build(), compiled=True).train()
    pieces = 0
    for indices in ((0, 1), (2, 5, 8), (3,), (0, 1, 2, 3), (4, 7), (5, 8, 11, 14)):
        batch = make_batch(*indices, mask_time=(0.2, 4), mask_feature=(0.2, 4))
        losses = [objective(batch)[0] for objective in (plain, compiled)]
        pieces = pieces or counter.frame_count  # One; five in Transformers 5.20, where a function breaks the graph.
        assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=1e-4)
    gradients = [
        torch.autograd.grad(loss, objective.model.lm_head.weight)[0]
        for loss, objective in zip(losses, (plain, compiled), strict=True)
    ]
    assert torch.allclose(*gradients, atol=1e-3)
    assert 1 <= counter.frame_count <= 6 * pieces, counter.frame_count
