"""The decoder settings in a model's files are used, or refused with one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune.decoding.decoder import load_language_model
from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser

ARPA = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<unk>\n-1\t<s>\n-1\t</s>\n-1\tab\n\n\\end\\\n"


def write(model: Path, folder: Path, attributes: Any, settings: Any) -> Path:
    shutil.copytree(model, folder)
    (folder / "language_model").mkdir()
    (folder / "language_model" / "lm.arpa").write_text(ARPA)
    (folder / "language_model" / "attrs.json").write_text(json.dumps(attributes))
    (folder / "decoder.json").write_text(json.dumps(settings))
    return folder


def test_settings_are_read(model_folder: Path, tmp_path: Path) -> None:
    settings = {"beam_width": 30, "hotwords": {"bad": 2}, "tuned": ["on something"]}
    search = Recogniser.load(write(model_folder, tmp_path / "model", {"alpha": 0.7, "beta": 1}, settings), "cpu").search
    assert search is not None and search.beam_width == 30 and search.hotwords == {"bad": 2}
    assert search.weights.alpha == 0.7


def test_what_macos_writes_beside_a_language_model_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA)
    (tmp_path / "._lm.arpa").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert "ab" in load_language_model(tmp_path).words


@pytest.mark.parametrize(
    ("attributes", "settings", "said"),
    [
        ([], {}, "expected an object, found list"),
        ({"alpha": "much"}, {}, "found 'much' for alpha"),
        ({"alpha": 1e308}, {}, "found 1e+308 for alpha"),
        ({"beta": [1]}, {}, r"found [1] for beta"),
        ({"score_boundary": "yes"}, {}, "found 'yes' for score_boundary"),
        ({"beta": float("nan")}, {}, "found NaN"),
        ({}, {"beam_width": 10**12}, "found 1000000000000 for beam_width"),
        ({}, {"beam_width": "wide"}, "found 'wide' for beam_width"),
        ({}, {"beam_width": True}, "found True for beam_width"),
        ({}, {"hotwords": ["ab"]}, "found ['ab'] for hotwords"),
        ({}, {"hotwords": {"ab": "much"}}, "found 'much' for ab"),
        ({}, {"hotwords": {"ab" * 200_000: 1}}, "found 1 hotwords of 400000 characters"),
        ({}, {"hotwords": dict.fromkeys(map(str, range(20_000)), 1)}, "found 20000 hotwords"),
    ],
)
def test_settings_out_of_range_are_refused_with_one_sentence(
    attributes: Any, settings: Any, said: str, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        Recogniser.load(write(model_folder, tmp_path / "model", attributes, settings), "cpu")
    assert said in str(refused.value) and "\n" not in str(refused.value)
