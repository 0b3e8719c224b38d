"""Forbidden settings in the files of a model are one-sentence errors before a library reads them."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser
from finetune.models.configuration import load_config, load_feature_extractor
from finetune.models.foreign_models import find_inside, list_shards, read_vocabulary, require_plain_model
from finetune.models.vocabulary import load_base_vocabulary
from finetune.resources.model_json import read_object

PACKAGE = Path(finetune.__file__).parent
COMMIT = "0" * 40


@pytest.fixture
def change(model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """`change(file, **values)` copies the tiny model, sets keys in one of its files, and returns its folder."""

    def write(name: str, **values: Any) -> Path:
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model_folder, folder)
        file = folder / name
        if name == "preprocessor_config.json" and "auto_map" not in values:  # Or the other file's would be read.
            file.write_text(json.dumps(json.loads((folder / "processor_config.json").read_text())["feature_extractor"]))
            (folder / "processor_config.json").unlink()
        held = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**held, **values}))
        return folder

    return write


CODE = [
    (
        "preprocessor_config.json",
        {"auto_map": {"AutoFeatureExtractor": "evil/code--evil.E"}},
        "its own code (auto_map in",
    ),
    ("tokenizer.json", {"a": {"b": [{"auto_map": 1}]}}, "its own code (auto_map in"),
    ("special_tokens_map.json", {"auto_map": None}, "its own code (auto_map in"),
    ("config.json", {"attn_implementation": "user/kernel"}, "asks for 'user/kernel' (attn_implementation in"),
    ("config.json", {"_attn_implementation": "flash_attention_2"}, "asks for 'flash_attention_2'"),
    ("config.json", {"_attn_implementation_internal": {"": "user/kernel@main:f"}}, "asks for 'user/kernel@main:f'"),
    ("config.json", {"experts_implementation": "user/kernel"}, "asks for 'user/kernel'"),
    ("config.json", {"use_kernels": True}, "asks for kernels of a hub (use_kernels in"),
    ("generation_config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised"),
    (
        "config.json",
        {"configuration_files": ["config.4.0.0.json"]},
        "names other files to read (configuration_files in",
    ),
    ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.4.json"]}, "names other files to read"),
    ("tokenizer_config.json", {"vocab_file": "../vocab.json"}, "vocab_file in tokenizer_config.json of"),
    ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "not in the model's folder"),
    ("config.json", {"transformers_weights": "../x.safetensors"}, "not in the model's folder"),
    ("model.safetensors.index.json", {"weight_map": {"a": "../../x.safetensors"}}, "the weight_map in"),
    ("model.safetensors.index.json", {"weight_map": {"a": 5, "b": "\0"}}, "not in the model's folder"),
    ("pytorch_model.bin.index.json", {"weight_map": ["x"]}, "expected a weight_map"),
]


@pytest.mark.parametrize(("name", "values", "said"), CODE)
def test_forbidden_settings_are_refused(
    name: str, values: dict[str, Any], said: str, change: Callable[..., Path]
) -> None:
    folder = change(name, **values)
    for load in (
        require_plain_model,
        load_config,
        Recogniser.load,
        lambda each: load_feature_extractor(str(each), None),
    ):
        with pytest.raises(UserError) as refused:
            load(str(folder))
        assert said in str(refused.value) and "\n" not in str(refused.value)


def test_usual_settings_are_accepted(change: Callable[..., Path]) -> None:
    usual = {"_attn_implementation": "eager", "attn_implementation": None, "_attn_implementation_autoset": True}
    assert Recogniser.load(change("config.json", **usual, quantization_config=None), "cpu").num_symbols == 7
    old = {"special_tokens_map_file": "/root/.cache/huggingface/a.json", "tokenizer_file": None, "name_or_path": "/a"}
    assert Recogniser.load(change("tokenizer_config.json", **old, model_max_length=10**30), "cpu").num_symbols == 7


ABSURD = [
    ("config.json", {"num_hidden_layers": 100_000}, "found 100000 for num_hidden_layers"),
    ("config.json", {"num_hidden_layers": 900}, "missing ("),
    ("config.json", {"hidden_size": 4_000_000_000}, "found 4000000000 for hidden_size"),
    ("config.json", {"hidden_size": 4_000_000}, "weights, and its files of weights have"),
    ("config.json", {"vocab_size": 9_000_000}, "weights, and its files of weights have"),
    ("config.json", {"intermediate_size": 10**40}, "for intermediate_size"),
    ("config.json", {"num_labels": 10**9}, "for num_labels"),
    ("config.json", {"hidden_size": -5}, "found -5 for hidden_size"),
    ("config.json", {"conv_stride": [0] * 7}, "for conv_stride"),
    ("config.json", {"conv_stride": [9000] * 7}, "find no frame in 0.1 s"),
    ("config.json", {"conv_dim": [1] * 101}, "for conv_dim"),
    ("config.json", {"conv_dim": {"a": 1}}, "config.json"),
    ("config.json", {"hidden_act": "shout"}, "can't be loaded"),
    ("config.json", {"hidden_dropout": 5}, "can't be loaded"),
    ("config.json", {"to_dict": 1}, "'to_dict', which would replace a part of Wav2Vec2Config"),
    ("config.json", {"__dict__": {}}, "'__dict__', which would replace"),
    ("config.json", {"attribute_map": {"hidden_size": "a"}}, "'attribute_map', which would replace"),
    ("config.json", {"architectures": 5}, "config.json"),
    ("config.json", {"id2label": [5]}, "config.json"),
    ("config.json", {"dtype": "shout"}, "shout"),
    ("preprocessor_config.json", {"sampling_rate": 0}, "sampling_rate of 0"),
    ("preprocessor_config.json", {"sampling_rate": -1}, "sampling_rate of -1"),
    ("preprocessor_config.json", {"sampling_rate": 10**12}, "sampling_rate of 1000000000000"),
    ("preprocessor_config.json", {"sampling_rate": "16000"}, "sampling_rate of 16000"),
    ("preprocessor_config.json", {"feature_size": 10**9}, "feature_size of 1000000000"),
    ("preprocessor_config.json", {"padding_value": [1]}, "padding_value of [1]"),
    ("preprocessor_config.json", {"pad": 1}, "'pad', which would replace"),
    ("processor_config.json", {"feature_extractor": [1]}, "no usable preprocessor_config.json"),
    ("tokenizer_config.json", {"pad_token": 7}, "tiny"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "tiny"),
    ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "tiny"),
    ("tokenizer_config.json", {"target_lang": {"a": 1}}, "tiny"),
    ("vocab.json", {"a": 10**12}, "for 'a'; expected up to 131072 tokens"),
    ("vocab.json", {f"tok{i}": i for i in range(6000)}, "tokens; expected up to 131072 tokens, 5000 of them with"),
    ("special_tokens_map.json", {"extra_special_tokens": ["a"] * 5000}, "lists 5000 tokens"),
    ("tokenizer_config.json", {f"x{i}_token": "a" for i in range(5000)}, "tokens: expected up to 1000"),
    ("vocab.json", {"a": -1}, "found -1 for 'a'"),
    ("vocab.json", {"a": "5"}, "found '5' for 'a'"),
    ("vocab.json", {"a": True}, "found True for 'a'"),
    ("vocab.json", {"a": {"b": 1}}, "a column for each token, or"),
    ("text_normalization.json", {"steps": "nfc"}, 'expected {"steps"'),
    ("text_normalization.json", {"version": 1e300}, 'expected {"steps"'),
    ("text_normalization.json", {"steps": [{"remove_punctuation": {}}]}, "a transform that can't be used"),
    ("audio_preprocessing.json", {"steps": [{"peak": 0}] * 1000}, "found 1000 transforms"),
    ("audio_preprocessing.json", {"steps": [{"highpass": [80]}]}, "a transform that can't be used"),
    ("utterance_lengths.json", {}, "found None, expected mean_seconds and longest_seconds"),
    ("utterance_lengths.json", {"mean_seconds": 2.5, "longest_seconds": 0}, "found 0, expected"),
    ("utterance_lengths.json", {"mean_seconds": -2.5, "longest_seconds": 6}, "found -2.5, expected"),
    ("utterance_lengths.json", {"mean_seconds": 2.5, "longest_seconds": 10**40}, "up to 86400"),
    ("utterance_lengths.json", {"mean_seconds": True, "longest_seconds": 6}, "found True, expected"),
    ("utterance_lengths.json", {"mean_seconds": [2.5], "longest_seconds": 6}, "found [2.5], expected"),
]


@pytest.mark.parametrize(("name", "values", "said"), ABSURD)
def test_values_out_of_range_are_one_error(
    name: str, values: dict[str, Any], said: str, change: Callable[..., Path]
) -> None:
    folder = change(name, **values)
    with pytest.raises(UserError) as refused:
        Recogniser.load(folder, "cpu")
    assert said.replace("tiny", str(folder)) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "nests too deep"),
        ('{"a":' * 500 + "1" + "}" * 500, "nests deeper than 32 levels"),
        ('{"a": NaN}', "found NaN"),
        ('{"a": [-Infinity]}', "found -Infinity"),
        ('{"a": {"b": 1e999}}', "not finite"),
        ('{"a": ' + "9" * 5000 + "}", "damaged"),
        ("[]", "expected an object, found list"),
        ("", "is damaged"),
        (" " * (16 * 2**20) + "{}", "larger than 16 MiB"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "vocab.json", "text_normalization.json", "utterance_lengths.json"])
def test_damaged_json_is_refused(content: str, said: str, name: str, model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=said):
        read_object(folder / name)
    with pytest.raises(UserError, match=said):
        Recogniser.load(folder, "cpu")


def test_training_refuses_the_same_files(change: Callable[..., Path]) -> None:
    folder = str(change("tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", None]}))
    for load in (load_config, load_base_vocabulary, lambda base: load_feature_extractor(base, None)):
        with pytest.raises(UserError, match="brings its own code"):
            load(folder)
    nested = str(change("vocab.json", **{}))
    (Path(nested) / "vocab.json").write_text('{"deu": {"a": 0}, "eng": {"a": 0}}')
    with pytest.raises(UserError, match="has no vocabulary"):
        load_base_vocabulary(nested)


def test_named_files_must_be_in_the_folder_or_the_cache_of_a_hub(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "language_model").mkdir(parents=True)
    (tmp_path / "secret").write_text("{}")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "within").symlink_to("language_model")
    for name in ("a.json", "language_model/lm.bin", "within/lm.bin"):
        assert find_inside(folder, name, "it") == folder / name
    for name in (
        "../secret",
        str(tmp_path / "secret"),
        "link",
        "",
        ".",
        "a/../../b",
        "\0",
        5,
        None,
    ):
        with pytest.raises(UserError, match="not in the model's folder"):
            find_inside(folder, name, "it")
    snapshot = tmp_path / "hub" / "models--team--model" / "snapshots" / COMMIT
    blobs = snapshot.parents[1] / "blobs"
    for each in (snapshot, blobs, tmp_path / "hub" / "blobs" / "ab"):
        each.mkdir(parents=True)
    (blobs / "1").write_text('{"weight_map": {"a": "a.safetensors"}}')
    (tmp_path / "hub" / "blobs" / "ab" / "shared").write_text("{}")
    (blobs / "2").symlink_to("../../blobs/ab/shared")
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/1")
    (snapshot / "a.safetensors").symlink_to("../../blobs/2")
    assert list_shards(snapshot / "model.safetensors.index.json") == ["a.safetensors"]
    require_plain_model(snapshot)
    (snapshot / "b").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="not in the model's folder"):
        find_inside(snapshot, "b", "it")


def test_a_vocabulary_of_languages(mms_base_folder: Path) -> None:
    assert sorted(read_vocabulary(mms_base_folder / "vocab.json")) == ["deu", "eng"]


def test_every_loading_function_checks_the_files_first() -> None:
    """`require_plain_model` is called before each loading call."""
    loading = [
        (file.relative_to(PACKAGE).as_posix(), ast.unparse(function))
        for file in PACKAGE.rglob("*.py")
        for function in ast.parse(file.read_text(encoding="utf-8")).body
        if ".from_pretrained(" in ast.unparse(function)
    ]
    assert len(loading) > 4
    unlooked = {name for name, code in loading if "require_plain_model(" not in code.split(".from_pretrained(")[0]}
    assert unlooked <= {"publishing/plain_pipeline.py"}  # A separate program.


def test_the_json_files_of_models_have_one_reader() -> None:
    """Modules that parse JSON themselves do not read files of models."""
    others = {
        *("data/archives.py", "data/folders.py", "data/manifests.py", "decoding/ngram.py", "evaluation/report.py"),
        *("evaluation/results.py", "publishing/checkpoint_export.py", "publishing/parity.py"),
        *("publishing/plain_pipeline.py", "resources/model_json.py", "run/run_log.py", "run/run_directory.py"),
        *("run/model_folder.py", "serving/realtime.py", "serving/vosk.py", "text/expressions.py"),
        *(
            "feedback/row_writer.py",
            "feedback/rows.py",
            "feedback/snapshots.py",
            "feedback/store.py",
            "feedback/versions.py",
        ),
        *("feedback/imports/label_studio.py", "run/improvement.py", "run/run_report.py"),
    }
    parsing = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if "training" not in file.parts  # Which reads what runs wrote.
        and any(call in file.read_text(encoding="utf-8") for call in ("json.load(", "json.loads("))
    }
    assert parsing <= others
