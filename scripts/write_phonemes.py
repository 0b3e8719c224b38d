"""Add a column `phonemes` to a made corpus: what is said, one symbol for each sound, for a base that learns sounds.

    python scripts/write_phonemes.py CORPUS [--processes 2]

CORPUS is what make_base_corpus.py made; needs the program espeak-ng. The symbols are espeak-ng's IPA for American
English, without stress and length, whatever the accent of the voice: CTC has to learn sounds then, and not English
spelling. Training on it takes `data.text_column=phonemes`.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import re
import sys
from pathlib import Path

from neural_voices import read_phonemes
from synthesis import SynthesisError, report, require_program, respell_letters

from finetune.files import write_text

# Stress, length, a syllabic consonant, and the joints of clauses.
_MARKS = re.compile("[ˈˌː\u0329\u0303ʲ,]|\\(\\w\\w\\)")


def pronounce(row: tuple[str, str]) -> str:
    """Return the phonemes of a (text, source), words divided by spaces; single letters of a spelling by their names."""
    text, source = row
    spoken = re.sub(r"\b[a-z]\b", lambda match: match.group().upper(), text) if source == "spelling" else text
    phonemes = read_phonemes(respell_letters(spoken), british=False)
    return " ".join(_MARKS.sub("", phonemes).split())


def add_phonemes(corpus: Path, num_processes: int) -> str:
    """Write the tables of a corpus anew, each complete before it takes its place, and return a summary."""
    require_program("espeak-ng")
    tables = sorted(corpus.glob("*/metadata.csv"))
    if not tables:
        raise SynthesisError(f"no */metadata.csv was found in {corpus}; make a corpus with scripts/make_base_corpus.py")
    symbols: set[str] = set()
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with multiprocessing.Pool(num_processes) as pool:
            phonemes = pool.map(pronounce, [(row["text"], row["source"]) for row in rows], chunksize=64)
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, [*(name for name in rows[0] if name != "phonemes"), "phonemes"])
        writer.writeheader()
        writer.writerows(dict(row, phonemes=each) for row, each in zip(rows, phonemes, strict=True))
        write_text(table, lines.getvalue())
        symbols.update(*phonemes)
    return f"{len(tables)} tables; symbols: {''.join(sorted(symbols))}"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    return report(lambda: add_phonemes(options.corpus, options.processes))


if __name__ == "__main__":
    sys.exit(main())
