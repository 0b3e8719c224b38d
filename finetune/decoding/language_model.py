"""Building a language model's folder from text files: normalise, estimate, measure perplexity, write."""

import gzip
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tqdm.auto import tqdm

from finetune.decoding.arpa import read_arpa, write_arpa
from finetune.decoding.kneser_ney import MARKS, check_thresholds, estimate
from finetune.decoding.ngram import NGramModel, Perplexity
from finetune.errors import TransformError, UserError, describe_fault
from finetune.files import new_folder, write_text
from finetune.resources.limits import read_lines
from finetune.resources.machine import measure_memory
from finetune.resources.storage import open_file
from finetune.text.transcripts import DEFAULT_TRANSFORMS, Transform, build_normalizer, describe_transforms
from finetune.text.word_units import split_words

ARPA_FILE, BINARY_FILE, UNIGRAMS_FILE = "lm.arpa", "lm.safetensors", "unigrams.txt"


def build_language_model(
    texts: Sequence[str],
    output: Path,
    *,
    order: int,
    prune: Sequence[int] = (),
    transforms: Sequence[Transform] = DEFAULT_TRANSFORMS,
    test: str | None = None,
) -> list[str]:
    """Estimate a language model from texts with a sentence on each line and write its folder; returns what to tell.

    Words are those of `split_words`: in scripts without spaces between words each character is one. A text is a file,
    plain or compressed by gzip, or `-` for the standard input. `lmplz` estimates the model if it is on the PATH, else
    `finetune.decoding.kneser_ney`. The folder has the model as `lm.arpa` and as `lm.safetensors`, which loads faster,
    and the words in `unigrams.txt`. Perplexity is measured on the texts themselves, or on `test`.

    Raises UserError for texts, transforms, an order or thresholds that can't be used, and when the folder is not empty;
    then nothing is written.
    """
    thresholds = check_thresholds(order, prune)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists already: choose another folder with --output, or remove it.")
    if not output.absolute().parent.is_dir():
        raise UserError(f"{output} can't be made: No such file or directory: {output.parent}.")
    with new_folder(output.absolute()) as partial:
        normalised = partial / "normalised.txt"
        report = [f"normalisation: {', '.join(describe_transforms(transforms))}"]
        report.append(_normalise(texts, transforms, normalised))
        if lmplz := shutil.which("lmplz"):
            model, estimated = _run_lmplz(lmplz, normalised, partial / ARPA_FILE, order, thresholds)
        else:
            model, estimated = _estimate(normalised, partial / ARPA_FILE, order, thresholds)
        report += estimated
        model.save(partial / BINARY_FILE)
        words = "".join(f"{word}\n" for word in sorted(model.words) if word not in MARKS)
        write_text(partial / UNIGRAMS_FILE, words)
        if test is not None:
            report.append(f"test {_normalise([test], transforms, normalised)}")
        with normalised.open(encoding="utf-8") as file:
            sentences = tqdm(file, "measuring", unit=" sentences", leave=False, disable=None)
            report.append(
                _format_perplexity(model.perplexity(line.split() for line in sentences), test or "the text itself")
            )
        normalised.unlink()
    return [*report, f"language model: {output}"]


def _normalise(texts: Sequence[str], transforms: Sequence[Transform], file: Path) -> str:
    """Write all normalised sentences that have words; returns a line with their number and why others were skipped."""
    left_out: Counter[str] = Counter()
    try:
        normalise = build_normalizer(transforms, refuse=True)
    except TransformError as error:
        raise UserError(f"The normalisation can't be used: {error}.") from error
    num_sentences = num_words = 0
    with file.open("w", encoding="utf-8", newline="\n") as normalised:
        for text in texts:
            lines = tqdm(_read_lines(text), f"reading {text}", unit=" lines", leave=False, disable=None)
            for number, line in enumerate(lines, start=1):
                try:
                    words = split_words(normalise(line))
                except Exception as error:
                    left_out[describe_fault(error).partition(":")[0]] += 1
                    continue
                if mark := next((mark for mark in MARKS if mark in words), None):
                    raise UserError(
                        f"{text}, line {number}: found {mark}, reserved for the model: remove it (remove_tags does)."
                    )
                if words:
                    normalised.write(" ".join(words) + "\n")
                num_sentences += bool(words)
                num_words += len(words)
    if not num_words:
        raise UserError(f"{', '.join(texts)}: found no words; expected text with a sentence on each line.")
    reasons = "".join(f", left out {count} × {reason}" for reason, count in left_out.most_common())
    return f"text: {num_sentences} sentences, {num_words} words{reasons}"


def _read_lines(text: str) -> Iterator[str]:
    name = "the standard input" if text == "-" else text
    number = 0
    try:
        with _open(text) as (file, packed):
            for line in read_lines(file, name, packed):
                number += 1
                yield line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}, line {number}: it is not UTF-8 ({error.reason}): convert it to UTF-8.") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")
        raise UserError(f"{name} can't be read: {reason}; expected a text file, plain or .gz.") from error


@contextmanager
def _open(text: str) -> Iterator[tuple[BinaryIO, BinaryIO | None]]:
    """A text, decompressed, and the compressed file or None."""
    if text == "-":
        yield sys.stdin.buffer, None
        return
    with open_file(text) as file:
        yield (cast(BinaryIO, gzip.GzipFile(fileobj=file)), file) if text.endswith(".gz") else (file, None)


def _estimate(text: Path, arpa: Path, order: int, prune: Sequence[int]) -> tuple[NGramModel, list[str]]:
    with text.open(encoding="utf-8") as file:
        found = estimate(tqdm(file, "counting", unit=" sentences", leave=False, disable=None), order, prune)
    write_arpa(found.model, arpa)
    kept = [*found.model.counts, *[0] * (len(found.counts) - found.model.order)]
    report = ["estimated by modified Kneser-Ney smoothing"]
    for n, (count, discounts) in enumerate(zip(found.counts, found.discounts, strict=True), start=1):
        report.append(_format_order(n, kept[n - 1], count, discounts))
        if n in found.fallbacks:
            report[-1] += " (lmplz's fallback: the text is too small to estimate them)"
    return found.model, report


def _run_lmplz(lmplz: str, text: Path, arpa: Path, order: int, prune: Sequence[int]) -> tuple[NGramModel, list[str]]:
    # By default lmplz takes four fifths of the machine's memory and ignores cgroup limits.
    memory = f"{measure_memory().available * 4 // 5 >> 20}M"
    command = [lmplz, "--order", str(order), "--text", str(text), "--arpa", str(arpa), "--memory", memory]
    command += ["--temp_prefix", f"{arpa.parent}/", "--prune", *map(str, prune), "--discount_fallback"]
    finished = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if finished.returncode != 0:
        printed = (finished.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"{lmplz} ended with code {finished.returncode} and printed: {printed[:300]}. "
            "Remove it from the PATH to estimate without it."
        )
    model = read_arpa(arpa)
    # As in `2 1043/6213 D1=0.72 D2=1.06 D3+=1.4`: order, n-grams kept, n-grams, discounts.
    statistics = re.findall(r"^(\d+) (?:\d+/)?(\d+) D1=(\S+) D2=(\S+) D3\+=(\S+)", finished.stderr, re.MULTILINE)
    rows = {int(n): (int(count), [float(d) for d in discounts]) for n, count, *discounts in statistics}
    report = [_format_order(n, kept, *rows.get(n, (kept, ()))) for n, kept in enumerate(model.counts, start=1)]
    return model, [f"estimated by {lmplz}", *report]


def _format_order(order: int, kept: int, count: int, discounts: Sequence[float]) -> str:
    pruned = f" of {count}" if kept < count else ""
    taken = f", discounts {' '.join(f'{discount:.3f}' for discount in discounts)}" if discounts else ""
    return f"{order}-grams: {kept}{pruned}{taken}"


def _format_perplexity(perplexity: Perplexity, where: str) -> str:
    text = f"perplexity on {where}: {perplexity.including_oovs:.1f}"
    if perplexity.num_oovs:
        known = f", {perplexity.excluding_oovs:.1f} without them" if perplexity.excluding_oovs is not None else ""
        text += f" with {perplexity.num_oovs} unknown of {perplexity.num_tokens} words and sentence ends{known}"
    return text
