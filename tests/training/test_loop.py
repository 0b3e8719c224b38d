"""A step divides by the global count of labels, and the loop calls its hooks at the right steps."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from finetune.errors import Interrupted, UserError
from finetune.models.build import CTCObjective
from finetune.training.loop import MAX_SKIPPED_STEPS, Hooks, Schedule, Validation, summarize, train, train_step
from finetune.training.optimization import build_optimizer, learning_rate_factor


def gradients(accelerator, model, micro_batches, max_norm=math.inf):
    """The gradients and the result of a step: with SGD at rate 1 the change of a parameter is its gradient."""
    model = deepcopy(model).train()
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    result = train_step(accelerator, CTCObjective(model), optimizer, micro_batches, max_norm)
    after = [p.detach() for p in model.parameters() if p.requires_grad]
    return [a - b for a, b in zip(before, after, strict=True)], result


def test_two_micro_batches_have_the_gradient_of_one_batch_of_both(accelerator, build, make_batch):
    model = build()
    apart, apart_result = gradients(accelerator, model, [make_batch(0, 1), make_batch(2, 5, 8)])
    whole, whole_result = gradients(accelerator, model, [make_batch(0, 1, 2, 5, 8)])
    assert max(float((a - b).abs().max()) for a, b in zip(apart, whole, strict=True)) < 1e-5
    assert max(float(a.abs().max()) for a in apart) > 1e-2
    assert apart_result.labels == whole_result.labels == int(make_batch(0, 1, 2, 5, 8).label_lengths.sum())
    assert apart_result.loss_sum == pytest.approx(whole_result.loss_sum, abs=1e-3)


def test_gradient_is_of_the_loss_for_each_label(accelerator, build, make_batch):
    model, batch = build().train(), make_batch(0, 2)
    taught, _ = gradients(accelerator, model, [batch])
    (CTCObjective(model)(batch)[0] / batch.label_lengths.sum()).backward()
    expected = [p.grad for p in model.parameters() if p.requires_grad]
    assert max(float((a - b).abs().max()) for a, b in zip(taught, expected, strict=True)) < 1e-5


def test_gradient_is_clipped_and_its_norm_reported_unclipped(accelerator, build, make_batch):
    model = build()
    full, result = gradients(accelerator, model, [make_batch(0, 2)])
    clipped, clipped_result = gradients(accelerator, model, [make_batch(0, 2)], max_norm=0.1)
    norm = math.sqrt(sum(float(g.square().sum()) for g in full))
    assert norm > 0.1
    assert result.gradient_norm == clipped_result.gradient_norm == pytest.approx(norm, rel=1e-3)
    assert math.sqrt(sum(float(g.square().sum()) for g in clipped)) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradient_that_is_not_finite_changes_nothing(accelerator, build, make_batch, value):
    model, batch = build().train(), make_batch(0, 2)
    objective, optimizer = CTCObjective(model), build_optimizer(model, 1e-2, 0.1)
    train_step(accelerator, objective, optimizer, [batch], 1.0)
    weights, state = deepcopy(model.state_dict()), deepcopy(optimizer.state_dict())
    broken = replace(batch, input_values=torch.full_like(batch.input_values, value))
    result = train_step(accelerator, objective, optimizer, [batch, broken], 1.0)
    assert not math.isfinite(result.gradient_norm)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    for number, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(values[name], state["state"][number][name]) for name in values)
    train_step(accelerator, objective, optimizer, [batch], 1.0)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert not torch.equal(weights["lm_head.weight"], model.lm_head.weight)


class Recorder:
    """Hooks that record their calls."""

    def __init__(self):
        self.logged, self.evaluated, self.saved, self.rejected = {}, [], [], []
        self.results, self.published = [], []
        self.stops_at = self.best_at = None
        self.hooks = Hooks(self.logged.__setitem__, self.evaluate, self.save, self.rejected.append, self.interrupted)

    def evaluate(self, step):
        self.evaluated.append(step)
        return Validation(goes_on=step != self.best_at, published=f"scores of {step}")

    def save(self, step, results, validation):
        self.saved.append(step)
        self.results = results
        self.published.append(validation and validation.published)

    def interrupted(self):
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked == self.stops_at


def run_loop(accelerator, model, batches, first_step=0, recorder=None, results=(), **changes):
    values = {
        "max_steps": 5,
        "learning_rate": lambda step: 1e-3 * learning_rate_factor(step, 5, 0.4),
        "max_gradient_norm": 1.0,
        "micro_batches": 1,
        "eval_steps": 2,
        "log_steps": 2,
        "seed": 0,
        "sampling_rate": 16000,
    }
    recorder, optimizer = recorder or Recorder(), build_optimizer(model, 1e-3, 0.0)
    train(
        accelerator,
        CTCObjective(model),
        optimizer,
        iter(batches),
        Schedule(**{**values, **changes}),
        recorder.hooks,
        first_step=first_step,
        results=results,
    )
    return recorder, optimizer


def test_hooks_are_called_at_their_steps_and_at_the_last(accelerator, build, make_batch):
    recorder, optimizer = run_loop(accelerator, build(), [make_batch(0)] * 5)
    assert list(recorder.logged) == recorder.evaluated == recorder.saved == [2, 4, 5]
    assert recorder.published == ["scores of 2", "scores of 4", "scores of 5"]
    assert recorder.logged[5]["learning_rate"] == pytest.approx(1e-3 * learning_rate_factor(4, 5, 0.4))
    assert optimizer.param_groups[0]["lr"] == recorder.logged[5]["learning_rate"]


def test_logged_loss_is_over_all_labels_since_the_last_line(accelerator, build, make_batch):
    model = build()
    objective = CTCObjective(deepcopy(model)).train()
    short, long = make_batch(0), make_batch(2, 5)
    recorder, _ = run_loop(accelerator, model, [short, long], max_steps=2, learning_rate=lambda step: 0.0)
    expected = (objective(short)[0] + objective(long)[0]) / (short.label_lengths.sum() + long.label_lengths.sum())
    assert recorder.logged[2]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_logged_padding_is_the_share_of_all_samples_since_the_last_line(accelerator, build, make_batch):
    batches = [make_batch(0), make_batch(2, 5)]
    recorder, _ = run_loop(accelerator, build(), batches, max_steps=2)
    padded = sum(batch.input_values.numel() for batch in batches)
    speech = sum(int(batch.attention_mask.sum()) for batch in batches)
    assert 0 < recorder.logged[2]["padding"] == pytest.approx(1 - speech / padded)


def test_no_logged_loss_has_steps_before_a_checkpoint(accelerator, build, make_batch):
    """A resumed run does not know the steps before, and would log another loss than an uninterrupted one."""
    batches = [make_batch(i) for i in range(6)]
    whole, _ = run_loop(
        accelerator, build(), batches, max_steps=6, learning_rate=lambda step: 0.0, eval_steps=2, log_steps=3
    )
    rest, _ = run_loop(
        accelerator, build(), batches[2:], 2, max_steps=6, learning_rate=lambda step: 0.0, eval_steps=2, log_steps=3
    )
    assert rest.saved == [4, 6]
    assert {step: whole.logged[step]["loss"] for step in rest.logged} == {
        step: values["loss"] for step, values in rest.logged.items()
    }


def test_each_step_takes_its_micro_batches_in_order(accelerator, build, make_batch):
    batches = iter([make_batch(i) for i in range(7)])
    run_loop(accelerator, build(), batches, max_steps=3, micro_batches=2)
    assert torch.equal(next(batches).input_values, make_batch(6).input_values)


def test_unreadable_utterances_are_rejected(accelerator, build, make_batch):
    rejection = object()
    batches = [make_batch(0), replace(make_batch(1), unreadable=(rejection,))]
    recorder, _ = run_loop(accelerator, build(), batches, max_steps=2)
    assert recorder.rejected == [rejection]


def test_model_is_in_training_mode_after_an_evaluation(accelerator, build, make_batch):
    model, modes = build(dropout=0.1), []
    recorder = Recorder()
    hooks = replace(
        recorder.hooks,
        evaluate=lambda step: Validation(bool(model.eval())),
        save=lambda *_: modes.append(model.training),
    )
    schedule = Schedule(2, lambda step: 1e-3, 1.0, 1, 1, 1, 0, 16000)
    train(
        accelerator, CTCObjective(model), build_optimizer(model, 1e-3, 0.0), iter([make_batch(0)] * 2), schedule, hooks
    )
    assert modes == [True, True]


def test_interrupted_training_saves_after_the_step_and_the_rest_is_the_same(accelerator, build, make_batch):
    """Logged losses are the same too: one line covers steps before and after the interruption."""
    batches = [make_batch(i) for i in range(6)]
    model = build()
    whole, _ = run_loop(accelerator, deepcopy(model), batches, max_steps=6, eval_steps=6, log_steps=4)
    recorder = Recorder()
    recorder.stops_at = 3
    interrupted = deepcopy(model)
    with pytest.raises(Interrupted, match="3"):
        run_loop(accelerator, interrupted, batches, recorder=recorder, max_steps=6, eval_steps=6, log_steps=4)
    assert (recorder.saved, recorder.evaluated, recorder.logged, recorder.published) == ([3], [], {}, [None])
    assert len(recorder.results) == 3
    rest, _ = run_loop(
        accelerator, model, batches[3:], 3, results=recorder.results, max_steps=6, eval_steps=6, log_steps=4
    )
    assert list(rest.logged) == [4, 6]
    assert rest.logged[4]["padding"] == whole.logged[4]["padding"]


def test_training_interrupted_at_an_evaluation_still_evaluates(accelerator, build, make_batch):
    recorder = Recorder()
    recorder.stops_at = 2
    with pytest.raises(Interrupted):
        run_loop(accelerator, build(), [make_batch(0)] * 5, recorder=recorder)
    assert recorder.evaluated == recorder.saved == [2]
    assert recorder.results == []


def test_training_ends_when_the_evaluation_says_so(accelerator, build, make_batch):
    recorder = Recorder()
    recorder.best_at = 2
    run_loop(accelerator, build(), [make_batch(0)] * 5, recorder=recorder)
    assert recorder.saved == [2]


def test_training_ends_after_its_time_with_an_evaluation(accelerator, build, make_batch):
    recorder, _ = run_loop(accelerator, build(), [make_batch(0)] * 5, max_seconds=0.0)
    assert recorder.evaluated == recorder.saved == list(recorder.logged) == [1]


def test_only_the_head_is_trained_in_frozen_steps(accelerator, build, make_batch):
    model = build()
    before = deepcopy(model)
    _, optimizer = run_loop(accelerator, model, [make_batch(0)] * 5, max_steps=2, frozen_steps=2)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    changed = [n for n, p in model.wav2vec2.named_parameters() if not torch.equal(p, before.wav2vec2.get_parameter(n))]
    assert changed == []
    assert set(optimizer.state) == set(model.lm_head.parameters())  # And the optimizer has not begun with the rest.
    run_loop(accelerator, model, [make_batch(0)] * 5, max_steps=2, frozen_steps=1)
    assert not torch.equal(
        model.wav2vec2.encoder.layers[0].final_layer_norm.bias, before.wav2vec2.encoder.layers[0].final_layer_norm.bias
    )


def test_utterance_without_a_finite_loss_is_rejected(accelerator, build, make_batch):
    batch, model = make_batch(0, 2, 5), build()
    batch.input_values[1] = math.nan
    others, rejected = make_batch(1, 3), []
    model.eval()  # Layer norm keeps what is broken to its own utterance.
    optimizer = build_optimizer(model, 1e-3, 0.0)
    result = train_step(accelerator, CTCObjective(model), optimizer, [others, batch], 1.0, reject=rejected.append)
    assert [(each.split, each.name, each.reason) for each in rejected] == [("train", "02.wav", "no finite loss")]
    assert result.impossible == 1
    halves = [half.without_loss for half in batch.halves()]
    assert [[each.name for each in half] for half in halves] == [["00.wav"], ["02.wav", "05.wav"]]


def test_labels_that_no_frames_are_left_for_do_not_make_the_gradient_smaller(accelerator, build, make_batch):
    good, model = make_batch(0, 2), build()
    frames = int(make_batch(5).num_frames[0])
    many = replace(make_batch(5), labels=torch.full((frames + 1,), 2), label_lengths=torch.tensor([frames + 1]))
    found = []
    for batches in ([good], [good, many]):
        trained = deepcopy(model)
        found.append(train_step(accelerator, CTCObjective(trained), build_optimizer(trained, 0.0, 0.0), batches, 1.0))
    alone, together = found
    assert together.impossible == 1 and together.labels == alone.labels
    assert together.gradient_norm == pytest.approx(alone.gradient_norm, rel=1e-4)


def test_too_many_steps_in_a_row_without_a_finite_gradient_end_the_run(accelerator, build, make_batch):
    broken = replace(make_batch(0), input_values=torch.full_like(make_batch(0).input_values, math.nan))
    count = MAX_SKIPPED_STEPS
    batches = [broken] * (count - 1) + [make_batch(0)] + [broken] * count
    recorder = Recorder()
    with pytest.raises(UserError, match=f"not finite in {count} steps in a row, up to step {2 * count}: lower"):
        run_loop(accelerator, build(), batches, recorder=recorder, max_steps=100, eval_steps=count, log_steps=count)
    assert recorder.saved == [count]
    assert recorder.logged[count]["skipped_steps"] == count - 1


class SmallMemory(torch.nn.Module):
    """An objective whose memory holds so many utterances, and that runs out in the middle of the backward pass."""

    def __init__(self, objective, most):
        super().__init__()
        self.objective, self.most, self.tried = objective, most, []

    def forward(self, batch, frozen):
        self.tried.append(len(batch.num_frames))
        loss, impossible = self.objective(batch, frozen)
        if self.tried[-1] > self.most:
            loss.register_hook(self.run_out)
        return loss, impossible

    def run_out(self, _):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_step_without_enough_memory_is_repeated_in_pieces_with_the_same_gradient(
    accelerator, build, make_batch, logged
):
    model, batches = build(), [make_batch(0), make_batch(2, 5, 8, 1, 4)]
    expected, whole = gradients(accelerator, model, batches)
    model = deepcopy(model).train()
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    objective = SmallMemory(CTCObjective(model), 2)
    result = train_step(accelerator, objective, optimizer, batches, math.inf)
    found = [a - b.detach() for a, b in zip(before, [p for p in model.parameters() if p.requires_grad], strict=True)]
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-5
    assert result.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)
    assert replace(result, loss_sum=0, gradient_norm=0) == replace(whole, loss_sum=0, gradient_norm=0)
    assert objective.tried == [1, 5, 1, 2, 3, 1, 1, 1, 1, 2]
    assert [line.rpartition(":")[0] for line in logged] == [
        "note: memory was too small for 5 utterances at a time",
        "note: memory was too small for 3 utterances at a time",
    ]


def test_sharded_step_without_enough_memory_is_not_repeated(accelerator, build, make_batch, monkeypatch):
    """Other processes would wait for another pass."""
    model = build()
    optimizer = build_optimizer(model, 1e-3, 0.0)
    monkeypatch.setattr("finetune.training.loop.is_sharded", lambda _: True)
    with pytest.raises(UserError, match=r"with FSDP the step can't be done again: lower training\.batch_seconds"):
        train_step(accelerator, SmallMemory(CTCObjective(model), 2), optimizer, [make_batch(2, 5, 8, 1, 4)], 1.0)


def test_memory_too_small_for_one_utterance_is_one_error(accelerator, build, make_batch):
    model = build().train()
    optimizer = build_optimizer(model, 1e-3, 0.0)
    with pytest.raises(UserError, match=r"too small for a single utterance: lower data\.max_seconds"):
        train_step(accelerator, SmallMemory(CTCObjective(model), 0), optimizer, [make_batch(0, 1)], 1.0)


class Counting(CTCObjective):
    """An objective with another sum to log: the utterances."""

    def forward(self, batch, frozen=False):
        loss, without_loss = super().forward(batch, frozen)
        return loss, without_loss, {"utterances_for_each_label": torch.tensor(float(len(batch.num_frames)))}


def test_other_sums_of_an_objective_are_added_up_and_divided_by_the_labels(accelerator, build, make_batch):
    model, batches = build(), [make_batch(0, 2), make_batch(1)]
    result = train_step(accelerator, Counting(model), build_optimizer(model, 1e-3, 0.0), batches, 1.0)
    assert result.sums == {"utterances_for_each_label": 3}
    assert summarize([result, result])["utterances_for_each_label"] == pytest.approx(3 / result.labels)


def test_what_begins_a_step_is_called_before_it(accelerator, build, make_batch):
    recorder, begun = Recorder(), []
    recorder.hooks = replace(recorder.hooks, begin=begun.append)
    run_loop(accelerator, build(), [make_batch(0)] * 3, first_step=2, recorder=recorder)
    assert begun == [2, 3, 4]
