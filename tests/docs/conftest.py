"""The site of the manual, and a folder in which its commands and examples run, with files under the names it uses."""

import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import speak
from manual import DOCS, ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as the manual tells, with warnings as errors."""
    folder = tmp_path_factory.mktemp("manual") / "0.1.0"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", str(DOCS)]
    command += ["-d", str(folder.parent / "doctrees"), str(ROOT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture
def sandbox(
    tmp_path: Path,
    model_folder: Path,
    corpus_folder: Path,
    write_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The working directory, with a tiny model as the runs' models, a corpus of tones, recipes and recordings."""
    for name in ("runs/quickstart", "runs/mine", "recipes/own_folder", "recipes/quickstart", "talks"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(model_folder, tmp_path / "runs/quickstart/model")
    shutil.copytree(model_folder, tmp_path / "runs/mine/model")
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    for folder in ("", "recipes/own_folder", "recipes/quickstart"):
        write_recipe(tmp_path / folder)
    speech = speak("ab cab bad", np.random.default_rng(0))
    for name in ("speech.wav", "talk.wav", "talks/one.wav", "talks/two.wav"):
        soundfile.write(tmp_path / name, speech, 16000)
    (tmp_path / "text.txt").write_text("Ab cab, bad.")
    (tmp_path / "sentences.txt").write_text("ab cab\nbad dad\nadd dab\nab bad\n" * 5)
    with gzip.open(tmp_path / "more.txt.gz", "wt") as file:
        file.write("cab dad\ndab ab\n" * 5)
    np.save(tmp_path / "speech.npy", speech)
    monkeypatch.chdir(tmp_path)
    return tmp_path
