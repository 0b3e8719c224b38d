"""Binary files of KenLM have the scores of their ARPA files; errors about damaged files are one sentence.

The files in `kenlm` were made with build_binary of KenLM 0.3.0: `-p 1.7 probing toy.arpa probing.bin`,
`trie toy.arpa trie.bin`, and `-q 8 -b 7 -a 22 trie toy.arpa quantized.bin`, which has enough bins for all values. The
ARPA file has no `<unk>` and some n-grams without the shorter one that they end with.
"""

import itertools
import math
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.decoding.arpa import read_arpa, write_arpa
from finetune.decoding.beam import BeamSearch
from finetune.decoding.decoder import load_language_model
from finetune.decoding.hashed_ngram import HashedModel
from finetune.decoding.kenlm_binary import read_kenlm
from finetune.decoding.kneser_ney import estimate
from finetune.decoding.ngram import NGramModel
from finetune.errors import UserError

FILES = Path(__file__).with_name("kenlm")
NAMES = ("probing", "trie", "quantized")
SYMBOLS = ("_", "|", *"abcd")
WORDS = ("ab", "cab", "bad", "dad", "add", "dab", "abc", "bac", "cad", "dada", "z")
# Places in the file: the order, the type, whether words are included, and the number of words.
ORDER, TYPE, HAS_WORDS, COUNTS = 88, 96, 100, 108


def assert_same_scores(model: NGramModel | HashedModel, expected: NGramModel, texts: list[tuple[str, ...]]) -> None:
    for text in texts:
        for bos, eos in itertools.product((False, True), repeat=2):
            scores = expected.score(text, bos=bos, eos=eos)
            assert model.score(text, bos=bos, eos=eos) == pytest.approx(scores, abs=1e-5), text


def write_changed(folder: Path, name: str, place: int, form: str, value: Any) -> Path:
    content = bytearray((FILES / f"{name}.bin").read_bytes())
    struct.pack_into(form, content, place, value)
    (folder / "lm.bin").write_bytes(content)
    return folder / "lm.bin"


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_arpa_file(name: str) -> None:
    texts = [text for length in range(4) for text in itertools.product(WORDS, repeat=length)]
    rng = np.random.default_rng(0)
    texts += [tuple(rng.choice(WORDS, 12)) for _ in range(200)]
    model = read_kenlm(FILES / f"{name}.bin")
    assert_same_scores(model, read_arpa(FILES / "toy.arpa"), texts)
    assert model.order == 4
    assert set(model.words) == {"<unk>", "<s>", "</s>", *WORDS[:-1]}


@pytest.mark.parametrize("name", NAMES)
def test_the_beam_search_finds_the_same_texts(name: str) -> None:
    def search(model: NGramModel | HashedModel) -> BeamSearch:
        return BeamSearch(SYMBOLS, blank_id=0, delimiter_id=1, language_model=model, beam_width=20)

    logits = 2 * np.random.default_rng(1).standard_normal((12, 60, 6)).astype(np.float32)
    expected = search(read_arpa(FILES / "toy.arpa")).decode_batch(logits, [60] * 12, n_best=3, threads=1)
    # Threads share the tables.
    found = search(read_kenlm(FILES / f"{name}.bin")).decode_batch(logits, [60] * 12, n_best=3, threads=4)
    for ours, theirs in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert (ours.text, ours.words) == (theirs.text, theirs.words)
        assert ours.lm_score == pytest.approx(theirs.lm_score, abs=1e-4)


def test_nodes_that_a_search_reached_change_no_score() -> None:
    first, second = (read_kenlm(FILES / "probing.bin") for _ in range(2))
    texts = [tuple(np.random.default_rng(seed).choice(WORDS, 8)) for seed in range(50)]
    before = [first.score(text) for text in texts]
    assert [second.score(text) for text in reversed(texts)] == before[::-1]
    assert [first.score(text) for text in texts] == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".bin", ".binary"])
def test_a_folder_with_a_binary_file_is_a_language_model(tmp_path: Path, name: str, suffix: str) -> None:
    shutil.copy(FILES / f"{name}.bin", tmp_path / f"5gram{suffix}")
    assert isinstance(load_language_model(tmp_path), HashedModel if name == "probing" else NGramModel)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    whole = (FILES / f"{name}.bin").read_bytes()
    for length in [*range(0, 200), *range(200, len(whole), 13), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut can't be used as a binary file of KenLM"):
            read_kenlm(tmp_path / "cut")


@pytest.mark.parametrize(
    ("place", "form", "value", "sentence"),
    [
        (49, "c", b"4", "found the version '4' at its beginning, expected KenLM's format version 5"),
        (0, "2s", b"MM", "found 'MMap lm .*' at its beginning"),
        (60, "f", 2.0, "machine with other number formats"),
        (TYPE, "I", 1, "rest costs"),
        (TYPE, "I", 9, "the model type 9, which is not known"),
        (HAS_WORDS, "?", False, "without its words"),
        (ORDER, "B", 1, "found 1-grams"),
        (COUNTS, "Q", 5, "found 13 words and 5 1-grams"),
        (COUNTS + 8, "Q", 2**63, "expected less than"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_errors_name_the_problem(tmp_path: Path, name: str, place: int, form: str, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_kenlm(write_changed(tmp_path, name, place, form, value))


def test_a_missing_file_is_refused_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_kenlm(tmp_path / "none.bin")


def test_a_table_without_a_free_place_is_searched_once(tmp_path: Path) -> None:
    content = bytearray((FILES / "probing.bin").read_bytes())
    whole = read_kenlm(FILES / "probing.bin")
    assert isinstance(whole, HashedModel)
    longest, end = whole.tables.longest, content.rindex(b"<unk>\0")
    for place in range(end - longest.nbytes, end, longest.itemsize):
        struct.pack_into("<Q", content, place, 1)
    (tmp_path / "lm.bin").write_bytes(content)
    gram = (FILES / "toy.arpa").read_text().partition("4-grams:\n")[2].split()[1:5]
    before, after = whole.score(gram, bos=False), read_kenlm(tmp_path / "lm.bin").score(gram, bos=False)
    assert before[:3] == after[:3] and before[3] != after[3]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_bytes_changed_anywhere_are_refused_or_read(tmp_path: Path, name: str, data: Any) -> None:
    content = bytearray((FILES / f"{name}.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "lm.bin").write_bytes(content)
    try:
        model = read_kenlm(tmp_path / "lm.bin")
    except UserError:
        return
    assert not any(math.isnan(score) for score in model.score([*WORDS, *WORDS[::-1]]))


@pytest.mark.skipif(shutil.which("build_binary") is None, reason="needs KenLM's build_binary on the PATH")
@pytest.mark.parametrize(
    "options", ["probing", "-p 1.1 probing", "trie", "-a 255 trie", "-q 12 trie", "-q 12 -a 9 trie"]
)
@pytest.mark.parametrize(("order", "prune"), [(2, ()), (3, (0, 0, 1)), (4, (0, 1, 2, 3)), (5, ())])
def test_files_built_by_kenlm_give_the_same_scores(
    tmp_path: Path, options: str, order: int, prune: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(order)
    words = [f"w{i}" for i in range(30)]
    texts = [tuple(rng.choice(words, rng.integers(1, 9), p=np.arange(30, 0, -1) / 465)) for _ in range(300)]
    write_arpa(estimate(map(" ".join, texts[:250]), order, prune).model, tmp_path / "lm.arpa")
    command = ["build_binary", *options.split(), str(tmp_path / "lm.arpa"), str(tmp_path / "lm.bin")]
    subprocess.run(command, check=True, capture_output=True)
    assert_same_scores(read_kenlm(tmp_path / "lm.bin"), read_arpa(tmp_path / "lm.arpa"), [*texts, ("w0", "unheard")])
