"""The accepted tokenizers and feature extractors, and the languages of MMS models."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Wav2Vec2ForCTC, Wav2Vec2PhonemeCTCTokenizer

from finetune.cli import main
from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser
from finetune.inference.transcriber import Transcriber
from finetune.models.language_adapters import name_file
from finetune.models.languages import suggest_language

NOISE = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)


@pytest.fixture
def copied(model_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder, tmp_path / "model")


def change(file: Path, **values: Any) -> None:
    held = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**held, **values}))


@pytest.mark.parametrize(
    ("file", "key", "found"),
    [
        ("tokenizer_config.json", "tokenizer_class", "BertTokenizer"),
        ("tokenizer_config.json", "tokenizer_class", "OwnTokenizer"),
        ("preprocessor_config.json", "feature_extractor_type", "SeamlessM4TFeatureExtractor"),
        ("preprocessor_config.json", "processor_class", "WhisperProcessor"),
        ("processor_config.json", "processor_class", "Wav2Vec2BertProcessor"),
    ],
)
def test_other_classes_are_refused(copied: Path, file: str, key: str, found: str) -> None:
    change(copied / file, **{key: found})
    with pytest.raises(UserError, match=rf"of the class {found}: expected Wav2Vec2") as refused:
        Recogniser.load(copied)
    assert "\n" not in str(refused.value)


def test_phone_tokenizer_writes_phones(copied: Path) -> None:
    symbols = ["[PAD]", "t", "ʈʰ", "oʊ", "ˈa", "s", "[UNK]"]
    (copied / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    for name in ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "text_normalization.json"):
        (copied / name).unlink(missing_ok=True)
    Wav2Vec2PhonemeCTCTokenizer(
        str(copied / "vocab.json"), pad_token="[PAD]", unk_token="[UNK]", bos_token=None, eos_token=None
    ).save_pretrained(copied)
    transcriber = Transcriber(copied, device="cpu", precision="float32")
    recogniser = transcriber.recogniser
    torch.nn.init.normal_(recogniser.model.lm_head.weight)
    [text] = recogniser.recognise([NOISE])
    assert text and set(text.split()) <= set(symbols)
    assert transcriber.transcribe(NOISE, sampling_rate=16000).text == text
    assert recogniser.normalization == ()


@pytest.mark.parametrize("language", ["deu", "eng"])
def test_a_language_has_its_own_adapters_head_and_vocabulary(mms_base_folder: Path, language: str) -> None:
    recogniser = Recogniser.load(mms_base_folder, "cpu", language=language)
    plain = Wav2Vec2ForCTC.from_pretrained(mms_base_folder, target_lang=language, ignore_mismatched_sizes=True)
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, recogniser.model.state_dict()[name]), name
    tokenizer = AutoTokenizer.from_pretrained(mms_base_folder, target_lang=language)
    [text] = recogniser.recognise([NOISE])
    logits, [frames] = recogniser.logits([NOISE])
    assert text == tokenizer.decode(logits[0, :frames].argmax(-1).tolist())
    assert recogniser.num_symbols == {"deu": 9, "eng": 8}[language]


@pytest.mark.parametrize(
    ("language", "said"),
    [
        (None, r"writes 2 languages: say which with --language CODE, one of deu, eng\."),
        ("de", r"has no language de among its 2: did you mean deu\?"),
        ("engl", r"has no language engl among its 2: did you mean eng\?"),
        ("xyz", r"has no language xyz among its 2: expected one of deu, eng\."),
    ],
)
def test_a_missing_language_is_an_error_with_suggestions(
    mms_base_folder: Path, language: str | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        Recogniser.load(mms_base_folder, "cpu", language=language)


def test_missing_languages_are_errors_and_codes_are_suggested(
    model_folder: Path, mms_base_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has no languages to choose from: leave out --language deu"):
        Recogniser.load(model_folder, "cpu", language="deu")
    without = shutil.copytree(mms_base_folder, tmp_path / "without", ignore=shutil.ignore_patterns("adapter.*"))
    with pytest.raises(UserError, match=r"has no adapter\.deu\.safetensors"):
        Recogniser.load(without, "cpu", language="deu")
    assert Recogniser.load(without, "cpu", language="eng").num_symbols == 8
    assert name_file("deu") == "adapter.deu.safetensors"
    assert suggest_language("zh", ["cmn-script_simplified", "yue"]) == ["cmn-script_simplified"]
    assert suggest_language("sw", ()) == ["swh"]


@pytest.mark.long
def test_commands_take_a_language(
    mms_base_folder: Path, corpus_folder: Path, write_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = str(corpus_folder / "test" / "00.wav")
    assert main(["transcribe", str(mms_base_folder), audio]) == 2
    assert "say which with --language CODE" in capsys.readouterr().err
    assert main(["transcribe", str(mms_base_folder), audio, "--language", "deu"]) == 0
    model, data = str(mms_base_folder), ["--data", str(corpus_folder)]
    assert main(["evaluate", model, *data, "--language", "deu"]) == 0
    assert main(["compare", model, model, *data, "--language", "deu"]) == 0
    (tmp_path / "text.txt").write_text("ab cab")
    assert main(["align", model, audio, str(tmp_path / "text.txt"), "--language", "deu"]) == 0
    exported = tmp_path / "exported"
    how = ["--format", "onnx", "-o", str(exported), "--language", "deu"]
    assert main(["export", model, *data, *how]) == 0
    capsys.readouterr()
    assert main(["transcribe", str(exported), audio]) == main(["transcribe", model, audio, "--language", "deu"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert main(["push", model, "someone/model", *data]) == 2
    assert "writes 2 languages, and what is published is held" in capsys.readouterr().err
    assert main(["lm", "tune", model, "lm", *data]) == 2
    assert "writes 2 languages, and a language model is saved for one" in capsys.readouterr().err
    recipe = write_recipe(tmp_path, model={"base": str(mms_base_folder), "language_adapter": "de"})
    capsys.readouterr()
    assert main(["check", str(recipe)]) == 2
    assert "model.language_adapter: de has two letters, where " in capsys.readouterr().err
