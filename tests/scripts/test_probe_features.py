"""A probe of an encoder's output: it reads tones from an encoder that hears them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from probe_features import main
from transformers import Wav2Vec2ForCTC


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["probe_features.py", *arguments])
    return main()


def test_it_learns_to_read_and_says_how_well(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    torch.manual_seed(0)
    Wav2Vec2ForCTC(tiny_config("layer")).save_pretrained(tmp_path / "encoder")
    tables = [str(corpus_folder / split / "metadata.csv") for split in ("train", "validation")]
    errors = []
    for epochs in ("1", "40"):
        assert run([str(tmp_path / "encoder"), *tables, "--epochs", epochs], monkeypatch) == 0
        said = capsys.readouterr().out
        assert "on 6 utterances, 32 dimensions" in said
        errors.append(float(said.split("CER ")[1].split()[0]))
    assert errors[1] < errors[0] - 20, errors


def test_a_table_without_rows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    Wav2Vec2ForCTC(tiny_config("layer")).save_pretrained(tmp_path / "encoder")
    (tmp_path / "empty.csv").write_text("file_name,text\n")
    assert run([str(tmp_path / "encoder"), str(tmp_path / "empty.csv"), str(tmp_path / "empty.csv")], monkeypatch) == 2
    assert "empty.csv has no rows" in capsys.readouterr().err
