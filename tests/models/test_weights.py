"""All weights are loaded, or a one-sentence error names those that do not fit."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2ForPreTraining

from finetune.cli import main
from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser
from finetune.models.adapters import add_lora, save_lora
from finetune.models.build import build_model
from finetune.models.configuration import load_config
from finetune.models.language_adapters import load_language_adapter
from finetune.text.vocabulary import PAD, build_vocabulary
from finetune.training.checkpoints import load_model

Weights = dict[str, torch.Tensor]

KEY = "wav2vec2.encoder.layers.1.attention.k_proj.weight"


@pytest.fixture
def change(model_folder: Path, tmp_path: Path) -> Callable[[Callable[[Weights], Weights]], Path]:
    """`change(function)` writes the tiny model again with its weights changed, and returns its folder."""

    def write(changed: Callable[[Weights], Weights]) -> Path:
        folder = shutil.copytree(model_folder, tmp_path / "changed", dirs_exist_ok=True)
        save_file(
            changed(load_file(model_folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"}
        )
        return folder

    return write


def build(base: Path, **options: Any) -> Any:
    """A model to train on a base."""
    shape = {"vocabulary": build_vocabulary("abcd"), "blank": PAD, "dropout": 0.0, "mask_time_probability": 0.0}
    return build_model(load_config(str(base)), str(base), **{**shape, "seed": 0, **options})


def recognise(folder: Path) -> Any:
    return Recogniser.load(folder, "cpu").model


LOADERS = {"as a base": build, "to transcribe": recognise}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


REFUSED: list[tuple[Callable[[Weights], Weights], str]] = [
    (without(".layers.1."), r"16 missing (wav2vec2.encoder.layers.1.attention.k_proj.bias, "),
    (lambda weights: {}, "missing ("),
    (lambda weights: {**weights, "wav2vec2.encoder.extra": torch.ones(1)}, "1 unexpected (wav2vec2.encoder.extra)"),
    (lambda weights: {**weights, KEY: torch.ones(3, 32)}, f"1 of another shape ({KEY} 3 × 32, not 32 × 32)"),
    (lambda weights: {**weights, KEY: weights[KEY] / 0}, f"1 not finite ({KEY})"),
    (lambda weights: {f"student.{name}": w for name, w in weights.items()}, "unexpected (student.lm_head.bias, "),
]


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(("changed", "said"), REFUSED)
def test_weights_that_do_not_fit_the_configuration_are_named(
    change: Callable[..., Path], load: Callable[[Path], Any], changed: Callable[[Weights], Weights], said: str
) -> None:
    folder = change(changed)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        load(folder)
    assert str(refused.value).startswith(f"The weights of {folder} don't fit its configuration: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(
    ("pattern", "prefixed"),
    [
        ("^", "module."),
        ("^", "_orig_mod."),
        ("^", "model."),
        ("^", "module._orig_mod."),
        ("^wav2vec2.", "wav2vec2._orig_mod."),
    ],
)
def test_prefixes_of_wrappers_are_removed_with_a_note(
    change: Callable[..., Path],
    load: Callable[[Path], Any],
    tmp_path: Path,
    pattern: str,
    prefixed: str,
    logged: list[str],
) -> None:
    expected = load(change(dict)).state_dict()
    folder = change(lambda weights: {re.sub(pattern, prefixed, name, count=1): w for name, w in weights.items()})
    model = load(folder)
    assert "have the names of a wrapped model, such as " in logged[0]
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    model.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == expected.keys()


def test_prefixes_are_removed_from_a_base_without_a_head(base_folder: Path, tmp_path: Path, logged: list[str]) -> None:
    base = shutil.copytree(base_folder, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    save_file({f"module.{name}": weight for name, weight in weights.items()}, base / "model.safetensors")
    loaded = build(base)
    assert len(logged) == 1
    assert torch.equal(loaded.state_dict()[KEY], weights[KEY.removeprefix("wav2vec2.")])


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_old_weight_names_of_published_checkpoints_are_loaded(
    change: Callable[..., Path], load: Callable[[Path], Any], tmp_path: Path, logged: list[str]
) -> None:
    """The old names of a weight norm, and of the vector for masked frames as in facebook/wav2vec2-base-100h."""
    norm = "wav2vec2.encoder.pos_conv_embed.conv."
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    expected = load(change(dict)).state_dict()

    def rename(weights: Weights) -> Weights:
        weights["wav2vec2.mask_time_emb_vector"] = torch.ones(32)
        return weights | {norm + new: weights.pop(norm + name) for name, new in old.items()}

    model = load(change(rename))
    assert not logged
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    model.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == expected.keys()


def test_a_checkpoint_without_the_embedding_of_masked_frames_can_be_trained(change: Callable[..., Path]) -> None:
    """As facebook/wav2vec2-base-960h."""
    folder = change(without("masked_spec_embed"))
    model = build(folder, mask_time_probability=0.5)
    assert torch.equal(model.state_dict()[KEY], load_file(folder / "model.safetensors")[KEY])
    assert model.wav2vec2.masked_spec_embed.isfinite().all()


def test_a_checkpoint_of_pretraining_can_be_trained(base_folder: Path, tmp_path: Path) -> None:
    config = load_config(str(base_folder))
    pretrained: Any = Wav2Vec2ForPreTraining(config)
    pretrained.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in held} == {"wav2vec2", "quantizer", "project_hid", "project_q"}
    for probability in (0.0, 0.5):
        assert torch.equal(build(tmp_path, mask_time_probability=probability).state_dict()[KEY], held[KEY])


@pytest.mark.parametrize("characters", ["abc", "abcdefg"])
def test_head_of_another_vocabulary_is_refused(change: Callable[..., Path], characters: str) -> None:
    folder = change(dict)
    (folder / "vocab.json").write_text(json.dumps(build_vocabulary(characters)))
    with pytest.raises(UserError, match=rf"has 7 outputs, and its vocab\.json {3 + len(characters)} tokens: expected"):
        Recogniser.load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 3 + len(characters)}))
    with pytest.raises(UserError, match=r"2 of another shape \(lm_head\.bias 7, not "):
        Recogniser.load(folder)


def test_lora_adapters_are_checked(base_folder: Path, tmp_path: Path, logged: list[str]) -> None:
    model = build(base_folder)
    folder = tmp_path / "adapter"
    shape: dict[str, Any] = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj"], "seed": 0}
    save_lora(add_lora(model, **shape, revision=None), folder)
    for name in ("vocab.json", "tokenizer_config.json", "preprocessor_config.json"):
        source = tmp_path / "processor"
        _write_processor(source)
        shutil.copy(source / name, folder / name)
    weights = load_file(folder / "adapter_model.safetensors")
    expected = recognise(folder).state_dict()
    cut = next(name for name in weights if "lora_B" in name)
    refused = {
        rf"1 missing \({re.escape(cut)}\)": {name: weight for name, weight in weights.items() if name != cut},
        rf"1 not finite \({re.escape(cut)}\)": {**weights, cut: weights[cut] + torch.inf},
    }
    for said, changed in refused.items():
        save_file(changed, folder / "adapter_model.safetensors")
        with pytest.raises(UserError, match=f"The weights of the adapter {folder} don't fit .*{said}"):
            recognise(folder)
    save_file({f"module.{name}": weight for name, weight in weights.items()}, folder / "adapter_model.safetensors")
    assert not logged
    mended = recognise(folder).state_dict()
    assert len(logged) == 1
    assert all(torch.equal(weight, expected[name]) for name, weight in mended.items())


def _write_processor(folder: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    from finetune.text.vocabulary import build_tokenizer

    build_tokenizer(build_vocabulary("abcd")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def test_languages_adapters_and_checkpoints_are_checked(mms_base_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(mms_base_folder, tmp_path / "base")
    model = build(base, language_adapter="deu")
    file = base / "adapter.deu.safetensors"
    weights = load_file(file)
    save_file({**weights, "lm_head.bias": weights["lm_head.bias"] * torch.nan}, file)
    with pytest.raises(UserError, match=r"adapter\.deu\.safetensors of .* 1 not finite \(lm_head\.bias\)"):
        load_language_adapter(model, str(base), "deu")
    save_file({name: weight for name, weight in weights.items() if "norm.bias" not in name}, file)
    with pytest.raises(UserError, match=r"adapter\.deu\.safetensors of .* 2 missing"):
        load_language_adapter(model, str(base), "deu")
    save_file(
        {name: weight for name, weight in model.state_dict().items() if name != KEY}, tmp_path / "step.safetensors"
    )
    with pytest.raises(UserError, match=rf"The weights of .*step\.safetensors don't fit .*1 missing \({KEY}\)"):
        load_model([tmp_path / "step.safetensors"], model)
    (tmp_path / "step.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"step\.safetensors can't be read: .*Remove this checkpoint"):
        load_model([tmp_path / "step.safetensors"], model)


def test_command_line_tells_the_note_once_and_names_missing_weights(
    change: Callable[..., Path], corpus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = str(corpus_folder / "test" / "00.wav")
    folder = change(lambda weights: {f"module.{name}": weight for name, weight in weights.items()})
    assert main(["transcribe", str(folder), audio]) == 0
    told = capsys.readouterr().err
    assert told.count("note: ") == 1 and "note: the weights of" in told and "module.lm_head.bias" in told
    assert main(["transcribe", str(change(without(".layers.1."))), audio]) == 2
    assert re.fullmatch(r"finetune: The weights of .*16 missing .*\n", capsys.readouterr().err)
