"""Train a recipe with teachers: CTC and, in each frame, Whisper's features and the alignment of another model.

    python scripts/distill_base.py CORPUS RECIPE [OVERRIDE ...] --output DIR [--teacher-weight 1.0] [--guide MODEL]

is `finetune train RECIPE data.root=CORPUS OVERRIDE ... --output DIR` with a second loss: a linear layer on top of the
encoder predicts the features that teacher_features.py wrote into CORPUS/teacher, normalised in each dimension, and the
mean of the squared error over dimensions is added for each frame (like DistilHuBERT, Chang et al. 2022, with one layer
and without its cosine). Whisper adds absolute positions to its input, which wav2vec2 cannot know; what a linear map of
them predicts of the features is subtracted first. Augmentation must not change the length. The layer begins as the
identity where the model is as wide as the teacher, and is removed from the model in the end.

CTC alone needs thousands of steps until a random head finds where the letters are. A guide, a CTC model with the same
vocabulary, tells it: the third loss is the cross-entropy to the probabilities of letters in each frame that the guide
has given the transcript (like guided CTC, Kurata and Audhkhasi 2019, with all alignments instead of the best one).
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.models.whisper.modeling_whisper import sinusoids
from whisper_encoder import fit_linear

from finetune.data.batching import Batch
from finetune.errors import UserError
from finetune.models.build import CTCObjective
from finetune.models.configuration import receptive_field
from finetune.models.padding import ignore_padding

NUM_STATISTICS_FRAMES = 200_000
RIDGE = 1e-4


class Teacher:
    """The features of a corpus without what their position tells, normalised in each dimension."""

    def __init__(self, folder: Path) -> None:
        self._features = np.load(folder / "features.npy", mmap_mode="r")
        self._ends = np.load(folder / "ends.npy")
        self.width = self._features.shape[1]
        lengths = np.diff(self._ends, prepend=0)
        positions = sinusoids(int(lengths.max()), self.width)
        sample = torch.from_numpy(np.array(self._features[:NUM_STATISTICS_FRAMES], dtype=np.float32))
        places = torch.from_numpy(np.concatenate([np.arange(count) for count in lengths])[: len(sample)])
        self._expected = nn.functional.linear(positions, *fit_linear(positions[places], sample, RIDGE))
        residual = sample - self._expected[places]
        self.mean, self.deviation = sample.mean(0), residual.std(0)

    def features(self, row: int, num_frames: int, offset: int) -> torch.Tensor:
        """The features of a row from frame `offset` on, if it has so many, (num_frames, width).

        Raises ValueError if its audio has another length.
        """
        begin, end = int(self._ends[row - 1]) if row else 0, int(self._ends[row])
        spare = end - begin - num_frames
        if not 0 <= spare <= offset + 2:
            raise ValueError(f"row {row} has {num_frames} frames, but the teacher has {end - begin}")
        first = min(offset, spare)
        raw = np.array(self._features[begin + first :][:num_frames], dtype=np.float32)
        return (torch.from_numpy(raw) - self._expected[first : first + num_frames]) / self.deviation


def count_offset(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """The number of the teacher's frame whose centre is nearest to that of the student's first one.

    The first frames of Whisper have their centre at the begin of the audio.
    """
    return round(receptive_field(tuple(zip(kernels, strides, strict=True))) / 2 / math.prod(strides))


def make_head(hidden_size: int, teacher: Teacher) -> nn.Linear:
    """The layer that predicts the teacher's features from the encoder's output."""
    head = nn.Linear(hidden_size, teacher.width)
    if hidden_size == teacher.width:
        with torch.no_grad():
            head.weight.copy_(torch.diag(1 / teacher.deviation))
            head.bias.copy_(-teacher.mean / teacher.deviation)
    return head


class Guide:
    """A CTC model that tells where the letters of a transcript are."""

    def __init__(self, folder: Path) -> None:
        from transformers import Wav2Vec2ForCTC

        model: Any = Wav2Vec2ForCTC.from_pretrained(folder)
        self._model = model.eval().requires_grad_(False)
        ignore_padding(model)
        self.vocabulary_size = int(model.config.vocab_size)
        self.offset = count_offset(model.config.conv_kernel, model.config.conv_stride)

    def align(self, batch: Batch) -> torch.Tensor:
        """The probabilities of the tokens in each frame given the labels, (batch, frames, vocabulary).

        They are what the gradient of the CTC loss subtracts from those without labels.
        """
        lengths = batch.attention_mask.sum(1)
        logits = self._model(batch.input_values, attention_mask=batch.attention_mask).logits.float()
        with torch.enable_grad():
            loss = nn.functional.ctc_loss(
                logits.requires_grad_().log_softmax(-1).transpose(0, 1),
                batch.labels,
                self._model._get_feat_extract_output_lengths(lengths),
                batch.label_lengths,
                blank=self._model.config.pad_token_id,
                reduction="sum",
                zero_infinity=True,
            )
            [gradient] = torch.autograd.grad(loss, logits)
        return logits.detach().softmax(-1) - gradient


def make_objective(teacher: Teacher, weight: float, guide: Guide | None) -> type[CTCObjective]:
    """The class of an objective that adds the losses of the teacher and of the guide to that of CTC."""

    class DistilledObjective(CTCObjective):
        def _compute(self, batch: Batch, frozen: bool) -> tuple[torch.Tensor, torch.Tensor]:
            hidden: list[torch.Tensor] = []
            hook = self.model.dropout.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
            loss, without_loss = super()._compute(batch, frozen)
            hook.remove()
            total = torch.zeros(())
            offset = count_offset(self.model.config.conv_kernel, self.model.config.conv_stride)
            for states, row, count in zip(hidden[0], batch.without_loss, batch.num_frames.tolist(), strict=True):
                predicted = self.model.teacher_head(states[:count]).float()
                total = total + (predicted - teacher.features(row.row, count, offset)).square().mean(-1).sum()
            # The loop divides by the number of labels; a second has some 12 of them and 50 frames.
            loss = loss + weight * total / 4
            if guide:
                told = guide.align(batch)[:, offset - guide.offset :]
                logits = self.model.lm_head(hidden[0])[:, : told.shape[1]].float().log_softmax(-1)
                inside = torch.arange(logits.shape[1]) < batch.num_frames[:, None]
                loss = loss - (told[:, : logits.shape[1]] * logits).sum(-1)[inside].sum()
            return loss, without_loss

    return DistilledObjective


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher-weight", type=float, default=1.0)
    parser.add_argument("--guide", type=Path, metavar="MODEL", help="a model folder with the recipe's vocabulary")
    options = parser.parse_intermixed_args()
    teacher = Teacher(options.corpus / "teacher")
    guide = Guide(options.guide) if options.guide else None
    components: Any = importlib.import_module("finetune.run.components")
    build_model = components.build_model

    def build_with_head(*arguments: Any, **named: Any) -> nn.Module:
        model: Any = build_model(*arguments, **named)
        if guide and guide.vocabulary_size != model.config.vocab_size:
            raise UserError(
                f"The guide has {guide.vocabulary_size} tokens and the model {model.config.vocab_size}; "
                "expected the same: text.vocabulary=extended with a base of the guide's vocabulary."
            )
        model.teacher_head = make_head(model.config.hidden_size, teacher)
        return model

    components.build_model = build_with_head
    components.CTCObjective = make_objective(teacher, options.teacher_weight, guide)
    from safetensors.torch import load_file, save_file

    from finetune.cli import main as run

    overrides = [f"data.root={options.corpus}", *options.overrides]
    if code := run(["train", options.recipe, *overrides, "--output", str(options.output)]):
        return code
    weights = options.output / "model" / "model.safetensors"
    kept = {name: weight for name, weight in load_file(weights).items() if not name.startswith("teacher_head.")}
    save_file(kept, weights, {"format": "pt"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
