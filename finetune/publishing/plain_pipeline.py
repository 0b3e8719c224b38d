"""A separate program: recognise waveforms with plain Transformers, without this package.

    python -I plain_pipeline.py MODEL WAVEFORMS.safetensors [ROOT]

writes the text of each waveform ("0", "1" …; float32 at the model's sampling rate), as JSON, to a line of its standard
output. It must not import this package: `finetune.publishing.parity` runs it and compares the texts. Only with ROOT,
the folder of this package, it imports `finetune.models.baselines`, as the card of a baseline says.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

# With the last two Transformers would decode with a language model; the comparison is greedy.
HIDDEN = ("finetune", "kenlm", "pyctcdecode")
BASELINES = "finetune.models.baselines"


class Hider:
    """A finder for `sys.meta_path` that hides installed packages."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse hidden packages, and leave others to the following finders."""
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def load_recogniser(folder: Path, device: str) -> Any:
    """Transformers' pipeline of a model's folder in float32, built as in the card's example."""
    import torch
    from transformers import pipeline

    task: Any = "automatic-speech-recognition"
    options: dict[str, Any] = {"device": device, "dtype": torch.float32}
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or (folder / "model.safetensors").is_file():
        return pipeline(task, model=str(folder), trust_remote_code=False, **options)
    # An adapter without its base, which the pipeline cannot load: see `finetune.inference.recogniser`.
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


def register_baselines(root: str) -> None:
    """Import the package that registers the baselines, which must need no other part of finetune."""
    sys.path.insert(0, root)
    importlib.import_module(BASELINES)
    sys.path.remove(root)
    needed = {"finetune", "finetune.models", BASELINES}
    others = [name for name in sys.modules if name.startswith("finetune.") and name not in needed]
    if found := [name for name in others if not name.startswith(f"{BASELINES}.")]:
        raise ImportError(f"{BASELINES} needs {', '.join(found)}")


def main(folder: str, waveforms: str, root: str | None = None) -> None:
    """Run the command line."""
    # The libraries read these when they are imported. Only the folder, and an adapter's base, may be needed.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if root is not None:
        register_baselines(root)
    sys.meta_path.insert(0, Hider())
    # Output of libraries goes to standard error, so that standard output has only texts.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        import torch
        from safetensors.numpy import load_file

        torch.backends.cudnn.allow_tf32 = False  # As in the evaluation: see `parity.full_precision`.
        recognise = load_recogniser(Path(folder), "cuda:0" if torch.cuda.is_available() else "cpu")
        speech = load_file(waveforms)
        for number in range(len(speech)):
            sampling_rate = recognise.feature_extractor.sampling_rate
            text = recognise({"raw": speech[str(number)], "sampling_rate": sampling_rate})["text"]
            print(json.dumps(text), file=output, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
