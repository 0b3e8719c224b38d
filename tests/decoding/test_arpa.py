"""ARPA files: reading returns what was written and what KenLM reads; errors about damaged files are one sentence."""

import gzip
import itertools
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.decoding import arpa
from finetune.decoding.arpa import read_arpa, write_arpa
from finetune.decoding.kneser_ney import estimate
from finetune.decoding.ngram import NGramModel
from finetune.errors import UserError

ARPA = """\
\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.25
-1\t</s>
-0.5\ta\t-0.125
-0.75\tb\t-0.5

\\2-grams:
-0.25\t<s> a\t-0.375
-0.5\ta b\t+0.0625
-1.25e-1\tb </s>
-0.5\tb a

\\3-grams:
-.0625\t<s> a b
-0.5\ta b </s>

\\end\\
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., NGramModel]:
    """`read(text)` reads an ARPA file with this text or these bytes."""

    def write_and_read(content: str | bytes) -> NGramModel:
        (tmp_path / "lm.arpa").write_bytes(content.encode() if isinstance(content, str) else content)
        return read_arpa(tmp_path / "lm.arpa")

    return write_and_read


def log10(model: NGramModel, text: str, **marks: bool) -> list[float]:
    return [score / math.log(10) for score in model.score(text.split(), **marks)]


def same(one: NGramModel, other: NGramModel) -> bool:
    return (one.words, one.order) == (other.words, other.order) and all(
        np.array_equal(mine, theirs) for mine, theirs in zip(one.trie, other.trie, strict=True)
    )


def test_scores_by_the_definition_of_the_format(read: Callable[..., NGramModel]) -> None:
    model = read(ARPA)
    assert (model.counts, model.words) == ([5, 4, 2], ("<unk>", "<s>", "</s>", "a", "b"))
    assert log10(model, "a b") == pytest.approx([-0.25, -0.0625, -0.5])
    # b a: after <s> and b; a z: `b a` has no backoff of its own.
    assert log10(model, "b a z", eos=False) == pytest.approx([-0.25 - 0.75, -0.5, -0.125 - 1.5])
    # a b a: `a b` has a backoff above 1, `b a` is there.
    assert log10(model, "a b a", bos=False, eos=False) == pytest.approx([-0.5, -0.5, 0.0625 - 0.5])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\t", " "),
        lambda text: text.replace("\n\n", "\n"),
        lambda text: "\n\n" + text.replace("\n\n", "\n\n\n").removesuffix("\n"),
        lambda text: text.replace("ngram 1=5", "ngram  1 = 5") + "\nwhatever follows",
        lambda text: text.replace("-1\t</s>", "-1.000000000000000000000000\t</s>\t0"),
        lambda text: text.replace("-1\t</s>", "-10000000000000000000000000e-25\t</s>\t-0.0"),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.encode("utf-8-sig"),
    ],
)
def test_files_with_unusual_formatting_are_read(
    read: Callable[..., NGramModel], change: Callable[[str], str | bytes]
) -> None:
    assert same(read(change(ARPA)), read(ARPA))


def test_unknown_words_in_capitals_and_models_without_them(read: Callable[..., NGramModel]) -> None:
    assert same(read(ARPA.replace("<unk>", "<UNK>")), read(ARPA))
    closed = read(ARPA.replace("-1.5\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4"))
    assert closed.words[0] == "<unk>"
    assert log10(closed, "z", bos=False, eos=False) == pytest.approx([-100])
    assert log10(closed, "a b") == log10(read(ARPA), "a b")


# Deviations found in models on the hub and in files of other tools, with their warnings.
CORRECTED: dict[str, tuple[Callable[[str], str], str]] = {
    "</s> added by a recipe": (
        lambda text: text.replace("ngram 1=5", "ngram 1=6").replace("\t-0.25\n", "\t-0.25\n-3\t</s>\t-0.25\n", 1),
        "</s> is among the 1-grams 2 times; the first one is used",
    ),
    "-inf for <s>": (
        lambda text: text.replace("-99\t<s>", "-inf\t<s>"),
        "<s> has the probability -inf, which is read as -99",
    ),
    "comments": (
        lambda text: "# made by a tool\n#\n" + text,
        "skipped the text before \\data\\, which begins with '# made by",
    ),
    "text of CMU's toolkit": (
        lambda text: "This is a CLOSED model.\nThe beginning of data mark: \\data\\\n\\1-grams:\np_1 wd_1\n\n" + text,
        "skipped the text before \\data\\, which begins with 'This is a CLOSED",
    ),
    "blank lines": (
        lambda text: text.replace("\\1-grams:\n", "\\1-grams:\n\n\n").replace("\\2-grams:\n", "\\2-grams:\n\n"),
        "skipped blank lines after \\1-grams:",
    ),
}


@pytest.mark.parametrize(("change", "said"), CORRECTED.values(), ids=CORRECTED)
def test_real_files_that_deviate_from_the_format_are_read_as_in_kenlm(
    read: Callable[..., NGramModel], tmp_path: Path, change: Callable[[str], str], said: str, logged: list[str]
) -> None:
    texts = ["a b", "b a z", "", "a", "b b a b"]
    model = read(change(ARPA))
    assert logged[0].startswith(f"note: {tmp_path / 'lm.arpa'}: {said}")
    end = -3.0 if "recipe" in said or "2 times" in said else -1.0
    assert log10(model, "", bos=False) == pytest.approx([end])
    assert log10(model, "a b", eos=False) == log10(read(ARPA), "a b", eos=False)
    write_arpa(model, tmp_path / "again.arpa")
    assert same(read_arpa(tmp_path / "again.arpa"), model)
    if "CLOSED" not in said:  # KenLM accepts only comments.
        assert_kenlm_agrees(tmp_path / "lm.arpa", texts)


HOLES = """\
\\data\\
ngram 1=8
ngram 2=4
ngram 3=3
ngram 4=1

\\1-grams:
-2\t<unk>
-99\t<s>
-1\t</s>
-1\ta
-1\tb
-1\tc
-1\td
-1\te

\\2-grams:
-0.5\ta b
-0.5\tb c
-0.5\tc d
-0.5\td e

\\3-grams:
-0.25\ta b c
-0.25\tb c a
-0.25\tc d e

\\4-grams:
-0.125\ta b c d

\\end\\
"""


def test_an_ngram_whose_suffix_was_pruned_backs_off_to_the_longest_suffix_left(
    read: Callable[..., NGramModel],
) -> None:
    """The suffix of `a b c d` is `c d`, since `b c d` is missing, and `c d e` follows it."""
    assert log10(read(HOLES), "a b c d e", bos=False, eos=False) == pytest.approx([-1, -0.5, -0.25, -0.125, -0.25])


def test_words_in_any_order_and_any_script(read: Callable[..., NGramModel]) -> None:
    lines = ARPA.splitlines(keepends=True)
    swapped = "".join([*lines[:6], *reversed(lines[6:11]), *lines[11:13], *reversed(lines[13:17]), *lines[17:]])
    assert log10(read(swapped), "a b a b z a") == log10(read(ARPA), "a b a b z a")
    renamed = read(ARPA.replace("b", "привет\u00a0你"))
    assert "привет\u00a0你" in renamed.words
    assert renamed.score(["a", "привет\u00a0你"]) == read(ARPA).score(["a", "b"])


def test_blocks_of_any_size_give_the_same_model(
    read: Callable[..., NGramModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read(ARPA)
    for size in (1, 2, 7, 64):
        monkeypatch.setattr(arpa, "_BLOCK_BYTES", size)
        assert same(read(ARPA), whole)


def test_writing_and_reading_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = estimate([" ".join(rng.choice([*"abcdefgé"], size=6)) for _ in range(200)], 4, (0, 0, 1)).model
    write_arpa(model, tmp_path / "lm.arpa")
    assert same(read_arpa(tmp_path / "lm.arpa"), model)
    assert [file.name for file in tmp_path.iterdir()] == ["lm.arpa"]


LONG = "a" * 10_000_000


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("\\data\\\n", "", 1, r"found 'ngram 1=5'; expected \data\, with which an ARPA file begins"),
        ("ngram 2=4", "ngram 2=5", 19, r"found '\\3-grams:'; expected 5 2-grams before it, as in the header, not 4"),
        ("ngram 2=4", "ngram 2=999999999999999", 19, "expected 999999999999999 2-grams"),
        ("ngram 2=4", "ngram 2=-4", 3, "found 'ngram 2=-4'; expected ngram 2=COUNT with a count from 0 up"),
        ("ngram 2=4", "ngram 2=" + "9" * 5000, 3, "expected ngram 2=COUNT"),
        ("ngram 2=4", "ngram 3=4", 3, "expected ngram 2=COUNT"),
        ("\\2-grams:", "\\3-grams:", 13, r"expected \2-grams:"),
        ("\\end\\\n", "", 23, "found the file's end; expected \\end\\"),
        ("\\end\\\n", "\\4-grams:\n", 23, "expected \\end\\"),
        ("-0.5\ta b\t", "nan\ta b\t", 15, r"found 'nan\ta b\t+0.0625'; expected logarithms that are finite"),
        ("-0.5\ta b\t", "-inf\ta b\t", 15, "expected logarithms that are finite"),
        ("-0.5\ta b\t", "-1e39\ta b\t", 15, "expected logarithms that are finite"),
        ("-0.5\ta b\t", "-1e999999999999\ta b\t", 15, "expected logarithms that are finite"),
        ("-0.5\ta b\t", "--1\ta b\t", 15, "expected logarithms as decimal numbers"),
        ("-0.5\ta b\t", "-1.2.3\ta b\t", 15, "expected logarithms as decimal numbers"),
        ("-0.5\ta b\t", "-1e\ta b\t", 15, "expected logarithms as decimal numbers"),
        ("-0.5\ta b\t", "-\ta b\t", 15, "expected logarithms as decimal numbers"),
        ("-0.5\ta b\t", "0.5\ta b\t", 15, "expected the logarithm of a probability, which is 0 or less"),
        ("-0.5\ta b\t", "-0.5\ta b c d\t", 15, "expected a logarithm, the n-gram's words"),
        ("-0.5\ta b\t", "-0.5\ta\n", 15, "expected a logarithm, the n-gram's words"),
        ("-0.5\ta b\t", "-0.5\ta z\t", 15, "expected words that are among the 1-grams"),
        ("-0.5\ta b\t", f"-0.5\ta {LONG}\t", 15, "…'; expected a line of up to 65536 bytes"),
        ("ngram 2=4", f"ngram 2={LONG}", 3, "expected a line of up to 65536 bytes"),
        ("-0.5\ta b </s>", "-0.5\ta b </s>\t-0.5", 21, "expected no backoff at the longest n-grams"),
        ("-0.5\tb a", "-0.5\ta b", 17, "the 2-gram 'a b' occurs twice"),
        ("-0.75\tb\t-0.5", "-0.75\ta\t-0.5", 11, "the word 'a' occurs twice"),
        ("-0.5\ta b </s>", "-0.5\tb b </s>", 21, "the 3-gram 'b b </s>' begins with words that are not a 2-gram"),
        ("-99\t<s>", "-99\ts", 7, "found 1-grams without <s>"),
    ],
)
def test_damaged_files(
    read: Callable[..., NGramModel], tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in ARPA
    with pytest.raises(UserError) as raised:
        read(ARPA.replace(old, new, 1))
    assert str(raised.value).startswith(f"{tmp_path / 'lm.arpa'}, line {line}: ")
    assert words in str(raised.value) and len(str(raised.value)) < 600


def test_an_endless_line_is_not_read_to_its_end(
    read: Callable[..., NGramModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arpa, "_BLOCK_BYTES", 1 << 16)
    packed = gzip.compress(LONG.encode())
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"line 1: found 'aaa.*…'; expected a line of up to 65536 bytes"):
            read(packed)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_words_that_are_not_utf_8_are_refused(read: Callable[..., NGramModel]) -> None:
    with pytest.raises(UserError, match=r"line 11: found the word b'b\\xe9'; expected UTF-8"):
        read(ARPA.encode().replace(b"\tb\t", b"\tb\xe9\t"))


def test_a_file_cut_anywhere_is_refused(read: Callable[..., NGramModel]) -> None:
    for length in range(len(ARPA) - 2):
        with pytest.raises(UserError, match=r"lm\.arpa, line \d+: "):
            read(ARPA[:length])
    packed = gzip.compress(ARPA.encode())
    for length in range(2, len(packed), 5):
        with pytest.raises(UserError, match=r"lm\.arpa can't be read: "):
            read(packed[:length])


def test_files_of_other_formats_are_refused(read: Callable[..., NGramModel], tmp_path: Path) -> None:
    for content in (b"", b"\n\n", b"\0" * 100_000, b"mmap lm http://kheafield.com/code format version 5\n\0"):
        with pytest.raises(UserError, match="expected"):
            read(content)
    with pytest.raises(UserError, match="No such file"):
        read_arpa(tmp_path / "none.arpa")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_bytes_changed_anywhere_are_refused_or_read(read: Callable[..., NGramModel], data: Any) -> None:
    content = bytearray(ARPA.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = read(bytes(content))
    except UserError:
        return
    assert all(math.isfinite(score) for score in model.score([*"abazb"]))


@st.composite
def random_arpa(draw: Any) -> str:
    """An ARPA file whose n-grams have all prefixes, and may lack suffixes."""
    # Low enough that no sum with backoffs is above 0, which KenLM would misread.
    logarithms = st.integers(-64, -24).map(lambda n: n / 16)
    backoffs = st.one_of(st.just(0.0), st.integers(-32, 8).map(lambda n: n / 16))
    # N-grams that are never looked up: KenLM's hash tables have few free places.
    fill = [f"x{i}" for i in range(8)]
    levels = [[(word,) for word in ["<unk>", "<s>", "</s>", *"abc", *fill]]]
    for n in range(2, draw(st.integers(2, 4)) + 1):
        prefixes = [gram for gram in levels[-1] if gram[-1] in ("<s>", *"abc")]
        candidates = [(*gram, word) for gram, word in itertools.product(prefixes, [*"abc", "</s>"])]
        chosen = draw(st.lists(st.sampled_from(candidates), max_size=12, unique=True)) if candidates else []
        levels.append(chosen + [(one, *[other] * (n - 1)) for one, other in itertools.product(fill, repeat=2)])
    lines = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(levels, start=1))]
    for n, level in enumerate(levels, start=1):
        lines += ["", f"\\{n}-grams:"]
        for gram in level:
            backoff = f"\t{0 if gram[0] in fill else draw(backoffs)}" if n < len(levels) else ""
            lines.append(f"{-1 if gram[0] in fill else draw(logarithms)}\t{' '.join(gram)}{backoff}")
    return "\n".join([*lines, "", "\\end\\", ""])


def assert_kenlm_agrees(file: Path, texts: list[str]) -> None:
    kenlm = pytest.importorskip("kenlm")
    config = kenlm.Config()
    config.show_progress = False
    theirs, ours = kenlm.Model(str(file), config), read_arpa(file)
    for text in texts:
        for bos, eos in itertools.product((False, True), repeat=2):
            expected = [score for score, _, _ in theirs.full_scores(text, bos=bos, eos=eos)]
            assert log10(ours, text, bos=bos, eos=eos) == pytest.approx(expected, abs=1e-5), text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random_arpa(), st.lists(st.lists(st.sampled_from("abcz"), max_size=8).map(" ".join), min_size=4, max_size=8))
def test_kenlm_gives_the_same_scores_for_models_with_missing_suffixes(
    tmp_path: Path, content: str, texts: list[str]
) -> None:
    (tmp_path / "lm.arpa").write_text(content)
    assert_kenlm_agrees(tmp_path / "lm.arpa", texts)


@pytest.mark.parametrize("prune", [(), (0, 0, 1), (0, 1, 2, 3)])
def test_kenlm_gives_the_same_scores_for_estimated_models(tmp_path: Path, prune: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 9), p=np.arange(30, 0, -1) / 465)) for _ in range(400)]
    model = estimate(texts[:350], 4, prune).model
    write_arpa(model, tmp_path / "lm.arpa")
    assert_kenlm_agrees(tmp_path / "lm.arpa", [*texts[300:], "w0 unheard w1 w2"])
