"""A base is a model and its processor alone, and half precision on disk is float32 in memory."""

from pathlib import Path

import pytest
import torch
from export_base import export_base, main
from safetensors.torch import load_file
from transformers import Wav2Vec2ForCTC

from finetune.text.transcripts import load_normalization


def test_what_is_stored_in_half_precision_is_loaded_in_float32(model_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "base"
    output.mkdir()
    for name in ("README.md", "LICENSE.other"):
        (output / name).write_text("kept")
    (output / "optimizer.bin").touch()
    export_base(model_folder, output, half=True)
    assert {weight.dtype for weight in load_file(output / "model.safetensors").values()} == {torch.float16}
    assert (output / "README.md").read_text() == (output / "LICENSE.other").read_text() == "kept"
    assert not (output / "optimizer.bin").exists()
    modes = {file.stat().st_mode for file in output.iterdir()}
    assert modes == {(output / "README.md").stat().st_mode}, "others cannot read what safetensors writes by itself"
    loaded, before = (Wav2Vec2ForCTC.from_pretrained(folder).state_dict() for folder in (output, model_folder))
    assert {weight.dtype for weight in loaded.values()} == {torch.float32}
    assert all(torch.equal(weight, before[name].half().float()) for name, weight in loaded.items())


def test_without_it_every_bit_stays(model_folder: Path, tmp_path: Path) -> None:
    export_base(model_folder, tmp_path / "base")
    assert load_normalization(tmp_path / "base") == load_normalization(model_folder) is not None
    loaded, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", model_folder))
    assert loaded.keys() == before.keys() and all(torch.equal(loaded[name], before[name]) for name in before)


def test_a_weight_that_is_too_large_is_named(model_folder: Path, tmp_path: Path) -> None:
    model = Wav2Vec2ForCTC.from_pretrained(model_folder)
    with torch.no_grad():
        model.lm_head.bias[0] = 1e5
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(OverflowError, match=r"lm_head\.bias"):
        export_base(tmp_path / "model", tmp_path / "base", half=True)
    assert not (tmp_path / "base").exists()


def test_a_folder_without_a_model_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["export_base.py", str(tmp_path), str(tmp_path / "base")])
    assert main() == 2 and "is no model folder: expected one with a config.json" in capsys.readouterr().err
