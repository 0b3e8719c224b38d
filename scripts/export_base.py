"""Make a run's model a base for other runs: its weights, feature extractor, vocabulary and normalisation of text.

python scripts/export_base.py runs/base/model recipes/quickstart/base [--half]

With --half the weights are stored in half precision, and its config.json says that they are loaded in float32.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any


def export_base(model: Path, output: Path, half: bool = False) -> None:
    """Write a `Wav2Vec2ForCTC`, its processor and how its texts are normalised, without what belongs to the run alone.

    A README.md and licences that stand in `output` are kept; any other file goes. Raises OverflowError if a weight
    is too large for half precision.
    """
    import torch
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    from finetune.files import new_folder
    from finetune.text.transcripts import NORMALIZATION_FILE

    base: Any = Wav2Vec2ForCTC.from_pretrained(model, dtype=torch.float32)
    if half:
        base.half()
        for name, weight in base.named_parameters():
            if not weight.isfinite().all():
                raise OverflowError(f"{name} of {model} has weights above {torch.finfo(torch.half).max:g}")
    with new_folder(output) as partial:
        base.save_pretrained(partial)
        config = partial / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
        Wav2Vec2Processor.from_pretrained(model).save_pretrained(partial)
        for kept in (*model.glob(NORMALIZATION_FILE), *output.glob("README.md"), *output.glob("LICENSE*")):
            shutil.copy(kept, partial)


def main() -> int:
    """Read the arguments; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a run's model folder")
    parser.add_argument("output", type=Path, help="where the base goes")
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        print(f"export_base: {options.model} is no model folder: expected one with a config.json.", file=sys.stderr)
        return 2
    export_base(options.model, options.output, options.half)
    return 0


if __name__ == "__main__":
    sys.exit(main())
