"""`finetune lm build`: a folder with the model in two formats, estimated by us or by lmplz."""

import gzip
import io
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune.cli import main
from finetune.decoding.arpa import read_arpa
from finetune.decoding.ngram import NGramModel
from finetune.resources.machine import Memory
from finetune.text.transcripts import save_normalization

TEXT = "The cat sat on the mat.\n\n  the DOG sat\nthe cat ran\n"
FILES = ["lm.arpa", "lm.safetensors", "unigrams.txt"]

ARPA = r"""\data\
ngram 1=5
ngram 2=2

\1-grams:
-1	<unk>
-99	<s>	-0.5
-1	</s>
-0.5	the	-0.25
-0.75	cat	0

\2-grams:
-0.25	<s> the
-0.5	the cat

\end\
"""


@pytest.fixture
def build(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`build(*arguments)` runs the command in `tmp_path`, which has `text.txt`, and returns its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / "text.txt").write_text(TEXT)

    def run(*arguments: str) -> str:
        assert main(["lm", "build", *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_the_folder_has_the_model_in_two_formats(build: Callable[..., str], tmp_path: Path) -> None:
    told = build("text.txt", "-o", "lm", "--order", "3").splitlines()
    assert sorted(file.name for file in (tmp_path / "lm").iterdir()) == FILES
    one, other = read_arpa(tmp_path / "lm" / "lm.arpa"), NGramModel.load(tmp_path / "lm" / "lm.safetensors")
    assert one.words == other.words and all(np.array_equal(a, b) for a, b in zip(one.trie, other.trie, strict=True))
    assert (tmp_path / "lm" / "unigrams.txt").read_text().split() == ["cat", "dog", "mat", "on", "ran", "sat", "the"]
    sentences = [line.split() for line in ("the cat sat on the mat", "the dog sat", "the cat ran")]
    assert told == [
        "normalisation: remove_invisible, nfkc, lowercase, remove_punctuation",
        "text: 3 sentences, 12 words",
        "estimated by modified Kneser-Ney smoothing",
        "1-grams: 10, discounts 0.556 1.167 3.000",
        "2-grams: 12, discounts 0.500 1.000 1.500 (lmplz's fallback: the text is too small to estimate them)",
        "3-grams: 11, discounts 0.500 1.000 1.500 (lmplz's fallback: the text is too small to estimate them)",
        f"perplexity on the text itself: {one.perplexity(sentences).including_oovs:.1f}",
        "language model: lm",
    ]


def test_pruning_and_perplexity_on_another_text(build: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("the bird sat\n")
    told = build("text.txt", "-o", "lm", "--prune", "0", "0", "1", "--test", "test.txt")
    assert "\n3-grams: 1 of 11, " in told and "\n4-grams: 0 of 9, " in told
    model = read_arpa(tmp_path / "lm" / "lm.arpa")
    assert model.counts == [10, 12, 1]
    found = model.perplexity([["the", "bird", "sat"]])
    assert (
        f"\nperplexity on test.txt: {found.including_oovs:.1f} with 1 unknown of 4 words and sentence ends, "
        f"{found.excluding_oovs:.1f} without them\n"
    ) in told


def test_text_is_normalised_like_a_models_transcripts(
    build: Callable[..., str], tmp_path: Path, base_folder: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((base_folder / "config.json").read_bytes())
    save_normalization(model, ["uppercase", {"replace": ["THE", "A"]}])
    build("text.txt", "-o", "lm", "--model", "model")
    words = {"A", "CAT", "DOG", "MAT.", "ON", "RAN", "SAT"}
    assert set((tmp_path / "lm" / "unigrams.txt").read_text().split()) == words


def test_text_without_spaces_has_a_unit_for_each_character(build: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("我爱你 hello\n今日は\nสวัสดี\n", encoding="utf-8")
    assert "\ntext: 3 sentences, 11 words\n" in build("text.txt", "-o", "lm")
    units = {"我", "爱", "你", "hello", "今", "日", "は", "ส", "วั", "ดี"}
    assert set((tmp_path / "lm" / "unigrams.txt").read_text(encoding="utf-8").split()) == units


def test_lines_that_a_transform_refuses_are_skipped_and_counted(
    build: Callable[..., str], tmp_path: Path, base_folder: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((base_folder / "config.json").read_bytes())
    save_normalization(model, ["drop_tagged", "lowercase"])
    (tmp_path / "tagged.txt").write_text(TEXT + "the <unk> ran\n")
    told = build("tagged.txt", "-o", "lm", "--model", "model", "--test", "tagged.txt")
    assert "\ntext: 3 sentences, 12 words, left out 1 × annotation tag\n" in told
    assert "\ntest text: 3 sentences, 12 words, left out 1 × annotation tag\n" in told


def test_compressed_and_piped_text(build: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("text.txt", "-o", "plain")
    lines = TEXT.splitlines(keepends=True)
    (tmp_path / "half.txt.gz").write_bytes(gzip.compress("".join(lines[:2]).encode()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(lines[2:]).encode())))
    build("half.txt.gz", "-", "-o", "lm")
    for name in FILES:
        assert (tmp_path / "lm" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def write_lmplz(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "lmplz").write_text(f"#!{sys.executable}\nimport sys\n{script}")
    (folder / "lmplz").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder) + os.pathsep)


def test_lmplz_is_used_where_it_is_installed(
    build: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "estimated.arpa").write_text(ARPA)
    script = """
import pathlib, shutil
options = sys.argv[1:]
pathlib.Path("seen").write_text(" ".join(options) + "\\n" + pathlib.Path(options[3]).read_text())
shutil.copy("estimated.arpa", options[5])
print("Statistics:\\n1 5 D1=0.5 D2=1 D3+=1.5\\n2 2/9 D1=0.25 D2=1.25 D3+=1.75", file=sys.stderr)
"""
    write_lmplz(tmp_path / "bin", script, monkeypatch)
    monkeypatch.setattr(
        "finetune.decoding.language_model.measure_memory", lambda: Memory(10 << 20, 5 << 20, limited=True)
    )
    told = build("text.txt", "-o", "lm", "--order", "2", "--prune", "0", "1").splitlines()
    partial = tmp_path / ".lm.partial"
    assert (tmp_path / "seen").read_text().splitlines() == [
        f"--order 2 --text {partial}/normalised.txt --arpa {partial}/lm.arpa --memory 4M --temp_prefix {partial}/ "
        "--prune 0 1 --discount_fallback",
        "the cat sat on the mat",
        "the dog sat",
        "the cat ran",
    ]
    assert told[2:5] == [
        f"estimated by {tmp_path}/bin/lmplz",
        "1-grams: 5, discounts 0.500 1.000 1.500",
        "2-grams: 2 of 9, discounts 0.250 1.250 1.750",
    ]
    assert sorted(file.name for file in (tmp_path / "lm").iterdir()) == FILES
    assert (tmp_path / "lm" / "lm.arpa").read_text() == ARPA
    assert NGramModel.load(tmp_path / "lm" / "lm.safetensors").counts == [5, 2]


def test_a_failure_of_lmplz_is_reported_in_one_sentence(
    build: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lmplz(tmp_path / "bin", "sys.exit('reading\\nout of disk')", monkeypatch)
    assert main(["lm", "build", "text.txt", "-o", "lm"]) == 2
    said = capsys.readouterr().err
    assert "lmplz ended with code 1 and printed: out of disk. Remove it from the PATH" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bin", "text.txt"]
