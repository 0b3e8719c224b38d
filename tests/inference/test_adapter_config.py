"""Only settings for the weights of a LoRA adapter are passed to peft."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser
from finetune.models.adapters import add_lora, save_lora
from finetune.models.build import build_model
from finetune.models.configuration import load_config
from finetune.text.vocabulary import PAD, build_vocabulary


@pytest.fixture
def change(model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """`change(**values)` writes an adapter of the tiny model, sets keys in its configuration, returns its folder."""
    base, folder = str(model_folder), tmp_path / "adapter"
    usual: dict[str, Any] = {"blank": PAD, "dropout": 0.0, "mask_time_probability": 0.0, "seed": 0}
    model = build_model(load_config(base), base, vocabulary=build_vocabulary("abcd"), **usual)
    lora = add_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["q_proj"], revision=None, seed=0)
    save_lora(lora, folder)
    for name in ("vocab.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(model_folder / name, folder)

    def write(**values: Any) -> Path:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
        return folder

    return write


def test_adapters_with_module_names_and_with_an_expression_are_merged(change: Callable[..., Path]) -> None:
    named = Recogniser.load(change(), "cpu").model.state_dict()
    found = Recogniser.load(change(target_modules=r".*\.(q|x)_proj"), "cpu").model.state_dict()
    assert named.keys() == found.keys()
    assert all(torch.equal(named[name], weight) for name, weight in found.items())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"r": 10**9}, "has 1000000000 for r: expected a rank from 1 to 1024"),
        ({"r": "2"}, "has '2' for r"),
        ({"rank_pattern": {"q_proj": 10**9}}, "has 1000000000 for r"),
        ({"rank_pattern": {"(.+)+!": 2}}, "for rank_pattern: expected names of modules"),
        ({"modules_to_save": ["(.+)+!"]}, "for modules_to_save: expected names of modules"),
        ({"target_modules": {"a": 1}}, "for target_modules: expected names of modules"),
        ({"target_modules": "("}, "The regular expression '(' can't be used"),
        ({"lora_alpha": [1]}, "has [1] for lora_alpha"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "for megatron_config: expected an adapter of plain"),
        ({"megatron_core": "evil"}, "for megatron_core: expected an adapter of plain LoRA"),
        ({"corda_config": {"cache_file": "/etc/passwd"}}, "for corda_config: expected an adapter of plain LoRA"),
        ({"layer_replication": [[0, 100_000]]}, "for layer_replication: expected an adapter of plain LoRA"),
        ({"init_lora_weights": "pissa_niter_1000000"}, "for init_lora_weights"),
        ({"auto_mapping": {"parent_library": "evil", "base_model_class": "E"}}, "names code of 'evil' (auto_mapping"),
        ({"peft_type": "VERA"}, "is an adapter of type VERA; expected LORA"),
        ({"base_model_name_or_path": ["a"]}, "expected LORA that names its base"),
        ({"base_model_name_or_path": "../nowhere"}, "There is no model at ../nowhere"),
    ],
)
def test_forbidden_settings_of_adapters_are_refused(
    values: dict[str, Any], said: str, change: Callable[..., Path]
) -> None:
    with pytest.raises(UserError) as refused:
        Recogniser.load(change(**values), "cpu")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_an_adapter_of_an_adapter_and_one_without_weights(change: Callable[..., Path]) -> None:
    folder = change()
    with pytest.raises(UserError, match="is an adapter: expected a model with all of its weights"):
        Recogniser.load(change(base_model_name_or_path=str(folder)), "cpu")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="is an adapter without its weights"):
        Recogniser.load(folder, "cpu")
