"""A program of its own: a model's folder and waveforms to the texts that plain Transformers gives, on a clean path.

    python -I plain_pipeline.py MODEL WAVEFORMS.safetensors

writes the text of each waveform ("0", "1" …; float32 at the model's sampling rate), as JSON, to a line of its standard
output. Nothing here may need this package: `finetune.publishing.parity` runs it and looks at the texts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

# The last two decode with a language model where they are installed, and what is compared is greedy.
HIDDEN = ("finetune", "kenlm", "pyctcdecode")


class Hider:
    """A finder for `sys.meta_path` that makes packages look as if they were not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse the hidden packages, and leave others to the finders behind."""
        if name.partition(".")[0] in HIDDEN:
            self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def load_recogniser(folder: Path, device: str) -> Any:
    """Transformers' pipeline of a model's folder in float32, put together as the card's example does it."""
    import torch
    from transformers import pipeline

    task: Any = "automatic-speech-recognition"
    options: dict[str, Any] = {"device": device, "dtype": torch.float32}
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or (folder / "model.safetensors").is_file():
        return pipeline(task, model=str(folder), trust_remote_code=False, **options)
    # An adapter alone, which the pipeline can't load itself: see `finetune.inference.recogniser`.
    from peft import PeftModel
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

    described = json.loads(adapter.read_text(encoding="utf-8"))
    base = AutoModelForCTC.from_pretrained(
        described["base_model_name_or_path"],
        config=AutoConfig.from_pretrained(folder, trust_remote_code=False),
        revision=described.get("revision"),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        trust_remote_code=False,
    )
    return pipeline(
        task,
        model=PeftModel.from_pretrained(base, str(folder)).merge_and_unload(),
        tokenizer=AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        feature_extractor=AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False),
        trust_remote_code=False,
        **options,
    )


def main(folder: str, waveforms: str) -> None:
    """Run the command line."""
    sys.meta_path.insert(0, Hider())
    # Read by the libraries when they are imported. The folder must be all that is needed, but an adapter's base.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # Only texts go to the standard output, whatever a library prints.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        import torch
        from safetensors.numpy import load_file

        torch.backends.cudnn.allow_tf32 = False  # As in the evaluator's texts: see `parity.full_precision`.
        recognise = load_recogniser(Path(folder), "cuda:0" if torch.cuda.is_available() else "cpu")
        speech = load_file(waveforms)
        for number in range(len(speech)):
            sampling_rate = recognise.feature_extractor.sampling_rate
            text = recognise({"raw": speech[str(number)], "sampling_rate": sampling_rate})["text"]
            print(json.dumps(text), file=output, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
