"""Make a wav2vec2 of the encoder of a Whisper model, as a start for training with CTC.

    python scripts/initialise_base.py WHISPER SPEECH OUTPUT [--base BASE] [--inner 512] [--steps 1100]

WHISPER is a model in CTranslate2's format (float16), SPEECH a folder of recordings at 16 kHz without transcripts, and
BASE a wav2vec2 with a head, whose alphabet is used. Written is a folder that `model.base=OUTPUT` reads; its head is
random (distill_base.py goes on from there). A frame needs 65 ms of audio, where wav2vec2's need 25.

Whisper's layers and those of a wav2vec2 with `do_stable_layer_norm` compute the same; only what comes before differs.
1. Its convolutions are made to imitate Whisper's spectrum and convolutions (whisper_convolutions.py).
2. The layers are copied. In each feed-forward part the `--inner` units that contribute most variance are kept, and the
   output of all is fitted to theirs (least squares).
3. Whisper adds absolute positions to its input, which a wav2vec2 cannot know, and its attention depends on them. So the
   student is trained to predict Whisper's features, at random positions, from the waveform; what a linear map of the
   positions alone predicts of them is subtracted. The student hears rooms, noise and telephones where Whisper does not.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from synthesis import SynthesisError, report
from torch import nn
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup
from whisper_convolutions import FRAME_OFFSET, Crops, describe_convolutions, fit_convolutions, hear, normalise, read
from whisper_encoder import SAMPLING_RATE, WhisperEncoder, explained, fit_linear, read_weights

from finetune.audio.augmentation import Augmentation

NUM_STATISTICS_FILES = 150
NUM_HELD_OUT = 40
RIDGE = 5e-4
MIN_SECONDS = 1.0
MAX_POSITION, MAX_SECONDS = 600, 15  # 12 + 15 of the 30 seconds that have positions
BATCH_SECONDS = 24
PEAK_LEARNING_RATE = 3e-4
WARMUP_RATIO = 0.04
INNER_WEIGHT = 0.2  # of the losses of inner layers, where that of the last one is 1
POSITION_KERNEL, POSITION_GROUPS = 64, 16
DROPOUTS = (
    "activation_dropout",
    "attention_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "hidden_dropout",
    "layerdrop",
    "mask_time_prob",
)
VOICE = Augmentation(speed=(0.85, 1.2), formant_perturbation=0.15)  # that Whisper hears, too
ROOM = Augmentation(
    reverb_seconds=(0.1, 0.6),
    reverb_probability=0.4,
    noise_snr_db=(5, 35),
    noise_probability=0.6,
    telephone_probability=0.15,
)
ROOM_PROBABILITY = 0.75  # of a batch


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Linear maps fitted to what Whisper makes of some speech.

    `positions` gives for each output of Whisper's layers the map that predicts it from positions, and `deviations` what
    remains; `kept` and `inner` are for each layer the kept units and the map from them to the output of all.
    """

    positions: list[tuple[torch.Tensor, torch.Tensor]]
    deviations: list[torch.Tensor]
    kept: list[torch.Tensor]
    inner: list[tuple[torch.Tensor, torch.Tensor]]


def place(teacher: WhisperEncoder, offset: int, num_frames: int) -> torch.Tensor:
    """Positions of the student's frames in an utterance that begins at position `offset`, (frames, width)."""
    return teacher.positions[offset + FRAME_OFFSET :][:num_frames]


@torch.no_grad()
def collect(teacher: WhisperEncoder, paths: list[Path], inner: int, seed: int) -> Statistics:
    """Let Whisper hear recordings, and fit the linear maps."""
    generator = random.Random(seed)
    inside: list[list[torch.Tensor]] = [[] for _ in range(teacher.num_layers)]
    outputs: list[list[torch.Tensor]] = [[] for _ in range(teacher.num_layers + 1)]
    places = []
    for path in paths:
        samples = read(path, MAX_SECONDS)[None]
        stem = hear(teacher, samples)
        places.append(place(teacher, generator.randrange(MAX_POSITION), stem.shape[1]))
        heard = teacher.layers(stem + places[-1], lambda layer, values: inside[layer].append(values[0]))
        for values, output in zip(outputs, heard, strict=True):
            values.append(output[0])
    place_of = torch.cat(places)
    positions = [fit_linear(place_of, torch.cat(values), RIDGE) for values in outputs]
    left = [torch.cat(v) - nn.functional.linear(place_of, *p) for v, p in zip(outputs, positions, strict=True)]
    kept, maps = [], []
    for layer, values in enumerate(inside):
        active, weight = torch.cat(values), teacher.weights[f"layer_{layer}/ffn/linear_1/weight"]
        kept.append((active.var(0) * weight.square().sum(0)).topk(inner).indices)
        maps.append(fit_linear(active[:, kept[-1]], active @ weight.T, RIDGE))
    return Statistics(positions=positions, deviations=[values.std(0) for values in left], kept=kept, inner=maps)


@torch.no_grad()
def build_student(teacher: WhisperEncoder, tokenizer: Any, statistics: Statistics) -> Any:
    """A `Wav2Vec2ForCTC` with Whisper's layers; its convolutions and its head, of the tokenizer's size, are random."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        **describe_convolutions(teacher),
        do_stable_layer_norm=True,
        hidden_size=teacher.width,
        num_attention_heads=teacher.num_heads,
        intermediate_size=len(statistics.kept[0]),
        num_hidden_layers=teacher.num_layers,
        num_conv_pos_embeddings=POSITION_KERNEL,
        num_conv_pos_embedding_groups=POSITION_GROUPS,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        **dict.fromkeys(DROPOUTS, 0.0),
    )
    student: Any = Wav2Vec2ForCTC(config)
    encoder = student.wav2vec2.encoder
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


@torch.no_grad()
def make_targets(
    teacher: WhisperEncoder, statistics: Statistics, samples: torch.Tensor, offset: int
) -> list[torch.Tensor]:
    """Whisper's features of each layer and after the last normalisation without what positions tell of them."""
    stem = hear(teacher, samples)
    places = place(teacher, offset, stem.shape[1])
    outputs = teacher.layers(stem + places)
    return [
        output - nn.functional.linear(places, *position)
        for output, position in zip(outputs, statistics.positions, strict=True)
    ]


class Utterances:
    """Draws batches of recordings of similar lengths, as two people hear them: close by, and in some room."""

    def __init__(self, paths: list[Path], seed: int) -> None:
        self._lengths = {path: soundfile.info(path).frames for path in paths}
        self._paths = sorted(paths, key=lambda path: self._lengths[path])
        self._generator = np.random.default_rng(seed)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Two waveforms of each, both (batch, samples), and a position."""
        first = int(self._generator.integers(len(self._paths)))
        longest = min(self._lengths[self._paths[first]], MAX_SECONDS * SAMPLING_RATE)
        chosen = self._paths[first : first + max(1, BATCH_SECONDS * SAMPLING_RATE // longest)]
        spoken = [VOICE.apply(read(path, MAX_SECONDS).numpy(), self._generator) for path in chosen]
        spoken = [samples[: min(len(other) for other in spoken)] for samples in spoken]
        near = far = torch.from_numpy(np.stack(spoken)).float()
        if self._generator.random() < ROOM_PROBABILITY:
            far = torch.from_numpy(np.stack([ROOM.apply(samples, self._generator) for samples in spoken])).float()
        return near, far, int(self._generator.integers(MAX_POSITION))


def imitate(student: Any, teacher: WhisperEncoder, statistics: Statistics, speech: Utterances, num_steps: int) -> Any:
    """Train the student to predict the teacher's features.

    Returns the layer that predicts the last ones from the student's output.
    """
    layers = [*range(teacher.num_layers - 1), -1]
    heads = [nn.Linear(teacher.width, teacher.width) for _ in layers]
    for head in heads:
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
    parameters = [*student.wav2vec2.parameters(), *nn.ModuleList(heads).parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, max(1, round(WARMUP_RATIO * num_steps)), num_steps)
    for _ in (progress := tqdm(range(num_steps), "features", disable=None)):
        near, far, offset = speech.draw()
        result = student.wav2vec2(normalise(far), output_hidden_states=True)
        predictions = [result.hidden_states[layer + 1] for layer in layers[:-1]] + [result.last_hidden_state]
        targets = make_targets(teacher, statistics, near, offset)
        loss = torch.zeros(())
        for head, layer, predicted in zip(heads, layers, predictions, strict=True):
            error = ((head(predicted) - targets[layer]) / statistics.deviations[layer]).square().mean()
            loss = loss + (error if layer == -1 else INNER_WEIGHT * error)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=loss.item())
    return heads[-1]


@torch.no_grad()
def measure(student: Any, head: Any, teacher: WhisperEncoder, statistics: Statistics, paths: list[Path]) -> float:
    """The share of the variance of Whisper's features that the student explains."""
    targets, predicted = [], []
    for path in paths:
        samples = read(path, MAX_SECONDS)[None]
        predicted.append(head(student.wav2vec2(normalise(samples)).last_hidden_state[0]))
        targets.append(make_targets(teacher, statistics, samples, 100)[-1][0])
    return explained(predicted, targets)


def initialise(options: argparse.Namespace) -> str:
    """Write the new base, and return a summary."""
    from transformers import Wav2Vec2Processor

    found = sorted(path for path in options.speech.rglob("*") if path.suffix in (".flac", ".wav"))
    paths = [path for path in found if soundfile.info(path).duration >= MIN_SECONDS]
    if len(paths) <= NUM_HELD_OUT:
        raise SynthesisError(
            f"{options.speech} has {len(paths)} recordings of {MIN_SECONDS} s; expected more than {NUM_HELD_OUT}"
        )
    if options.output.exists():
        raise SynthesisError(f"{options.output} exists already; remove it or choose another folder")
    random.Random(options.seed).shuffle(paths)
    held_out, paths = paths[:NUM_HELD_OUT], paths[NUM_HELD_OUT:]
    torch.manual_seed(options.seed)
    teacher = WhisperEncoder(read_weights(options.whisper / "model.bin"))
    processor: Any = Wav2Vec2Processor.from_pretrained(options.base)
    statistics = collect(teacher, paths[:NUM_STATISTICS_FILES], options.inner, options.seed)
    student = build_student(teacher, processor.tokenizer, statistics)
    share = fit_convolutions(student, teacher, Crops(paths, options.seed), options.spectrum_steps)
    print(f"variance of Whisper's convolutions explained: {share:.2f}", file=sys.stderr)
    if len(found) > len(paths) + len(held_out):
        print(f"{len(found) - len(paths) - len(held_out)} recordings are shorter and not used", file=sys.stderr)
    student.train()
    head = imitate(student, teacher, statistics, Utterances(paths, options.seed), options.steps)
    student.eval()
    share = measure(student, head, teacher, statistics, held_out)
    partial = options.output.with_name(f".{options.output.name}.partial")
    student.save_pretrained(partial)
    processor.save_pretrained(partial)
    partial.rename(options.output)
    parameters = sum(p.numel() for p in student.parameters()) / 1e6
    return f"{parameters:.1f} million parameters; variance of Whisper's features explained: {share:.2f}"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("whisper", type=Path, help="folder of a Whisper model in CTranslate2's format")
    parser.add_argument("speech", type=Path, help="folder of recordings at 16 kHz")
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", type=Path, default=Path(__file__).parent.parent / "recipes/quickstart/base")
    parser.add_argument("--inner", type=int, default=512, help="units in each feed-forward part (default: 512)")
    parser.add_argument("--spectrum-steps", type=int, default=1700, help="of 24 s of speech (default: 1700)")
    parser.add_argument("--steps", type=int, default=1100, help=f"of {BATCH_SECONDS} s of speech (default: 1100)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return report(lambda: initialise(options))


if __name__ == "__main__":
    sys.exit(main())
