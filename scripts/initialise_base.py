"""Make a wav2vec2 of the encoder of a Whisper model, as a start for training with CTC.

    python scripts/initialise_base.py WHISPER SPEECH OUTPUT [--base BASE] [--inner 512] [--steps 300]

WHISPER is a model in CTranslate2's format (float16), SPEECH a folder of recordings at 16 kHz without transcripts, and
BASE a small wav2vec2 with a head, whose convolutions and vocabulary are used. Written is a folder that
`model.base=OUTPUT` reads.

Whisper's layers and those of a wav2vec2 with `do_stable_layer_norm` compute the same; only what comes before differs.
1. A linear map of the base's convolutions imitates the output of Whisper's convolutions (least squares).
2. The layers are copied. In each feed-forward part the `--inner` units that contribute most variance are kept, and the
   output of all is fitted to theirs (least squares).
3. Whisper adds absolute positions to its input, which a wav2vec2 cannot know, and its attention depends on them. So the
   student is trained for a few minutes to predict Whisper's features, at random positions, from the waveform; what a
   linear map of the positions alone predicts of them is subtracted. Its head learns the base's probabilities of letters
   in each frame meanwhile: CTC alone begins with hundreds of steps in which all is blank.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from synthesis import SynthesisError, report
from torch import nn
from transformers import get_linear_schedule_with_warmup
from whisper_encoder import SAMPLING_RATE, WhisperEncoder, explained, fit_linear, read_weights

NUM_STATISTICS_FILES = 150
NUM_HELD_OUT = 40
RIDGE = 5e-4
SILENCE_SECONDS = 0.5  # behind an utterance, for Whisper
MAX_POSITION, MAX_SECONDS = 600, 15  # 12 + 15 of the 30 seconds that have positions
BATCH_SIZE = 10
PEAK_LEARNING_RATE = 1e-3
WARMUP_RATIO = 0.05
INNER_WEIGHT = 0.3  # of the losses of inner layers, where that of the last one is 1
LETTER_WEIGHT = 2.0  # of the divergence from the base's probabilities
POSITION_KERNEL, POSITION_GROUPS = 64, 16


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Linear maps fitted to some speech.

    `positions` gives for each output of Whisper's layers the map that predicts it from positions, and `deviations` what
    remains; `stem` maps the base's convolutions to Whisper's, `probe` the base's last layer to Whisper's features;
    `kept` and `inner` are for each layer the kept units and the map from them to the output of all.
    """

    positions: list[tuple[torch.Tensor, torch.Tensor]]
    deviations: list[torch.Tensor]
    stem: tuple[torch.Tensor, torch.Tensor]
    probe: tuple[torch.Tensor, torch.Tensor]
    kept: list[torch.Tensor]
    inner: list[tuple[torch.Tensor, torch.Tensor]]


def read(path: Path) -> torch.Tensor:
    """The samples of a recording, at most MAX_SECONDS; raises SynthesisError for another sampling rate."""
    samples, sampling_rate = soundfile.read(path, dtype="float32")
    if sampling_rate != SAMPLING_RATE:
        raise SynthesisError(f"{path} has a sampling rate of {sampling_rate} Hz; expected {SAMPLING_RATE}")
    return torch.from_numpy(samples[: MAX_SECONDS * SAMPLING_RATE])


def normalise(samples: torch.Tensor) -> torch.Tensor:
    """What wav2vec2's feature extractor does, (samples,) or (batch, samples)."""
    variance, mean = torch.var_mean(samples, dim=-1, keepdim=True, correction=0)
    return (samples - mean) / (variance + 1e-7).sqrt()


def hear(teacher: WhisperEncoder, samples: torch.Tensor) -> torch.Tensor:
    """The output of Whisper's convolutions, for (batch, samples)."""
    return teacher.stem(nn.functional.pad(samples, (0, int(SILENCE_SECONDS * SAMPLING_RATE))))


def place(teacher: WhisperEncoder, offset: int, num_frames: int) -> torch.Tensor:
    """Positions of frames from `offset` on, (frames, width)."""
    return teacher.positions[offset : offset + num_frames]


@torch.no_grad()
def collect(teacher: WhisperEncoder, base: Any, paths: list[Path], inner: int, seed: int) -> Statistics:
    """Hear recordings with both models, and fit the linear maps."""
    generator = random.Random(seed)
    inside: list[list[torch.Tensor]] = [[] for _ in range(teacher.num_layers)]
    outputs: list[list[torch.Tensor]] = [[] for _ in range(teacher.num_layers + 1)]
    places, stems, convolved, hidden = [], [], [], []
    for path in paths:
        samples = read(path)[None]
        features = base.wav2vec2.feature_extractor(normalise(samples)).transpose(1, 2)[0]
        count = len(features)
        stem, offset = hear(teacher, samples), generator.randrange(MAX_POSITION)
        heard = teacher.layers(
            stem + place(teacher, offset, stem.shape[1]), lambda layer, values: inside[layer].append(values[0])
        )
        for values, output in zip(outputs, heard, strict=True):
            values.append(output[0, :count])
        places.append(place(teacher, offset, count))
        stems.append(stem[0, :count])
        convolved.append(nn.functional.layer_norm(features, features.shape[-1:]))
        hidden.append(base.wav2vec2(normalise(samples)).last_hidden_state[0])
    place_of = torch.cat(places)
    positions = [fit_linear(place_of, torch.cat(values), RIDGE) for values in outputs]
    left = [torch.cat(v) - nn.functional.linear(place_of, *p) for v, p in zip(outputs, positions, strict=True)]
    kept, maps = [], []
    for layer, values in enumerate(inside):
        active, weight = torch.cat(values), teacher.weights[f"layer_{layer}/ffn/linear_1/weight"]
        kept.append((active.var(0) * weight.square().sum(0)).topk(inner).indices)
        maps.append(fit_linear(active[:, kept[-1]], active @ weight.T, RIDGE))
    return Statistics(
        positions=positions,
        deviations=[values.std(0) for values in left],
        stem=fit_linear(torch.cat(convolved), torch.cat(stems), RIDGE),
        probe=fit_linear(torch.cat(hidden), left[-1], RIDGE),
        kept=kept,
        inner=maps,
    )


@torch.no_grad()
def build_student(teacher: WhisperEncoder, base: Any, statistics: Statistics) -> Any:
    """A `Wav2Vec2ForCTC` with the base's convolutions and Whisper's layers, and a random head."""
    from transformers import Wav2Vec2ForCTC

    config = copy.deepcopy(base.config)
    config.update(
        {
            "hidden_size": teacher.width,
            "num_attention_heads": teacher.num_heads,
            "intermediate_size": len(statistics.kept[0]),
            "num_hidden_layers": teacher.num_layers,
            "num_conv_pos_embeddings": POSITION_KERNEL,
            "num_conv_pos_embedding_groups": POSITION_GROUPS,
        }
    )
    student: Any = Wav2Vec2ForCTC(config)
    encoder = student.wav2vec2.encoder
    student.wav2vec2.feature_extractor.load_state_dict(base.wav2vec2.feature_extractor.state_dict())
    _copy(student.wav2vec2.feature_projection.projection, *statistics.stem)
    for number, layer in enumerate(encoder.layers):
        part, attention = f"layer_{number}/self_attention", layer.attention
        joined = [teacher.weights[f"{part}/linear_0/{name}"].chunk(3) for name in ("weight", "bias")]
        for linear, weight, bias in zip((attention.q_proj, attention.k_proj, attention.v_proj), *joined, strict=True):
            _copy(linear, weight, bias)
        _copy(attention.out_proj, *(teacher.weights[f"{part}/linear_1/{name}"] for name in ("weight", "bias")))
        _copy_normalisation(layer.layer_norm, teacher, f"{part}/layer_norm")
        part, kept, forward = f"layer_{number}/ffn", statistics.kept[number], layer.feed_forward
        _copy_normalisation(layer.final_layer_norm, teacher, f"{part}/layer_norm")
        inside = (teacher.weights[f"{part}/linear_0/{name}"][kept] for name in ("weight", "bias"))
        _copy(forward.intermediate_dense, *inside)
        weight, bias = statistics.inner[number]
        _copy(forward.output_dense, weight, bias + teacher.weights[f"{part}/linear_1/bias"])
    _copy_normalisation(encoder.layer_norm, teacher, "layer_norm")
    return student


def _copy(linear: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)


def _copy_normalisation(norm: nn.LayerNorm, teacher: WhisperEncoder, name: str) -> None:
    norm.weight.copy_(teacher.weights[f"{name}/gamma"])
    norm.bias.copy_(teacher.weights[f"{name}/beta"])


def make_targets(
    teacher: WhisperEncoder, statistics: Statistics, samples: torch.Tensor, offset: int, num_frames: int
) -> list[torch.Tensor]:
    """Whisper's features of each layer and after the last normalisation without what positions tell of them."""
    with torch.no_grad():
        stem = hear(teacher, samples)
        outputs = teacher.layers(stem + place(teacher, offset, stem.shape[1]))
        places = place(teacher, offset, num_frames)
        return [
            output[:, :num_frames] - nn.functional.linear(places, *position)
            for output, position in zip(outputs, statistics.positions, strict=True)
        ]


def imitate(
    student: Any,
    base: Any,
    teacher: WhisperEncoder,
    statistics: Statistics,
    paths: list[Path],
    num_steps: int,
    seed: int,
) -> nn.Linear:
    """Train the student to predict the teacher's features and the base's letters.

    Returns the layer that predicts the features from the student's output.
    """
    generator = random.Random(seed)
    inner = [layer for layer in range(teacher.num_layers - 1) if layer % 2]
    heads = [nn.Linear(teacher.width, teacher.width) for _ in (*inner, -1)]
    for head in heads:
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
    parameters = [*student.parameters(), *nn.ModuleList(heads).parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    warmup_steps = max(1, round(WARMUP_RATIO * num_steps))
    schedule = get_linear_schedule_with_warmup(optimizer, warmup_steps, num_steps)
    by_length = sorted(paths, key=lambda path: soundfile.info(path).frames)
    started = time.monotonic()
    for step in range(num_steps):
        first = generator.randrange(max(1, len(by_length) - BATCH_SIZE + 1))
        chosen = [read(path) for path in by_length[first : first + BATCH_SIZE]]
        shortest = min(len(samples) for samples in chosen)
        samples = torch.stack([utterance[:shortest] for utterance in chosen])
        result = student.wav2vec2(normalise(samples), output_hidden_states=True)
        predictions = [result.hidden_states[layer + 1] for layer in inner] + [result.last_hidden_state]
        num_frames = predictions[-1].shape[1]
        targets = make_targets(teacher, statistics, samples, generator.randrange(MAX_POSITION), num_frames)
        with torch.no_grad():
            letters = base(normalise(samples)).logits.log_softmax(-1)
        written = student.lm_head(predictions[-1]).log_softmax(-1)
        divergence = nn.functional.kl_div(written, letters, reduction="none", log_target=True).sum(-1).mean()
        loss = LETTER_WEIGHT * divergence
        for head, layer, predicted in zip(heads, (*inner, -1), predictions, strict=True):
            error = ((head(predicted) - targets[layer]) / statistics.deviations[layer]).square().mean()
            loss = loss + (error if layer == -1 else INNER_WEIGHT * error)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 25 == 0:
            left = (time.monotonic() - started) / (step + 1) * (num_steps - step - 1) / 60
            print(f"step {step + 1}/{num_steps}: loss {loss.item():.3f}, {left:.1f} min left", file=sys.stderr)
    return heads[-1]


@torch.no_grad()
def measure(
    student: Any, head: nn.Linear, base: Any, teacher: WhisperEncoder, statistics: Statistics, paths: list[Path]
) -> str:
    """The share of the variance of Whisper's features that the student explains, and a linear map of the base."""
    targets, by_student, by_base = [], [], []
    for path in paths:
        samples = read(path)[None]
        by_student.append(head(student.wav2vec2(normalise(samples)).last_hidden_state[0]))
        by_base.append(nn.functional.linear(base.wav2vec2(normalise(samples)).last_hidden_state[0], *statistics.probe))
        targets.append(make_targets(teacher, statistics, samples, 100, len(by_student[-1]))[-1][0])
    shares = explained(by_student, targets), explained(by_base, targets)
    return f"variance of Whisper's features explained: {shares[0]:.2f} (by a linear map of the base: {shares[1]:.2f})"


def initialise(options: argparse.Namespace) -> str:
    """Write the new base, and return a summary."""
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    paths = sorted(path for path in options.speech.rglob("*") if path.suffix in (".flac", ".wav"))
    if len(paths) <= NUM_HELD_OUT:
        raise SynthesisError(f"{options.speech} has {len(paths)} recordings; expected more than {NUM_HELD_OUT}")
    if options.output.exists():
        raise SynthesisError(f"{options.output} exists already; remove it or choose another folder")
    random.Random(options.seed).shuffle(paths)
    held_out, paths = paths[:NUM_HELD_OUT], paths[NUM_HELD_OUT:]
    torch.manual_seed(options.seed)
    teacher = WhisperEncoder(read_weights(options.whisper / "model.bin"))
    base: Any = Wav2Vec2ForCTC.from_pretrained(options.base).eval()
    statistics = collect(teacher, base, paths[:NUM_STATISTICS_FILES], options.inner, options.seed)
    student = build_student(teacher, base, statistics)
    head = imitate(student, base, teacher, statistics, paths, options.steps, options.seed)
    student.eval()
    summary = measure(student, head, base, teacher, statistics, held_out)
    partial = options.output.with_name(f".{options.output.name}.partial")
    student.save_pretrained(partial)
    Wav2Vec2Processor.from_pretrained(options.base).save_pretrained(partial)
    partial.rename(options.output)
    return f"{sum(p.numel() for p in student.parameters()) / 1e6:.1f} million parameters; {summary}"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("whisper", type=Path, help="folder of a Whisper model in CTranslate2's format")
    parser.add_argument("speech", type=Path, help="folder of recordings at 16 kHz")
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", type=Path, default=Path(__file__).parent.parent / "recipes/quickstart/base")
    parser.add_argument("--inner", type=int, default=512, help="units in each feed-forward part (default: 512)")
    parser.add_argument("--steps", type=int, default=300, help=f"of {BATCH_SIZE} utterances (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return report(lambda: initialise(options))


if __name__ == "__main__":
    sys.exit(main())
