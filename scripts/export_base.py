"""Make a run's model a base for other runs: its weights, its feature extractor and its vocabulary.

python scripts/export_base.py runs/base/model recipes/quickstart/base
"""

import argparse
import shutil
import sys
from pathlib import Path


def export_base(model: Path, output: Path) -> None:
    """Write a `Wav2Vec2ForCTC` and its processor in float32, without what belongs to the run alone.

    A README.md that stands in `output` is kept; anything else there is replaced.
    """
    import torch
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    Wav2Vec2ForCTC.from_pretrained(model, dtype=torch.float32).save_pretrained(partial)
    Wav2Vec2Processor.from_pretrained(model).save_pretrained(partial)
    if (output / "README.md").is_file():
        shutil.copy(output / "README.md", partial)
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)


def main() -> int:
    """Read the arguments; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a run's model folder")
    parser.add_argument("output", type=Path, help="where the base goes")
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        print(f"export_base: {options.model} is no model folder: expected one with a config.json.", file=sys.stderr)
        return 2
    export_base(options.model, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
