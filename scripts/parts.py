"""Parts of a benchmark, each in a process of its own: what one loads, compiles and allocates is no other's."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.resources.machine import Precision


@dataclass(frozen=True)
class Done:
    """What a part measured, what it printed before, and what it said on standard error."""

    values: dict[str, float]
    printed: list[str]
    said: str


def start_part(
    script: str, arguments: Sequence[str], part: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Done:
    """Run a script with `--part` and `--folder`, whose last line of output is JSON; where it fails, all ends here.

    `environment` is added to this process's own, of which no variable of oneDNN is left but its instruction sets' cap.
    """
    own = {
        key: value for key, value in os.environ.items() if key == "ONEDNN_MAX_CPU_ISA" or not key.startswith("ONEDNN")
    }
    command = [sys.executable, script, *arguments, "--part", part, "--folder", str(folder)]
    done = subprocess.run(command, env={**own, **(environment or {})}, capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    *printed, result = done.stdout.strip().split("\n")
    return Done(json.loads(result), printed, done.stderr)


def parse_arguments(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    run_part: Callable[[argparse.Namespace], dict[str, float]],
) -> argparse.Namespace:
    """A script's options; in a process that `start_part` began its part is run here, and all ends."""
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        print("\n" + json.dumps(run_part(options)))
        sys.exit()
    return options


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add `--precision`, which `report_machine` takes."""
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16"),
        default="auto",
        help="what is computed in; auto (default) is bf16 where the device has instructions for it, otherwise float32",
    )


def report_machine(asked: str | None, device: str = "auto") -> Precision:
    """Print one line on what the figures that follow are measured with; the precision that `asked` means on `device`.

    The line names a GPU where one is used, the CPU with its instruction sets, usable cores, torch's threads and its
    version, and the precision. `device` is `auto` or `cpu`; `asked` is None for a benchmark that computes no model.
    Where the device has no instructions for the precision the process ends with a sentence.
    """
    import torch

    from finetune.errors import UserError
    from finetune.resources.machine import choose_precision, count_cores, describe_device

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    on_gpu = asked is not None and device == "auto" and torch.cuda.is_available()
    try:
        precision = choose_precision(asked or "float32", gpu if on_gpu else cpu)
    except UserError as error:
        sys.exit(str(error))
    names = [describe_device(gpu)] if on_gpu else []
    names.append(describe_device(cpu))
    names.append(f"{count_cores():g} usable cores")
    names.append(f"torch {torch.__version__}")
    print(f"machine: {', '.join([*names, precision if asked else 'no model'])}", flush=True)
    return precision


def write_shape(folder: Path, shape: Mapping[str, Any], attention_mask: bool = False) -> Path:
    """Write a model with random weights, and the shape of wav2vec2-base but for what `shape` has."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    from finetune.text.vocabulary import build_tokenizer, build_vocabulary

    torch.manual_seed(0)
    tokenizer = build_tokenizer(build_vocabulary("abcdefghijklmnopqrstuvwxyz'"))
    config = Wav2Vec2Config(**shape, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=attention_mask)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def export_int8(model: Path, folder: Path) -> Path:
    """Export a model to ONNX with 8-bit matrix products, with all that belongs to it."""
    from finetune.inference.exported import write_model
    from finetune.inference.recogniser import Recogniser

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    write_model(Recogniser.load(model, "cpu").model, folder, int8=True)
    return folder
