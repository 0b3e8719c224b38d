"""Training against the Transformers `Trainer` as its CTC example uses it: same model, same speech, same epochs.

    python scripts/bench_training.py [--shape small|base|large] [--batch-seconds 80] [--utterances 300] [--rounds 3]
                                     [--precision auto|float32|bf16]
    python scripts/bench_training.py --profile

Three variants in turn, each in a process of its own, on a corpus that is made: FLAC files of noise with the durations
of LibriSpeech's train-clean-100 and random transcripts. `small` is recipes/base's architecture, for a CPU; `base` and
`large` have the shapes of wav2vec2-base and wav2vec2-large-lv60, for a GPU. All start from the same random weights,
without dropout and with the feature encoder frozen, as that example does unless told; the first epoch warms up.

`finetune`: the run that `finetune train` makes of a recipe, without its evaluation and checkpoint at the end.
`documented`: the command of examples/pytorch/speech-recognition/README.md: mixed precision (fp16; bf16 on a CPU, which
has no other), length grouping, gradient checkpointing, `input_values` written by `datasets.map` before the clock
starts.
`best`: the same in bf16, with SDPA, fused AdamW and as many loader workers as ours, without checkpointing.
The Trainer's batches are of a number of utterances; it is chosen so that its steps hold as much speech as ours on
average. What was `group_by_length=True` is `train_sampling_strategy="group_by_length"` in Transformers 5.

Speed is seconds of speech, padding left out, a second, loading included. Memory is the most at any time: on a GPU what
torch allocated, on a CPU the process's own pages (not files it has mapped, as `datasets` does). The loader's workers
are not counted.

The limit is the matrix-product peak: the FLOP/s of one large product in the precision that is benchmarked, measured in
the same run. How many operations a model needs is in scripts/measurement.py, for the speech alone, without padding.

In float32 with the instruction sets capped to AVX2 (`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`, `--precision
float32 --utterances 40 --batch-seconds 60 --rounds 2`) on 2 cores of an AMD EPYC (Zen 4), nothing else running:

| | s of speech a second | of the peak (0.174 TFLOP/s) | padding | memory |
|---|---|---|---|---|
| finetune | 48.9, 51.8 | 65 % | 7.8 % | 1.30 GB |
| documented | 30.9, 34.8 | 43 % | 14.7 % | 1.38 GB |
| best | 36.1, 38.0 | 48 % | 18.4 % | 1.36 GB |

That is 1.53 and 1.36 times as fast. At the whole peak it would be 77 s of speech a second: 2.34 and 2.07 times. By
`--profile` matrix products are 70 % of a step's time there; were all the rest free, it would be 2.2 and 1.9 times. The
rest: convolutions 8 %, GELU 4 %, the loss 3 %, copies 3 %, softmax 3 %, layer norms 2 %.

In bf16 with `--rounds 3 --utterances 60` on 2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni), nothing else
running, medians, before valid frames were packed: finetune 122 s of speech a second at 35 % of the peak (0.80 TFLOP/s),
documented 53.5, best 65.5: 2.29 and 1.87 times as fast. In so few utterances padding is 9.7, 11.7 and 13.3 %. Memory
1.41, 1.37 and 1.52 GB. With 300 utterances, two rounds: 111 and 125, 56.6 and 56.1, 71.1 and 64.3 s; 2.10 and 1.74
times as fast; 2.00, 2.38 and 2.72 GB. With packed frames on such a machine whose peak was 0.405 TFLOP/s that day, one
round of `--utterances 60`: 95.4 (54 % of the peak), 47.6 and 55.9; 2.00 and 1.71 times; 1.36, 1.38 and 1.55
GB. Not run on a GPU.

On one core of it (0.40 TFLOP/s in a large product) a step of `small` over 81 s of speech, which is
184 GFLOP, can't take less than 0.46 s. It takes 0.83 s in one core's time; 1.59 s without
finetune/models/cpu_operations.py, which is the Trainer's best, and 1.96 s with checkpointing. Before, attention took
0.8 s of it (a fused kernel that is slow on a CPU), the feature encoder 0.22 s (half of it transposing), the positional
convolution 0.16 s (16 narrow groups). What is left, by `--profile`: products of layers 40 %, of attention 21 %, both
near the peak; the loss 7 %, softmax 6 %, convolutions 6 %, copies, norms and GELU 5 % each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parts import add_precision, parse_arguments, report_machine, start_part

SMALL = Path(__file__).parent.parent / "recipes" / "base" / "recipe.yaml"
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
VARIANTS = ("finetune", "documented", "best")
SAMPLING_RATE = 16000
MIXED_PRECISION = {"float32": "no", "bf16": "bf16"}  # What recipes call them.


def make_corpus(folder: Path, utterances: int, validation: int = 1) -> None:
    """Write FLAC files of noise as long as LibriSpeech's, with 14 characters of random words a second."""
    import numpy as np
    import soundfile
    from bench_loading import draw_librispeech_seconds

    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    for split, count in {"train": utterances, "validation": validation}.items():
        (folder / split).mkdir(parents=True)
        rows = ["file_name,text"]
        for number, seconds in enumerate(draw_librispeech_seconds(count, rng)):
            noise = rng.normal(0, 0.1, int(seconds * SAMPLING_RATE))
            soundfile.write(folder / split / f"{number}.flac", noise, SAMPLING_RATE)
            rows.append(f"{number}.flac,{''.join(rng.choice(letters, int(14 * seconds)))}")
        (folder / split / "metadata.csv").write_text("\n".join(rows) + "\n")


class Training:
    """What the variants share: the recipe, the prepared corpus, and how many steps its epochs take."""

    def __init__(self, options: argparse.Namespace) -> None:
        import yaml

        from finetune.data.batching import batch_order
        from finetune.recipe.load import Recipe
        from finetune.run.preparation import prepare

        architectures = {"base": {}, "large": LARGE}
        if options.shape == "small":
            architectures["small"] = yaml.safe_load(SMALL.read_text())["model"]["architecture"]
        self.options = options
        training = {
            "batch_seconds": options.batch_seconds,
            "num_workers": options.workers,
            "mixed_precision": MIXED_PRECISION[options.precision],
            "learning_rate": 1e-4,
        }
        values = {
            "model": {"architecture": architectures[options.shape], "dropout": 0.0},
            "data": {"root": str(options.folder / "corpus")},
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
        training.update(max_steps=self.steps, eval_steps=self.steps, log_steps=1 if options.profile else 20)
        self.recipe = Recipe.model_validate(values)

    def train_ours(self) -> dict[str, float]:
        """Train by the recipe."""
        import torch
        from accelerate import Accelerator
        from measurement import Meter

        from finetune.run.callbacks import TrainerCallback
        from finetune.run.trainer import Trainer
        from finetune.training.loop import Validation

        profiler, first = torch.profiler.profile(), self.warm_up_steps + 1  # Where most kernels have been made.

        class Unscored(Trainer):
            def validate(self, step: int) -> Validation:
                return Validation(goes_on=True)

            def save(self, *_: Any) -> None:
                pass

        class Profile(TrainerCallback):
            def on_log(self, step: int, values: Mapping[str, float]) -> None:
                if step == first:
                    profiler.start()
                elif step == first + 1:
                    profiler.stop()
                    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
                    print(profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))

        output = self.options.folder / "run"
        output.mkdir(exist_ok=True)
        (output / "metrics.jsonl").write_text("")
        precision = MIXED_PRECISION[self.options.precision]
        accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
        callback = Profile() if self.options.profile else None
        trainer = Unscored(self.recipe, output, self.preparation, accelerator, callback=callback)
        meter = Meter(trainer.components.model, self.warm_up_steps)
        trainer.train()
        return meter.read(self.seconds * (self.options.epochs - 1))

    def train_theirs(self, best: bool) -> dict[str, float]:
        """Train by the `Trainer`: its documented command, or its best."""
        import datasets
        import torch
        from measurement import Meter
        from transformers import Trainer, TrainingArguments, Wav2Vec2ForCTC

        from finetune.models.build import build_model
        from finetune.text.vocabulary import PAD, build_tokenizer

        ours: Any = build_model(
            self.preparation.config,
            None,
            vocabulary=self.preparation.vocabulary,
            blank=PAD,
            dropout=0.0,
            mask_time_probability=self.recipe.training.mask_time_probability,
            seed=self.recipe.training.seed,
        )
        if best:
            ours.config._attn_implementation = "sdpa"
        model = Wav2Vec2ForCTC(ours.config)
        model.load_state_dict(ours.state_dict())
        model.freeze_feature_encoder()
        del ours
        extractor, tokenizer = self.preparation.feature_extractor, build_tokenizer(self.preparation.vocabulary)

        def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = extractor.pad([{"input_values": e["input_values"]} for e in examples], return_tensors="pt")
            labels = tokenizer.pad([{"input_ids": e["labels"]} for e in examples], return_tensors="pt")
            batch["labels"] = labels.input_ids.masked_fill(labels.attention_mask.ne(1), -100)
            return batch

        mixed = self.options.precision == "bf16"
        fp16 = mixed and not best and torch.cuda.is_available()  # What the documented command says.
        size = max(1, round(self.seconds * self.options.epochs / self.steps / self.mean_seconds))
        changes: dict[str, Any] = {"gradient_checkpointing": True, "fp16": fp16, "bf16": mixed and not fp16}
        if best:
            workers = {"dataloader_num_workers": self.options.workers, "dataloader_persistent_workers": True}
            changes = {"bf16": mixed, "optim": "adamw_torch_fused", **(workers if self.options.workers else {})}
        arguments = TrainingArguments(
            output_dir=str(self.options.folder / "trainer"),
            num_train_epochs=self.options.epochs,
            per_device_train_batch_size=size,
            learning_rate=1e-4,
            warmup_steps=10,
            train_sampling_strategy="group_by_length",
            length_column_name="input_length",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **changes,
        )
        data = datasets.Dataset.from_file(str(self.options.folder / "input_values.arrow"))
        trainer = Trainer(model, arguments, collate, data, processing_class=extractor)
        meter = Meter(model, -(-len(data) // size))
        trainer.train()
        return meter.read(self.seconds * (self.options.epochs - 1))

    def write_input_values(self) -> dict[str, float]:
        """Write `input_values` and labels as the example's `map` does (with soundfile: its decoder needs FFmpeg)."""
        import datasets
        import soundfile
        from measurement import count_operations

        from finetune.text.vocabulary import build_tokenizer

        extractor, tokenizer = self.preparation.feature_extractor, build_tokenizer(self.preparation.vocabulary)
        folder = self.options.folder / "corpus" / "train"
        utterances = self.preparation.train.utterances

        def prepare(row: dict[str, str]) -> dict[str, Any]:
            waveform, _ = soundfile.read(folder / row["name"], dtype="float32")
            values = extractor(waveform, sampling_rate=SAMPLING_RATE).input_values[0]
            return {"input_values": values, "input_length": len(values), "labels": tokenizer(row["text"]).input_ids}

        rows = datasets.Dataset.from_list([{"name": u.name, "text": u.transcript} for u in utterances])
        started = time.perf_counter()
        rows.map(
            prepare, remove_columns=rows.column_names, cache_file_name=str(self.options.folder / "input_values.arrow")
        )
        operations = sum(
            count_operations(self.preparation.config, int(u.seconds * SAMPLING_RATE), len(self.preparation.vocabulary))
            for u in utterances
        )
        return {"seconds": time.perf_counter() - started, "operations": operations / self.seconds}


def run_part(options: argparse.Namespace) -> dict[str, float]:
    """Do one part of the benchmark in this process."""
    from finetune.commands.launch import keep_kernels

    if options.part == "finetune":
        keep_kernels(MIXED_PRECISION[options.precision])  # As `finetune train` does.
    if options.part == "matrix":
        import torch
        from measurement import measure_matrix_peak

        return {"flops": measure_matrix_peak(torch.bfloat16 if options.precision == "bf16" else torch.float32)}
    training = Training(options)
    if options.part == "input_values":
        return training.write_input_values()
    return training.train_ours() if options.part == "finetune" else training.train_theirs(options.part == "best")


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=("small", "base", "large"), default="small")
    parser.add_argument("--batch-seconds", type=float, default=80.0)
    parser.add_argument("--utterances", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2, help="the first is a warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--profile", action="store_true", help="only print where the time of one step of ours goes")
    add_precision(parser)
    options = parse_arguments(parser, arguments, run_part)
    arguments = [*arguments, "--precision", report_machine(options.precision, options.device)]
    environment = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_corpus(folder / "corpus", options.utterances)
        if options.profile:
            print("\n".join(start_part(__file__, arguments, "finetune", folder, environment).printed))
            return
        written = start_part(__file__, arguments, "input_values", folder, environment).values
        print(f"input_values written for the Trainer in {written['seconds']:.1f} s, which are not counted", flush=True)
        peaks = []
        results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
        for number in range(options.rounds):
            peaks.append(start_part(__file__, arguments, "matrix", folder, environment).values["flops"])
            print(f"round {number + 1}: matrix product {peaks[-1] / 1e12:.3f} TFLOP/s", flush=True)
            for variant in VARIANTS:
                result = start_part(__file__, arguments, variant, folder, environment).values
                results[variant].append(result)
                share = result["speed"] * written["operations"] / peaks[-1]
                print(
                    f"round {number + 1}, {variant}: {result['speed']:.1f} s of speech a second, "
                    f"{100 * share:.0f} % of the peak, {100 * result['padding']:.1f} % padding, "
                    f"{result['memory'] / 1e9:.2f} GB",
                    flush=True,
                )
    speeds = {variant: statistics.median(each["speed"] for each in results[variant]) for variant in VARIANTS}
    memory = {variant: max(each["memory"] for each in results[variant]) for variant in VARIANTS}
    for variant in VARIANTS[1:]:
        print(
            f"finetune against {variant}: {speeds['finetune'] / speeds[variant]:.2f} times as fast (medians), "
            f"{100 * memory['finetune'] / memory[variant]:.0f} % of its memory"
        )
    share = speeds["finetune"] * written["operations"] / statistics.median(peaks)
    print(f"finetune computes at {100 * share:.0f} % of the matrix-product peak")


if __name__ == "__main__":
    main(sys.argv[1:])
