"""A champion that knows the tones, and snapshots of corrections in tones that it does not know."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

SAMPLING_RATE = 16000
# Three of the four letters of the old data sound different in the new domain.
OLD = {"a": 350.0, "b": 800.0, "c": 1600.0, "d": 3200.0}
NEW = {"a": 480.0, "b": 1150.0, "c": 2300.0, "d": 4600.0}
WORDS = ("ab", "cab", "bad", "dad", "add", "dab")
TRAINING = {
    "batch_seconds": 5,
    "learning_rate": 5e-3,
    "warmup_ratio": 0.05,
    "mask_time_probability": 0.05,
    "mask_time_length": 2,
    "log_steps": 50,
    "num_workers": 0,
    "mixed_precision": "no",
}


def speak(transcript: str, tones: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """One tone of 0.1 s for each letter and a pause for each space, in faint noise: (samples,)."""
    time = np.arange(SAMPLING_RATE // 10) / SAMPLING_RATE
    envelope, pitch = np.sin(10 * np.pi * time), rng.uniform(0.97, 1.03)
    silence = np.zeros_like(time)
    letters = [
        silence if letter == " " else 0.4 * envelope * np.sin(2 * np.pi * pitch * tones[letter] * time)
        for letter in transcript
    ]
    sound = np.concatenate([silence, *letters, silence])
    return (sound + 0.002 * rng.standard_normal(len(sound))).astype(np.float32)


def write_split(folder: Path, count: int, tones: dict[str, float], seed: int, shuffled: bool, domain: str = "") -> None:
    """Utterances of one split; `shuffled` gives each the words of another."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    said = [" ".join(rng.choice(WORDS, size=1 + i % 3)) for i in range(count)]
    written = [said[place] for place in rng.permutation(count)] if shuffled else said
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "transcription", "speaker", *(["domain"] if domain else [])])
        for i, (words, text) in enumerate(zip(said, written, strict=True)):
            soundfile.write(folder / f"{i:02d}.wav", speak(words, tones, rng), SAMPLING_RATE)
            speaker = f"{folder.name}-{i % 6}"
            writer.writerow([f"{i:02d}.wav", text, speaker, *([f"{domain}{i % 2}"] if domain else [])])


@pytest.fixture(scope="session")
def write_snapshot() -> Callable[..., Path]:
    """`write_snapshot(folder, seed=1, shuffled=False, counts=(24, 12, 24))` writes a snapshot of two domains."""

    def write(folder: Path, seed: int = 1, shuffled: bool = False, counts: Sequence[int] = (24, 12, 24)) -> Path:
        for place, (split, number) in enumerate(zip(("train", "validation", "test"), counts, strict=True)):
            if number:
                write_split(folder / split, number, NEW, 10 * seed + place, shuffled, "phone")
        (folder / "snapshot.json").write_text(json.dumps({"version": 1}))
        return folder

    return write


@pytest.fixture(scope="session")
def old_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the champion: 32 training, 12 validation and 24 test utterances of the old tones."""
    folder = tmp_path_factory.mktemp("old")
    for seed, (split, number) in enumerate({"train": 32, "validation": 12, "test": 24}.items()):
        write_split(folder / split, number, OLD, seed, shuffled=False)
    return folder


@pytest.fixture(scope="session")
def champion(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, old_data: Path) -> Path:
    """The model of a run that learned the old tones; about ten seconds."""
    from finetune.recipe.load import load_recipe
    from finetune.run.experiment import run

    folder = tmp_path_factory.mktemp("champion")
    values = {
        "model": {"base": str(base_folder), "freeze_feature_encoder": False, "dropout": 0.0},
        "data": {"root": str(old_data)},
        "training": {**TRAINING, "max_steps": 450, "eval_steps": 150},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    run(load_recipe(folder / "recipe.yaml"), folder / "run")
    return folder / "run" / "model"


@pytest.fixture(scope="session")
def improve_recipe(tmp_path_factory: pytest.TempPathFactory, old_data: Path) -> Callable[..., Any]:
    """`improve_recipe(max_steps=200, model={…})` is the recipe of an improvement; its own base is never read."""
    from finetune.recipe.load import load_recipe

    def load(max_steps: int = 200, **sections: dict[str, Any]) -> Any:
        values: dict[str, dict[str, Any]] = {
            "model": {"base": "nowhere/nothing", "freeze_feature_encoder": False, "dropout": 0.0},
            "data": {"root": str(old_data)},
            "training": {**TRAINING, "max_steps": max_steps, "eval_steps": max_steps // 2, "learning_rate": 3e-3},
        }
        merged = {name: {**values.get(name, {}), **sections.get(name, {})} for name in (*values, *sections)}
        file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
        file.write_text(yaml.safe_dump(merged))
        return load_recipe(file)

    return load
