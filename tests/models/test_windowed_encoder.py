"""Training in windows computes what a live session computes, and leaves evaluation and the saved model alone."""

import pytest
import torch

from finetune.models import windowed_encoder
from finetune.models.build import CTCObjective
from finetune.models.cpu_operations import use_cpu_operations
from finetune.models.windowed_encoder import WindowContext, encode_in_windows

UTTERANCES = (0, 1, 5)  # of different lengths
CONTEXT = WindowContext(left=9, right=(4, 4), chunk=7)


@pytest.fixture
def windowed(build, monkeypatch, request):
    """A model whose every training batch is computed in windows."""
    monkeypatch.setattr(windowed_encoder, "_SHARE", 1.0)
    model = build(dropout=0.0, freeze_feature_encoder=False)
    if getattr(request, "param", True):
        use_cpu_operations(model)
    encode_in_windows(model, CONTEXT)
    return model


@pytest.mark.parametrize("windowed", [True, False], ids=["cpu operations", "plain"], indirect=True)
def test_each_chunk_is_computed_in_a_window_by_itself(windowed, make_batch):
    batch = make_batch(*UTTERANCES)
    captured = {}
    encoder = windowed.wav2vec2.encoder
    encoder.register_forward_hook(
        lambda _, arguments, options, output: captured.update(hidden=arguments[0], output=output), with_kwargs=True
    )
    windowed.train()(batch.input_values, attention_mask=batch.attention_mask)
    hidden, output = captured["hidden"].detach().clone(), captured["output"].last_hidden_state
    chunk = max(CONTEXT.chunk, -(-hidden.shape[1] // windowed_encoder._MAX_WINDOWS))
    encoder.eval()
    num_windows = 0
    for row, frames in enumerate(batch.num_frames.tolist()):
        for start in range(0, frames, chunk):
            first, last = max(0, start - CONTEXT.left), min(frames, start + chunk + CONTEXT.right[0])
            alone = encoder(hidden[row : row + 1, first:last].clone()).last_hidden_state[0, start - first :][:chunk]
            assert torch.allclose(output[row, start : start + len(alone)], alone, atol=1e-5)
            num_windows += 1
    assert num_windows > 2 * len(batch.num_frames)


def test_a_window_that_is_the_whole_utterance_computes_the_rest():
    encoder = windowed_encoder._WindowedEncoder()
    encoder.context = WindowContext(left=30, right=(4, 4), chunk=7)
    assert list(encoder._cut(20, 7, 4)) == [(0, 11, 0, 7), (0, 18, 7, 14), (0, 20, 14, 20)]
    assert list(encoder._cut(20, 7, 8)) == [(0, 15, 0, 7), (0, 20, 7, 20)]
    assert list(encoder._cut(35, 16, 16)) == [(0, 32, 0, 16), (0, 35, 16, 32), (2, 35, 32, 35)]


def test_half_of_the_batches_see_whole_utterances_and_evaluation_always_does(build, make_batch):
    torch.manual_seed(0)
    batch, plain = make_batch(*UTTERANCES), build(dropout=0.0).train()
    model = build(dropout=0.0).train()
    encode_in_windows(model, CONTEXT)
    assert list(model.state_dict()) == list(plain.state_dict())

    def is_whole(trained):
        outputs = [
            each.wav2vec2(batch.input_values, attention_mask=batch.attention_mask).last_hidden_state
            for each in (trained, plain)
        ]
        return torch.allclose(*outputs, atol=1e-5)

    assert 5 < sum(is_whole(model) for _ in range(24)) < 19
    plain.eval()
    assert all(is_whole(model.eval()) for _ in range(4))


def test_gradients_reach_all_weights(windowed, make_batch):
    objective = CTCObjective(windowed.train())
    loss, _ = objective(make_batch(*UTTERANCES))
    loss.backward()
    lacking = [name for name, each in windowed.named_parameters() if each.grad is None or not each.grad.any()]
    assert set(lacking) <= {"wav2vec2.masked_spec_embed"}
