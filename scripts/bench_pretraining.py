"""Pre-training against the way of Transformers' example script: same model, same speech, same epochs.

    python scripts/bench_pretraining.py [--batch-seconds 80] [--utterances 60] [--rounds 3]
                                        [--precision auto|float32|bf16]

Variants in turn, each in a process of its own, on a corpus that is made: FLAC files of noise with the durations of
LibriSpeech's train-clean-100. The model is recipes/base's architecture with random weights and two codebooks of 320
codes, without dropout; all weights are trained, and the first epoch warms up.

`finetune`: the run that `finetune pretrain` makes of a recipe, without its validation and checkpoint at the end.
`example`: what examples/pytorch/speech-pretraining/run_wav2vec2_pretraining_no_trainer.py of Transformers does: batches
of a number of utterances at random, padded to the longest; masks and negatives drawn by numpy in the collator, in the
training process; every frame quantized; gradients divided by the masked frames after the backward pass; float32, which
is what it computes in unless Accelerate is configured. `input_values` are written by `datasets.map` before the clock
starts.
`example in bf16`: the same with Accelerate's mixed precision, as `accelerate launch --mixed_precision bf16` sets it;
only where bf16 is benchmarked.

The example's batches have so many utterances that its steps hold as much speech as ours on average. Speed is seconds of
speech, padding left out, a second, loading included; memory the process's own pages on a CPU.

The limit is the matrix-product peak: the FLOP/s of one large product in the precision that is benchmarked, measured in
the same run. A step needs three times the operations of a forward pass (scripts/measurement.py), for the speech alone;
the quantizer and the comparison are left out.

Measured with one round on 2 cores of an Intel Xeon (avx512_bf16, amx_bf16) in bf16, nothing else running: `finetune`
61.5 s of speech a second and 2.1 GB, the example 5.1 and 7.8 GB, in bf16 6.0 and 6.8 GB: 12.1 and 10.3 times as fast.
Padding is 20 % of the example's batches and 9.7 % of ours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_training import MIXED_PRECISION, SAMPLING_RATE, SMALL, make_corpus
from parts import add_precision, parse_arguments, report_machine, start_part

EXAMPLES = ("example", "example in bf16")


class Pretraining:
    """What the variants share: the recipe, the prepared corpus, and how many steps its epochs take."""

    def __init__(self, options: argparse.Namespace) -> None:
        import yaml

        from finetune.data.batching import batch_order
        from finetune.recipe.load import Recipe
        from finetune.run.preparation import prepare

        self.options = options
        training = {
            "batch_seconds": options.batch_seconds,
            "num_workers": options.workers,
            "mixed_precision": MIXED_PRECISION[options.precision],
            "learning_rate": 1e-4,
        }
        values: dict[str, Any] = {
            "model": {"architecture": yaml.safe_load(SMALL.read_text())["model"]["architecture"], "dropout": 0.0},
            "data": {"root": str(options.folder / "corpus")},
            "pretraining": {},
            "training": training,
        }
        recipe = Recipe.model_validate(values)
        self.preparation = prepare(recipe)
        seconds = [utterance.seconds for utterance in self.preparation.train.utterances]
        self.seconds, self.mean_seconds = sum(seconds), statistics.mean(seconds)
        epochs = []
        for batch in batch_order(seconds, options.batch_seconds, recipe.training.seed):
            epochs.append(batch[0][0])
            if epochs[-1] == options.epochs:
                break
        self.steps, self.warm_up_steps = len(epochs) - 1, epochs.count(0)
        training.update(max_steps=self.steps, eval_steps=self.steps, log_steps=20)
        self.recipe = Recipe.model_validate(values)

    def train_ours(self) -> dict[str, float]:
        """Pre-train by the recipe."""
        import torch
        from accelerate import Accelerator
        from measurement import Meter

        from finetune.run.pretraining import Pretrainer
        from finetune.training.loop import Validation

        class Unvalidated(Pretrainer):
            def validate(self, step: int) -> Validation:
                return Validation(goes_on=True)

            def save(self, *_: Any) -> None:
                pass

        output = self.options.folder / "run"
        output.mkdir(exist_ok=True)
        (output / "metrics.jsonl").write_text("")
        precision = MIXED_PRECISION[self.options.precision]
        accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
        trainer = Unvalidated(self.recipe, output, self.preparation, accelerator)
        meter = Meter(trainer.components.model, self.warm_up_steps)
        trainer.train()
        return meter.read(self.seconds * (self.options.epochs - 1))

    def train_theirs(self, mixed_precision: str) -> dict[str, float]:
        """Pre-train as the example does; the learning rate and Gumbel temperature change as there."""
        import copy

        import datasets
        import torch
        from accelerate import Accelerator
        from measurement import Meter
        from transformers import Wav2Vec2ForPreTraining, get_scheduler

        torch.manual_seed(self.recipe.training.seed)
        config = copy.deepcopy(self.preparation.config)
        config.hidden_dropout = config.attention_dropout = config.activation_dropout = config.layerdrop = 0.0
        config.feat_proj_dropout = config.feat_quantizer_dropout = 0.0
        config.mask_time_prob, config.mask_time_length = 0.65, 10
        model = Wav2Vec2ForPreTraining(config)
        data = datasets.Dataset.from_file(str(self.options.folder / "input_values.arrow"))
        size = max(1, round(self.seconds * self.options.epochs / self.steps / self.mean_seconds))
        collate = _Collator(model, self.preparation.feature_extractor)
        loader = torch.utils.data.DataLoader(data, shuffle=True, collate_fn=collate, batch_size=size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=not torch.cuda.is_available())
        meter = Meter(model, len(loader))
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        scheduler = get_scheduler("linear", optimizer, 10, len(loader) * self.options.epochs)
        step = 0
        for _ in range(self.options.epochs):
            model.train()
            for batch in loader:
                masked = batch["mask_time_indices"].sum()
                batch.pop("sub_attention_mask", None)
                accelerator.backward(model(**batch).loss)
                norm = 0.0
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(1 / masked)
                        norm += parameter.grad.norm(2).item() ** 2  # It is logged there.
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                model.set_gumbel_temperature(max(2.0 * 0.999995**step, 0.5))
                step += 1
        return meter.read(self.seconds * (self.options.epochs - 1))

    def write_input_values(self) -> dict[str, float]:
        """Write `input_values` as the example's `map` does; returns the operations for a second of speech."""
        import datasets
        import soundfile
        from measurement import count_operations

        extractor = self.preparation.feature_extractor
        folder = self.options.folder / "corpus" / "train"
        utterances = self.preparation.train.utterances

        def prepare(row: dict[str, str]) -> dict[str, Any]:
            waveform, _ = soundfile.read(folder / row["name"], dtype="float32")
            return {"input_values": extractor(waveform, sampling_rate=SAMPLING_RATE).input_values[0]}

        rows = datasets.Dataset.from_list([{"name": u.name} for u in utterances])
        rows.map(prepare, remove_columns=["name"], cache_file_name=str(self.options.folder / "input_values.arrow"))
        config = self.preparation.config
        forward = sum(count_operations(config, int(u.seconds * SAMPLING_RATE), 0, training=False) for u in utterances)
        return {"operations": 3 * forward / self.seconds}


class _Collator:
    """Pads to the longest, and draws masks and negatives by Transformers' own functions, as the example does."""

    def __init__(self, model: Any, extractor: Any) -> None:
        self.model, self.extractor = model, extractor

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch
        from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

        model, config = self.model, self.model.config
        batch: dict[str, Any] = dict(self.extractor.pad(examples, padding="longest", return_tensors="pt"))
        frames = int(model._get_feat_extract_output_lengths(batch["input_values"].shape[-1]))
        valid = model._get_feature_vector_attention_mask(frames, batch["attention_mask"])
        shape = (len(examples), frames)
        masks = _compute_mask_indices(shape, config.mask_time_prob, config.mask_time_length, attention_mask=valid)
        negatives = _sample_negative_indices(shape, config.num_negatives, mask_time_indices=masks)
        return {
            **batch,
            "sub_attention_mask": valid,
            "mask_time_indices": torch.tensor(masks, dtype=torch.long),
            "sampled_negative_indices": torch.tensor(negatives, dtype=torch.long),
        }


def run_part(options: argparse.Namespace) -> dict[str, float]:
    """Do one part of the benchmark in this process."""
    from finetune.commands.launch import keep_kernels

    if options.part == "finetune":
        keep_kernels(MIXED_PRECISION[options.precision])  # As `finetune pretrain` does.
    if options.part == "matrix":
        import torch
        from measurement import measure_matrix_peak

        return {"flops": measure_matrix_peak(torch.bfloat16 if options.precision == "bf16" else torch.float32)}
    pretraining = Pretraining(options)
    if options.part == "input_values":
        return pretraining.write_input_values()
    if options.part == "finetune":
        return pretraining.train_ours()
    return pretraining.train_theirs("no" if options.part == "example" else "bf16")


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch-seconds", type=float, default=80.0)
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=2, help="the first is a warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    add_precision(parser)
    options = parse_arguments(parser, arguments, run_part)
    precision = report_machine(options.precision)
    arguments = [*arguments, "--precision", precision]
    variants = ("finetune", *(EXAMPLES if precision == "bf16" else EXAMPLES[:1]))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_corpus(folder / "corpus", options.utterances)
        operations = start_part(__file__, arguments, "input_values", folder).values["operations"]
        speeds: dict[str, list[float]] = {variant: [] for variant in variants}
        peaks = []
        for number in range(options.rounds):
            peaks.append(start_part(__file__, arguments, "matrix", folder).values["flops"])
            print(f"round {number + 1}: matrix product {peaks[-1] / 1e12:.3f} TFLOP/s", flush=True)
            for variant in variants:
                result = start_part(__file__, arguments, variant, folder).values
                speeds[variant].append(result["speed"])
                print(
                    f"round {number + 1}, {variant}: {result['speed']:.1f} s of speech a second, "
                    f"{100 * result['speed'] * operations / peaks[-1]:.0f} % of the peak, "
                    f"{100 * result['padding']:.1f} % padding, {result['memory'] / 1e9:.2f} GB",
                    flush=True,
                )
    ours = statistics.median(speeds["finetune"])
    for variant in variants[1:]:
        print(f"finetune against {variant}: {ours / statistics.median(speeds[variant]):.2f} times as fast (medians)")
    limit = statistics.median(peaks) / operations
    print(f"at the whole matrix-product peak it would be {limit:.0f} s of speech a second")


if __name__ == "__main__":
    main(sys.argv[1:])
