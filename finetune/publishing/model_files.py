"""Select the files of a model's folder to publish, and the files of a repository that a push replaces."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath

from huggingface_hub import RepoFile

from finetune.audio.preprocessing import PREPROCESSING_FILE
from finetune.decoding.decoder import ALPHABET, SETTINGS
from finetune.decoding.decoder import FOLDER as LANGUAGE_MODEL
from finetune.errors import UserError
from finetune.inference.utterance_statistics import STATISTICS_FILE
from finetune.inference.windows import LENGTHS_FILE
from finetune.models.foreign_models import require_inside, require_plain_model
from finetune.models.relatives import RELATIVES, refuse_kind
from finetune.publishing.record import FILE as RECORD
from finetune.resources.model_json import read_object
from finetune.text.transcripts import NORMALIZATION_FILE

CARD = "README.md"
_MODEL = (
    CARD,
    "recipe.yaml",
    RECORD,
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    NORMALIZATION_FILE,
    PREPROCESSING_FILE,
    LENGTHS_FILE,
    STATISTICS_FILE,
    ALPHABET,
    SETTINGS,
)
# The same weights in other formats, which tools would load instead.
_OTHER_WEIGHTS = ("pytorch_model*", "tf_model*", "flax_model*", "adapter_config.json", "adapter_model.bin")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5")
_KENLM = b"mmap lm http://kheafield.com/code"


@dataclass(frozen=True)
class ModelFile:
    """A file to publish, and its name in the repository."""

    name: str
    path: Path

    @cached_property
    def size(self) -> int:
        """Size in bytes."""
        return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """The digest that identifies a file in Git LFS."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def is_in(self, there: RepoFile | None) -> bool:
        """Whether a repository's file has the same content."""
        if there is None or there.size != self.size:
            return False
        if there.lfs:
            return there.lfs.sha256 == self.sha256
        content = self.path.read_bytes()  # Git's object hash.
        return there.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def list_model_files(folder: Path) -> tuple[tuple[ModelFile, ...], tuple[str, ...]]:
    """The files of a model's folder to publish, and the names of its other files.

    Raises UserError unless it is a wav2vec2 or a relative that Transformers loads, and for pickles or remote code.
    """
    _require_model(folder)
    places = [place for place in (folder, folder / LANGUAGE_MODEL) if place.is_dir()]
    found = [path for place in places for path in sorted(place.iterdir())]
    visible = [path for path in found if path.name[0] != "." and path.is_file()]
    for path in visible:
        if path.suffix.lower() in _PICKLES and not _is_language_model(path):
            raise UserError(
                f"{path} may be a pickle, which can run code when it is loaded: only safetensors are pushed, so save "
                "the model as safetensors, and remove it."
            )
    files = [ModelFile(path.relative_to(folder).as_posix(), path) for path in visible]
    ours = tuple(file for file in files if is_model_file(file.name))
    for file in ours:
        require_inside(folder, file.path)
    if not any(file.name.endswith(".safetensors") for file in ours):
        raise UserError(f"{folder} has no weights: expected model.safetensors, as save_pretrained writes it.")
    return ours, tuple(file.name for file in files if file not in ours)


def is_model_file(name: str) -> bool:
    """Whether a file name belongs to a model: such files are pushed, and outdated ones are removed by a push."""
    path = PurePosixPath(name)
    if str(path.parent) == ".":
        return any(fnmatchcase(name, pattern) for pattern in _MODEL)
    return str(path.parent) == LANGUAGE_MODEL and path.name[0] != "."


def list_outdated(there: Sequence[str], files: Sequence[ModelFile]) -> list[str]:
    """A repository's files that a push removes: outdated files of a model, and weights in any other format.

    A card is replaced but never removed, since people write them. Other files are kept.
    """
    names = {file.name for file in files} | {CARD}
    weights = [name for name in there if any(fnmatchcase(name, pattern) for pattern in _OTHER_WEIGHTS)]
    return sorted({*(name for name in there if is_model_file(name)), *weights} - names)


def _require_model(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} is an adapter without its base, which plain Transformers can't load: push the run, "
            "whose model has the merged weights."
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is not a model: expected a run, or a folder with a config.json and model.safetensors."
        )
    config = read_object(folder / "config.json")
    if config.get("model_type") not in RELATIVES:
        raise refuse_kind(str(folder), config.get("model_type"))
    require_plain_model(folder)


def _is_language_model(path: Path) -> bool:
    with path.open("rb") as file:
        return path.parent.name == LANGUAGE_MODEL and file.read(len(_KENLM)) == _KENLM


def format_size(size: int) -> str:
    """A number of bytes with a unit."""
    for unit, most in (("B", 1e3), ("kB", 1e6), ("MB", 1e9)):
        if size < most:
            return f"{size * 1e3 / most:.3g} {unit}"
    return f"{size / 1e9:.3g} GB"
