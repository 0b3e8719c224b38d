"""The parity gate: a model is published only if plain Transformers recognises the same texts as the evaluation."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from finetune.audio.waveforms import Waveform
from finetune.errors import UserError
from finetune.files import write_json
from finetune.models.relatives import is_baseline
from finetune.resources.model_json import read_object

SHOWN = 5  # Utterances with different texts that a refusal lists.

# An utterance's name, its waveform as the model's feature extractor takes it, and the evaluator's greedy raw text.
Spoken = tuple[str, Waveform, str]

_PROGRAM = Path(__file__).with_name("plain_pipeline.py")
_ROOT = Path(__file__).parents[2]  # of this package
_WAVEFORMS, _TEXTS = "waveforms.safetensors", "texts.json"


def require_parity(model: Path, utterances: Sequence[Spoken]) -> None:
    """Raise UserError unless plain Transformers recognises exactly these texts.

    A separate process, which cannot import this package and uses no network, loads the folder with Transformers'
    pipeline, on a GPU if there is one. For a baseline it imports `finetune.models.baselines`, and nothing else. Both
    sides compute in float32: on a GPU the evaluator must use `full_precision`.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_utterances(Path(folder), utterances)
        texts = _recognise(model, Path(folder) / _WAVEFORMS, len(utterances))
    wrong = [(name, said, text) for (name, _, said), text in zip(utterances, texts, strict=True) if said != text]
    if wrong:
        lines = [f"  {name}\n  - {said}\n  + {text}" for name, said, text in wrong[:SHOWN]]
        more = [f"  … and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        sentence = (
            f"{model} must not be published: plain Transformers gives other texts (+) than the evaluation (-) "
            f"for {len(wrong)} of {len(utterances)} utterances. Check for files in it that were changed "
            "afterwards, such as vocab.json or preprocessor_config.json."
        )
        raise UserError("\n".join([sentence, *lines, *more]))


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute convolutions on a GPU in float32; by default cuDNN rounds their input to 10 bits (TF32).

    The texts are then equal to those of a CPU, and do not depend on the implementation of group norm. cuDNN has one
    switch for the whole process, and training needs the other setting: this one ends with its context.
    """
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def save_utterances(folder: Path, utterances: Sequence[Spoken]) -> None:
    """Write the utterances for `require_parity` into a folder, for another process."""
    waveforms = {str(number): np.ascontiguousarray(utterance[1]) for number, utterance in enumerate(utterances)}
    save_file(waveforms, folder / _WAVEFORMS)
    write_json(folder / _TEXTS, [(name, said) for name, _, said in utterances])


def load_utterances(folder: Path) -> list[Spoken]:
    """Read the utterances that `save_utterances` wrote."""
    waveforms = load_file(folder / _WAVEFORMS)
    texts = json.loads((folder / _TEXTS).read_text(encoding="utf-8"))
    return [(name, waveforms[str(number)], said) for number, (name, said) in enumerate(texts)]


def _recognise(model: Path, waveforms: Path, number: int) -> list[str]:
    """Plain Transformers' text of each waveform, from a separate process; raises UserError if it fails."""
    # Isolated (-I): without PYTHONPATH, user packages and the current folder.
    command = [sys.executable, "-I", str(_PROGRAM), str(model.resolve()), str(waveforms)]
    if is_baseline(read_object(model / "config.json").get("model_type")):
        command.append(str(_ROOT))
    with tempfile.TemporaryFile("w+", errors="replace") as errors:  # An unread pipe would fill up and block.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8") as process:
            assert process.stdout is not None
            lines = tqdm(process.stdout, "parity", total=number, unit="utterance", leave=False, disable=None)
            texts = [str(json.loads(line)) for line in lines]
        errors.seek(0)
        printed = errors.read().strip().splitlines()
    if process.returncode or len(texts) != number:
        reason = printed[-1] if printed else f"it ended with code {process.returncode}"
        raise UserError(f"{model} can't be published, since plain Transformers can't use it: {reason}")
    return texts
