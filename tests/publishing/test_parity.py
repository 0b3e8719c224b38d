"""The parity gate: plain Transformers, in a separate process, must recognise the evaluator's texts."""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import speak, tiny_config

from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser
from finetune.publishing import plain_pipeline
from finetune.publishing.parity import Spoken, full_precision, load_utterances, require_parity, save_utterances

Evaluate = Callable[[Path], list[Spoken]]


def spread_symbols(folder: Path, norm: str) -> Path:
    """A tiny model with a random head, so that different models give different texts."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    from finetune.text.vocabulary import build_tokenizer, build_vocabulary

    torch.manual_seed(1)
    vocabulary = build_vocabulary("abcd")
    model: Any = Wav2Vec2ForCTC(tiny_config(norm, vocab_size=len(vocabulary), initializer_range=0.5))
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")
    Wav2Vec2Processor(extractor, build_tokenizer(vocabulary)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose texts have letters."""
    return spread_symbols(tmp_path_factory.mktemp("says"), "layer")


@pytest.fixture
def evaluate() -> Evaluate:
    """This package's texts of seven utterances, all in one batch."""
    rng = np.random.default_rng(0)
    waveforms = [speak(text, rng) for text in ("ab", "cab bad", "dad", "add dab ab", "dab", "bad", "cab")]

    def say(folder: Path) -> list[Spoken]:
        texts = Recogniser.load(str(folder), "cpu").recognise(waveforms)
        assert len(set(texts)) > 3 and all(set("ab") & set(text) for text in texts), texts
        return [(f"{i}.wav", *spoken) for i, spoken in enumerate(zip(waveforms, texts, strict=True))]

    return say


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_ordinary_models_pass(norm: str, evaluate: Evaluate, tmp_path: Path) -> None:
    folder = spread_symbols(tmp_path / "model", norm)
    *right, (name, waveform, text) = evaluate(folder)
    require_parity(folder, right)
    with pytest.raises(UserError, match=f"for 1 of {len(right) + 1} utterances"):
        require_parity(folder, [*right, (name, waveform, text + "b")])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lstm", pytest.param("cnn", marks=pytest.mark.slow)])
def test_a_baseline_passes_with_the_package_that_registers_it(kind: str, evaluate: Evaluate, tmp_path: Path) -> None:
    import torch
    from transformers import Wav2Vec2Processor

    from finetune.models.build import build_model
    from finetune.models.configuration import build_config, load_feature_extractor
    from finetune.text.vocabulary import PAD, build_tokenizer, build_vocabulary

    vocabulary = build_vocabulary("abcd")
    config = build_config({"type": kind, "hidden_size": 32, "num_hidden_layers": 2})
    options: dict[str, Any] = {"dropout": 0.0, "mask_time_probability": 0.0, "seed": 0}
    model: Any = build_model(config, None, vocabulary=vocabulary, blank=PAD, **options)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(tmp_path)
    Wav2Vec2Processor(load_feature_extractor(None, config), build_tokenizer(vocabulary)).save_pretrained(tmp_path)
    require_parity(tmp_path, evaluate(tmp_path))
    with pytest.raises(UserError, match="plain Transformers can't use it"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.publishing.parity.is_baseline", lambda kind: False)
        require_parity(tmp_path, evaluate(tmp_path))


@pytest.mark.long
def test_tampered_tokenizer_is_refused_with_the_lines_that_differ(
    model: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    utterances = evaluate(model)
    folder = tmp_path / "tampered"
    shutil.copytree(model, folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer.json").unlink(missing_ok=True)
    swapped = [text.translate(str.maketrans("ab", "ba")) for _, _, text in utterances]
    wrong = [i for i, (_, _, text) in enumerate(utterances) if text != swapped[i]]
    assert len(wrong) > 5
    with pytest.raises(UserError) as refused:
        require_parity(folder, utterances)
    first, *lines = str(refused.value).split("\n")
    assert f"for {len(wrong)} of 7 utterances" in first and str(folder) in first
    expected = [[f"  {utterances[i][0]}", f"  - {utterances[i][2]}", f"  + {swapped[i]}"] for i in wrong[:5]]
    assert lines == [*itertools.chain.from_iterable(expected), f"  … and {len(wrong) - 5} more"]


@pytest.mark.long
def test_model_that_does_not_load_is_one_sentence(model: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    utterances = evaluate(model)
    folder = tmp_path / "broken"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"plain Transformers can't use it: .*header") as refused:
        require_parity(folder, utterances)
    assert "\n" not in str(refused.value)


def test_the_separate_process_cannot_import_this_package(tmp_path: Path) -> None:
    """Although it is installed: a stand-in for the loading code tries to import it in that process."""
    program = """
import runpy, sys
import finetune
del sys.modules["finetune"]

def load_recogniser(*_):
    for name in ("finetune", "kenlm", "pyctcdecode"):
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            print(error)
    import transformers
    sys.exit("reached")

main = runpy.run_path(sys.argv[1])["main"]
main.__globals__["load_recogniser"] = load_recogniser
main(".", "none")
"""
    command = [sys.executable, "-c", program, plain_pipeline.__file__]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == ""  # That is for texts alone.
    refused = [f"No module named '{name}'" for name in ("finetune", "kenlm", "pyctcdecode")]
    assert sorted(done.stderr.splitlines()) == sorted([*refused, "reached"])


def test_the_package_of_the_baselines_must_need_no_other_part(tmp_path: Path) -> None:
    package = tmp_path / "finetune" / "models"
    package.mkdir(parents=True)
    for file, text in (("baselines.py", "import finetune.models.weights"), ("weights.py", ""), ("__init__.py", "")):
        (package / file).write_text(text)
    (tmp_path / "finetune" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-I", plain_pipeline.__file__, ".", "none", str(tmp_path)], capture_output=True, text=True
    )
    assert "finetune.models.baselines needs finetune.models.weights" in done.stderr


def test_utterances_are_saved_and_loaded_unchanged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    spoken = [("ä/1.wav", speak("ab", rng), "ab  é"), ("2.wav", speak("c", rng)[::2], "")]
    save_utterances(tmp_path, spoken)
    for (name, waveform, text), found in zip(spoken, load_utterances(tmp_path), strict=True):
        assert (name, text) == (found[0], found[2]) and np.array_equal(waveform, found[1])


def test_full_precision_ends_with_its_context() -> None:
    import torch

    before = torch.backends.cudnn.allow_tf32
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
