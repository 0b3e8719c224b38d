"""A corpus of which only the transcripts matter: its audio is noise."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile


def write_noise(corpus: Path, texts: Sequence[str], splits: Sequence[str] = ("train", "validation")) -> None:
    """Two seconds of noise at 16 kHz for each text, in a folder with a metadata.jsonl for each split."""
    for split in splits:
        folder = corpus / split
        folder.mkdir(parents=True)
        lines = [json.dumps({"file_name": f"{i}.wav", "text": text}) + "\n" for i, text in enumerate(texts)]
        (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        for i in range(len(texts)):
            soundfile.write(folder / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(32000), 16000)
