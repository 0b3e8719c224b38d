"""Files of every kind that is read, damaged at random: read, or one sentence, soon and in bounded memory."""

import io
import json
import resource
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from mutation import mutate

from finetune.audio.waveforms import AudioError, read_seconds
from finetune.data.sources import Source, load_splits, select_table
from finetune.decoding.arpa import read_arpa, write_arpa
from finetune.decoding.decoder import load_language_model
from finetune.decoding.kenlm_binary import read_kenlm
from finetune.decoding.kneser_ney import estimate
from finetune.errors import UserError
from finetune.evaluation.results import read_results
from finetune.inference.recogniser import Recogniser
from finetune.recipe.load import load_recipe

KENLM = Path(__file__).parents[1] / "decoding" / "kenlm"
ROWS = [{"file_name": f"{name}.wav", "text": f"words of {name}", "speaker": "s1"} for name in "abcd"]
_MOST_SECONDS, _MOST_KIB = 5.0, 1_000_000


def wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(1600, np.float32), 16000, format="WAV")
    return file.getvalue()


def write_corpus(folder: Path, file: str, content: str) -> Path:
    for row in ROWS:
        (folder / row["file_name"]).write_bytes(wav())
    (folder / file).write_text(content)
    return folder / file


def write_tar(folder: Path) -> Path:
    with tarfile.open(folder / "train-0.tar", "w") as archive:
        for row in ROWS:
            name = row["file_name"].removesuffix(".wav")
            parts = {f"{name}.wav": wav(), f"{name}.txt": b"words", f"{name}.json": b'{"speaker": "s1"}'}
            for each, content in parts.items():
                info = tarfile.TarInfo(each)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return folder / "train-0.tar"


def write_parquet(folder: Path) -> Path:
    audio = [{"bytes": wav(), "path": row["file_name"]} for row in ROWS]
    pq.write_table(pa.table({"audio": audio, "text": [row["text"] for row in ROWS]}), folder / "train.parquet")
    return folder / "train.parquet"


def write_table(folder: Path, comma: str, file: str) -> Path:
    lines = [comma.join(ROWS[0]), *(comma.join(row.values()) for row in ROWS)]
    return write_corpus(folder, file, "\n".join(lines) + "\n")


def write_kaldi(folder: Path, file: str) -> Path:
    write_corpus(folder, "wav.scp", "".join(f"{row['file_name'][0]} {row['file_name']}\n" for row in ROWS))
    (folder / "text").write_text("".join(f"{row['file_name'][0]} {row['text']}\n" for row in ROWS))
    return folder / file


def write_arpa_file(folder: Path) -> Path:
    write_arpa(estimate(["a b", "b a c", "c"] * 4, 3).model, folder / "lm.arpa")
    return folder / "lm.arpa"


def write_compiled(folder: Path) -> Path:
    load_language_model(write_arpa_file(folder).parent).save(folder / "lm.safetensors")
    return folder / "lm.safetensors"


def write_results(folder: Path) -> Path:
    texts = {"name": "a", "reference": "a b", "hypothesis": "a", "raw_reference": "A b", "speaker": "s"}
    line = {**texts, "seconds": 1.0, "columns": {}}
    (folder / "utterances.jsonl").write_text(json.dumps(line) + "\n")
    return folder / "utterances.jsonl"


def write_recipe_file(folder: Path) -> Path:
    (folder / "recipe.yaml").write_text(
        "data: {root: here}\nmodel: {base: there, lora: {rank: 4}}\ntraining: {max_steps: 5}\n"
    )
    return folder / "recipe.yaml"


def read_rows(file: Path) -> None:
    source = Source(str(file.parent))
    for name, splits in load_splits(source).items():
        table = select_table({name: splits}, name, source)
        for row in range(len(table)):
            try:
                read_seconds(table.recording(row))
            except AudioError as error:
                assert not str(error).startswith(("internal error", "out of memory")), str(error)


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "CSV": (lambda folder: write_table(folder, ",", "metadata.csv"), read_rows),
    "TSV": (lambda folder: write_table(folder, "\t", "metadata.tsv"), read_rows),
    "JSON": (lambda folder: write_corpus(folder, "metadata.json", json.dumps(ROWS)), read_rows),
    "JSON lines": (
        lambda folder: write_corpus(folder, "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        read_rows,
    ),
    "Kaldi wav.scp": (lambda folder: write_kaldi(folder, "wav.scp"), read_rows),
    "Kaldi text": (lambda folder: write_kaldi(folder, "text"), read_rows),
    "tar": (write_tar, read_rows),
    "Parquet": (write_parquet, read_rows),
    "recipe": (write_recipe_file, load_recipe),
    "ARPA": (write_arpa_file, read_arpa),
    "KenLM probing": (lambda folder: shutil.copy(KENLM / "probing.bin", folder / "lm.bin"), read_kenlm),
    "KenLM trie": (lambda folder: shutil.copy(KENLM / "trie.bin", folder / "lm.bin"), read_kenlm),
    "KenLM quantized": (lambda folder: shutil.copy(KENLM / "quantized.bin", folder / "lm.bin"), read_kenlm),
    "compiled language model": (write_compiled, lambda file: load_language_model(file.parent)),
    "results": (write_results, lambda file: read_results(file.parent)),
}
OF_A_MODEL = ("config.json", "vocab.json", "tokenizer_config.json", "processor_config.json", "model.safetensors")


def fuzz(file: Path, read: Callable[[Path], object], number: int) -> int:
    """How many of so many damaged copies of a file are read all the same."""
    content, was_read, peak = file.read_bytes(), 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(number):
        file.write_bytes(mutate(content, np.random.default_rng(seed)))
        began = time.process_time()
        try:
            read(file)
            was_read += 1
        except UserError as error:  # Of a recipe all problems at once, of which each has a line.
            assert "\n" not in str(error).strip() or " problem" in str(error), (seed, str(error))
        assert time.process_time() - began < _MOST_SECONDS, seed
    file.write_bytes(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < _MOST_KIB
    return was_read


@pytest.mark.parametrize("number", [40, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_read_or_one_sentence(kind: str, number: int, tmp_path: Path) -> None:
    write, read = READERS[kind]
    file = write(tmp_path)
    read(file)
    assert fuzz(file, read, number) < number


@pytest.mark.parametrize("number", [10, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OF_A_MODEL)
def test_a_damaged_model_is_loaded_or_one_sentence(model_folder: Path, name: str, number: int, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    assert fuzz(folder / name, lambda file: Recogniser.load(file.parent, "cpu"), number) < number
