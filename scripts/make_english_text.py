"""Collect English sentences from the manuals in Debian's packages, for a language model where a trade has no text.

    python scripts/make_english_text.py DIR

DIR gets the packages, unpacked, and text.txt: a sentence a line in lower case, each once, sorted. Needs apt-get,
dpkg-deb and WordNet's texts (wordnet-base); the manuals are not installed, and keep their licences (in usr/share/doc).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from sentences import collect_texts
from synthesis import SynthesisError

PACKAGES = (
    "aptitude-doc-en",
    "debian-handbook",
    "debian-reference-en",
    "developers-reference",
    "evolution-common",
    "fortunes",
    "gimp-help-en",
    "git-doc",
    "gnome-user-docs",
    "gnucash-docs",
    "installation-guide-amd64",
    "kmail",
    "libreoffice-help-en-us",
)
# DocBook's, Mallard's and HTML's elements that end a sentence, and those that are not prose.
_BREAKS = re.compile(r"p|li|h\d|t[dh]|d[td]|div|para|simpara|title|term|entry|item|br")
_CODE = {"pre", "code", "screen", "programlisting", "literal", "command"}
_PROSE = {".html", ".htm", ".xhtml", ".xml", ".docbook", ".page"}
# The end of a name that is the code of a language: nl, pt-BR, guide-nl.
_LANGUAGE = re.compile(r"(.*-)?(?!en|us)[a-z]{2}([-_@][A-Za-z]+)?")
_PUNCTUATION = re.compile(r"[,.;:!?()\"“”…]+(?=\s|$)|(?<!\S)[(\"“]+")
_SENTENCE = re.compile(r"[a-z]+('[a-z]+)*( [a-z]+('[a-z]+)*){0,39}")


class Prose(HTMLParser):
    """The text of a page, without code, a blank line after each block."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in _CODE

    def handle_endtag(self, tag: str) -> None:
        self._code = max(0, self._code - (tag in _CODE))
        if _BREAKS.fullmatch(tag):
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:  # else a script or a style sheet
            # A number stands for code: the sentence is none that can be said, and is left out.
            self.parts.append(" 0 " if self._code else data)


def find_sentences(prose: str) -> Iterator[str]:
    """Yield the sentences of 1 to 40 plain English words, in lower case, without punctuation."""
    for part in re.split(r"\n\s*\n|(?<=[.!?;:])\s", prose.replace("\n%\n", "\n\n")):
        sentence = " ".join(_PUNCTUATION.sub(" ", part.lower().replace("’", "'")).replace("-", " ").split())
        if _SENTENCE.fullmatch(sentence):
            yield sentence


def is_english(path: Path) -> bool:
    """Whether neither a folder (guide-nl) nor a part of the file (page.nl.html) has the code of another language."""
    return not any(_LANGUAGE.fullmatch(name) for part in path.parts for name in part.split("."))


def read_package(folder: Path) -> Iterator[str]:
    """Yield the sentences of an unpacked package: its pages, and the collections of the game fortune."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        if path.suffix in _PROSE and is_english(path.relative_to(folder)):
            prose = Prose()
            prose.feed(path.read_text(encoding="utf-8", errors="replace"))
            yield from find_sentences("".join(prose.parts))
        elif path.parent.name == "fortunes" and not path.suffix:
            yield from find_sentences(path.read_text(encoding="utf-8", errors="replace"))


def unpack(package: str, folder: Path) -> Path:
    """Fetch a package of Debian and unpack it; return where it lies now."""
    target = folder / package
    if not target.is_dir():
        with tempfile.TemporaryDirectory(dir=folder) as fetched:
            subprocess.run(["apt-get", "-q", "download", package], cwd=fetched, check=True, stdout=subprocess.DEVNULL)
            (file,) = Path(fetched).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", file, Path(fetched, package)], check=True)
            Path(fetched, package).rename(target)
    return target


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path, metavar="DIR")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = set(collect_texts())
        for package in PACKAGES:
            before = len(found)
            found.update(read_package(unpack(package, folder)))
            print(f"{package}: {len(found) - before} sentences", flush=True)
    except (SynthesisError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (folder / "text.txt").write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")
    words = sum(sentence.count(" ") + 1 for sentence in found)
    print(f"{folder / 'text.txt'}: {len(found)} sentences, {words} words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
