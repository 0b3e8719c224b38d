"""Small things that many tests need: speech made of tones, tiny encoders, recipes.

The session's folders are shared: read them, never write into them.
"""

import csv
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # Before any of the libraries reads it: no test waits for a network.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # Nothing is read from or left in the user's own.
# One thread for each worker, and for each process that a test starts: more would fight over the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from finetune.commands.console import TextFormatter
from finetune.resources.machine import count_threads, has_fast_bf16

# A machine that others use may take any time for an example.
settings.register_profile("finetune", deadline=None)
settings.load_profile("finetune")

torch.set_num_threads(1)

SAMPLING_RATE = 16000
TONES = {"a": 350.0, "b": 800.0, "c": 1600.0, "d": 3200.0}
WORDS = ("ab", "cab", "bad", "dad", "add", "dab")
LETTER_SECONDS = 0.1


def speak(transcript: str, rng: np.random.Generator) -> np.ndarray:
    """One tone for each letter and a pause for each space, in faint noise: (samples,) float32 at 16 kHz."""
    time = np.arange(int(LETTER_SECONDS * SAMPLING_RATE)) / SAMPLING_RATE
    envelope = np.sin(np.pi * time / LETTER_SECONDS)  # Two equal letters have a dip between them.
    silence = np.zeros_like(time)
    pitch = rng.uniform(0.97, 1.03)
    letters = [
        0.4 * envelope * np.sin(2 * np.pi * pitch * TONES[c] * time) if c in TONES else silence for c in transcript
    ]
    sound = np.concatenate([silence, *letters, silence])
    return (sound + 0.002 * rng.standard_normal(len(sound))).astype(np.float32)


def write_corpus(
    folder: Path, transcripts: Sequence[str], speakers: Sequence[str] | None = None, seed: int = 0
) -> Path:
    """One split: a WAV file for each transcript, and their metadata.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "speaker"])
        for i, transcript in enumerate(transcripts):
            soundfile.write(folder / f"{i:02d}.wav", speak(transcript, rng), SAMPLING_RATE)
            writer.writerow([f"{i:02d}.wav", transcript, speakers[i] if speakers else f"s{i % 4}"])
    return folder


def pytest_xdist_auto_num_workers() -> int:
    """A worker for each usable core with `-n auto`, and none beside the main process on a single core."""
    threads = count_threads()
    return threads if threads > 1 else 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` where there is no GPU, and what is marked `bf16` where the CPU would emulate it."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU (CUDA)")
    if item.get_closest_marker("bf16") and not has_fast_bf16(torch.device("cpu")):
        pytest.skip("needs a CPU with instructions for bf16")


@pytest.fixture(scope="session")
def gpu() -> str:
    """What torch calls the GPU, for tests with the marker `gpu`."""
    return "cuda"


@pytest.fixture(scope="session", autouse=True)
def _remove_the_cache() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Path]:
    """`make_corpus(folder, transcripts, speakers=None, seed=0)` writes one split with its metadata.csv."""
    return write_corpus


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training, 6 validation and 6 test utterances of 0.5 to 1.5 s; no speaker is in two splits."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for seed, (split, count) in enumerate({"train": 24, "validation": 6, "test": 6}.items()):
        transcripts = [" ".join(rng.choice(WORDS, size=1 + i % 3)) for i in range(count)]
        write_corpus(root / split, transcripts, [f"{split}-{i % 3}" for i in range(count)], seed)
    return root


def tiny_config(norm: str, **others: Any) -> Any:
    """A wav2vec2's configuration with the published kernels and strides, a few channels wide; `norm` as in its name."""
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16] * 7,
        conv_bias=norm == "layer",
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **others,
    )


def write_encoder(folder: Path, norm: str) -> Path:
    """A randomly initialised wav2vec2 without a CTC head, with wav2vec2's own kernels and strides."""
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    Wav2Vec2Model(tiny_config(norm)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with layer norm in its convolutions, as the large published models have."""
    return write_encoder(tmp_path_factory.mktemp("base"), "layer")


@pytest.fixture(scope="session")
def group_norm_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with group norm in its first convolution, as the published base size has."""
    return write_encoder(tmp_path_factory.mktemp("group-norm-base"), "group")


@pytest.fixture(scope="session")
def mms_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model laid out as facebook/mms-1b-all: adapters, heads and vocabularies of two languages, eng loaded.

    Its configuration differs from the published one in widths and depths alone.
    """
    from safetensors.torch import save_file
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("mms-base")
    specials = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}
    letters = {"eng": "abc", "deu": "abcd"}
    vocabularies = {
        language: {**specials, **{letter: 5 + i for i, letter in enumerate(letters[language])}} for language in letters
    }
    (folder / "vocab.json").write_text(json.dumps(vocabularies))
    for seed, language in enumerate(("deu", "eng")):
        torch.manual_seed(0)
        config = tiny_config("layer", adapter_attn_dim=4, vocab_size=len(vocabularies[language]))
        model: Any = Wav2Vec2ForCTC(config)
        torch.manual_seed(1 + seed)
        adapters = {name: torch.randn_like(weight) / 4 for name, weight in model._get_adapters().items()}
        model.load_state_dict(adapters, strict=False)
        save_file(adapters, folder / f"adapter.{language}.safetensors", metadata={"format": "pt"})
    model.save_pretrained(folder)
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang="eng").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """The tiny encoder with an untrained CTC head and its processor: loads, and transcribes nonsense."""
    from transformers import Wav2Vec2Processor

    from finetune.models.build import build_model
    from finetune.models.configuration import load_config, load_feature_extractor
    from finetune.text.transcripts import DEFAULT_TRANSFORMS, save_normalization
    from finetune.text.vocabulary import PAD, build_tokenizer, build_vocabulary

    folder = tmp_path_factory.mktemp("model")
    config = load_config(str(base_folder))
    vocabulary = build_vocabulary("abcd")
    model: Any = build_model(
        config, str(base_folder), vocabulary=vocabulary, blank=PAD, dropout=0.0, mask_time_probability=0.0, seed=0
    )
    model.save_pretrained(folder)
    feature_extractor = load_feature_extractor(str(base_folder), config)
    Wav2Vec2Processor(feature_extractor, build_tokenizer(vocabulary)).save_pretrained(folder)
    save_normalization(folder, DEFAULT_TRANSFORMS)
    return folder


@pytest.fixture(scope="session")
def write_recipe(base_folder: Path, corpus_folder: Path) -> Callable[..., Path]:
    """`write_recipe(folder, training={"max_steps": 3}, …)` writes `folder/recipe.yaml` and returns its path.

    Sections are merged into a run of four steps of the tiny encoder on the tones; a value None takes a key out.
    """

    def write(folder: Path, **sections: dict[str, Any]) -> Path:
        values: dict[str, dict[str, Any]] = {
            "model": {"base": str(base_folder)},
            "data": {"root": str(corpus_folder)},
            "training": {
                "max_steps": 4,
                "batch_seconds": 8,
                "eval_steps": 2,
                "log_steps": 1,
                "num_workers": 0,
                "mixed_precision": "no",  # The same on every machine.
            },
        }
        for name, section in sections.items():
            merged = {**values.get(name, {}), **section}
            values[name] = {key: value for key, value in merged.items() if value is not None}
        file = folder / "recipe.yaml"
        file.write_text(json.dumps(values, indent=2), encoding="utf-8")  # JSON is YAML, with its strings quoted.
        return file

    return write


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty `hub.Hub` as this process's own, with an empty cache, no token, no Xet and no long waits."""
    import huggingface_hub
    from hub import serve
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.05)))
    with serve(tmp_path / "hub") as served:
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        values = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": str(tmp_path / "hub-cache")}
        values |= {"ENDPOINT": served.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": template}
        values["HF_TOKEN_PATH"] = str(tmp_path / "no-token")
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", served.endpoint)
        huggingface_hub.utils.close_session()
        yield served
    huggingface_hub.utils.close_session()


class _Keeper(logging.Handler):
    """Keeps each line as a console shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(TextFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the package has logged since the test began, notes and errors with their prefix."""
    logger, keeper = logging.getLogger("finetune"), _Keeper()
    level = logger.level
    logger.addHandler(keeper)
    logger.setLevel(logging.INFO)
    yield keeper.lines
    logger.removeHandler(keeper)
    logger.setLevel(level)
