"""The blocks of code in the manual's pages, and what the tests put in for their placeholders."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "scripts" / "docs"
PAGES = (
    ROOT / "README.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("README.md")),
    *sorted((ROOT / "scripts" / "deploy").rglob("*.md")),
)
PROGRAMS = ("finetune", "accelerate", "pip", "python", "python3", "curl", "apt-get", "arecord", "sphinx-build")
PROGRAMS += ("docker", "helm", "kubectl", "kind", ".venv/bin/python", ".venv/bin/ruff")
# Words in capitals stand for what a reader has; the sandbox has these files.
PLACEHOLDERS = {
    "MODEL": "runs/mine/model",
    "FOLDER": "corpus",
    "CORPUS": "corpus",
    "OTHER": "corpus",
    "RECIPE": "recipe.yaml",
}
_BLOCK = re.compile(r"^( *)(?:<!-- ([^\n]*) -->\n *)?```(\w*|\{[^\n]*)\n(.*?)\n *```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, its text without indentation, and the comment before it."""

    page: Path
    language: str
    text: str
    comment: str

    @property
    def commands(self) -> list[str]:
        """The commands of a block of commands, with placeholders put in; none for any other block."""
        if self.language not in ("", "bash", "sh", "console"):
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        if not any(line.split(" ")[0] in PROGRAMS for line in lines):
            return []
        return [put_in(line) for line in lines if line.strip() and not line.startswith("#")]

    @property
    def reason(self) -> str | None:
        """Why the block is not run."""
        return self.comment.removeprefix("not run: ") if self.comment.startswith("not run: ") else None


def put_in(text: str) -> str:
    """A command with the sandbox's names for placeholders."""
    return re.sub(r"\b[A-Z]+\b", lambda word: PLACEHOLDERS.get(word[0], word[0]), text)


def find_blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for indent, comment, language, content in _BLOCK.findall(text):
        lines = [line.removeprefix(indent) for line in content.splitlines()]
        yield Block(page, language, "\n".join(lines), comment)


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def split(command: str) -> list[str]:
    """A command's words, without what is said of it behind `#` or three spaces."""
    return shlex.split(re.split(r" {3,}", command)[0], comments=True)
