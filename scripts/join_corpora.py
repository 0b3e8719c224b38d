"""Join corpora that make_base_corpus.py or make_natural_speech.py made, for teacher_features.py and distill_base.py.

    python scripts/join_corpora.py OUTPUT CORPUS [CORPUS ...]

OUTPUT/train/metadata.csv names the recordings of each CORPUS/train where they are, with their whole paths, in the order
given; a recipe needs `data.allow_outside=true` for it. OUTPUT/validation is a link to that of the first CORPUS.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from pathlib import Path

from make_natural_speech import read_shards
from synthesis import SynthesisError, report

COLUMNS = ("file_name", "text", "speaker", "source")


def read_rows(corpus: Path) -> list[dict[str, str]]:
    """The rows of CORPUS/train, with whole paths; raises SynthesisError if there are none."""
    folder = (corpus / "train").resolve()
    table = folder / "metadata.csv"
    if table.is_file():
        with table.open(encoding="utf-8", newline="") as file:
            rows = [(folder / row["file_name"], row) for row in csv.DictReader(file)]
    else:
        rows = read_shards(folder)
    return [row | {"file_name": str(path)} for path, row in rows]


def join(output: Path, corpora: list[Path]) -> str:
    """Join `corpora` to the folder `output`; returns a summary; raises SynthesisError if `output` exists."""
    if output.exists():
        raise SynthesisError(f"{output} exists already; remove it or choose another folder")
    rows = [row for corpus in corpora for row in read_rows(corpus)]
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "train").mkdir(parents=True)
    with (partial / "train" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    (partial / "validation").symlink_to((corpora[0] / "validation").resolve())
    partial.rename(output)
    return f"{len(rows)} utterances of {len(corpora)} corpora"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("corpora", type=Path, nargs="+", metavar="CORPUS")
    options = parser.parse_args()
    return report(lambda: join(options.output, options.corpora))


if __name__ == "__main__":
    sys.exit(main())
