"""The same training by `finetune train` and by the Transformers `Trainer`: do they reach the same WER?

    python scripts/compare_trainer.py RECIPE [section.key=value ...] [--seeds 3] [--precision auto|float32|bf16]

Equal are the base, the head's first weights, the splits, the number of steps, the speech in a step on average, and the
recipe's hyper-parameters. Augmentation is left out, for the `Trainer` has none. As in its CTC example it draws
SpecAugment's masks in the model, batches by length (`group_by_length`), and takes the mean over utterances of the loss
for each label. Each training runs in a process of its own, in `--precision` whatever the recipe says, and both models
are scored by the same code.

Measured with `recipes/an4/recipe.yaml data.root=… model.freeze_feature_encoder=true training.max_steps=800` in bf16 on
2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni): `finetune` WER 17.6, 27.7 and 22.4 %, the `Trainer` 18.7, 28.1
and 24.8 %; CER 7.8, 12.7 and 11.9 % against 8.3, 13.2 and 12.7 %. A seed also draws the people who are held out, so
compare by seed: they differ by 0.4 to 2.4 points, seeds by ten.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts import add_precision, report_machine

VARIANTS = ("finetune", "trainer")


def load(recipe_file: str, overrides: Sequence[str], seed: int, precision: str) -> Any:
    """The recipe with this seed and precision, without augmentation, scored at its end alone."""
    from finetune.recipe.load import load_recipe
    from finetune.recipe.schema import AugmentationSection

    mixed = "bf16" if precision == "bf16" else "no"
    recipe = load_recipe(Path(recipe_file), [*overrides, f"training.seed={seed}", f"training.mixed_precision={mixed}"])
    training = recipe.training.model_copy(update={"eval_steps": 10**9})
    return recipe.model_copy(update={"training": training, "augmentation": AugmentationSection()})


def train_ours(recipe: Any, folder: Path) -> Any:
    """The scores of the run that `finetune train` makes."""
    from finetune.run.experiment import run

    return run(recipe, folder / "run")


def train_theirs(recipe: Any, folder: Path) -> Any:
    """The scores of a model that the `Trainer` has trained."""
    import datasets
    import torch
    from accelerate import Accelerator
    from transformers import Trainer, TrainingArguments, Wav2Vec2ForCTC

    from finetune.evaluation.scoring import evaluate_split
    from finetune.inference.recogniser import Recogniser
    from finetune.models.build import build_model
    from finetune.run.planning import resolve_length
    from finetune.run.preparation import prepare
    from finetune.text.vocabulary import PAD, build_tokenizer

    preparation, training = prepare(recipe), recipe.training
    max_steps = resolve_length(recipe, preparation, training.batch_seconds, 1).max_steps
    extractor, tokenizer = preparation.feature_extractor, build_tokenizer(preparation.vocabulary)
    built: Any = build_model(
        preparation.config,
        recipe.model.base,
        vocabulary=preparation.vocabulary,
        blank=PAD,
        dropout=recipe.model.dropout,
        mask_time_probability=training.mask_time_probability,
        seed=training.seed,
        head_rows=preparation.head_rows,
    )
    built.config.mask_time_length = training.mask_time_length
    model = Wav2Vec2ForCTC(built.config)
    model.load_state_dict(built.state_dict())
    if recipe.model.freeze_feature_encoder:
        model.freeze_feature_encoder()
    split = preparation.train
    rows = []
    for utterance in split.utterances:
        values = extractor(split.read(utterance, extractor.sampling_rate), sampling_rate=extractor.sampling_rate)
        labels = tokenizer(utterance.transcript).input_ids
        rows.append(
            {"input_values": values.input_values[0], "labels": labels, "input_length": len(values.input_values[0])}
        )

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        speech = [{"input_values": example["input_values"]} for example in examples]
        batch = extractor.pad(speech, return_tensors="pt", return_attention_mask=True)
        labels = tokenizer.pad([{"input_ids": example["labels"]} for example in examples], return_tensors="pt")
        batch["labels"] = labels.input_ids.masked_fill(labels.attention_mask.ne(1), -100)
        return dict(batch)

    gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=max_steps,
        per_device_train_batch_size=round(count_utterances(preparation, training)),
        learning_rate=training.learning_rate,
        warmup_steps=round(training.warmup_ratio * max_steps),
        weight_decay=training.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=training.max_gradient_norm,
        bf16=training.mixed_precision == "bf16",
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        length_column_name="input_length",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not gpu,
        seed=training.seed,
    )
    Trainer(model, arguments, collate, datasets.Dataset.from_list(rows), processing_class=extractor).train()
    accelerator = Accelerator(cpu=not gpu)
    recogniser = Recogniser(model.eval(), extractor, tokenizer, accelerator.device)
    scored = preparation.test or preparation.validation
    return evaluate_split(recogniser, scored, recipe.evaluation.batch_seconds, accelerator).scores


def count_utterances(preparation: Any, training: Any) -> float:
    """How many utterances are in one of our steps, on average over the first epoch."""
    from finetune.data.batching import batch_order

    counts = []
    seconds = [utterance.seconds for utterance in preparation.train.utterances]
    for batch in batch_order(seconds, training.batch_seconds, training.seed):
        if batch[0][0]:
            break
        counts.append(len(batch))
    return statistics.mean(counts) * training.accumulation


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    add_precision(parser)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.variant:
        from finetune.commands.launch import keep_kernels

        if options.variant == "finetune":
            keep_kernels(options.precision)  # As `finetune train` does.
        recipe = load(options.recipe, options.overrides, options.seed, options.precision)
        with tempfile.TemporaryDirectory() as folder:
            train = train_ours if options.variant == "finetune" else train_theirs
            print("\n" + json.dumps(train(recipe, Path(folder)).to_json()))
        return
    arguments = [*arguments, "--precision", report_machine(options.precision)]
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            command = [sys.executable, __file__, *arguments, "--variant", variant, "--seed", str(seed)]
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.strip().split("\n")[-1])
            rates[variant].append(found["wer"])
            print(
                f"seed {seed}, {variant}: WER {100 * found['wer']:.1f} %, CER {100 * found['cer']:.1f} %, "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
    for variant, found in rates.items():
        spread = f"{100 * min(found):.1f} to {100 * max(found):.1f}"
        print(f"{variant}: WER {100 * statistics.mean(found):.1f} % on average, {spread}")


if __name__ == "__main__":
    main(sys.argv[1:])
