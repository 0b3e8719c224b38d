"""Two diagrams of the architecture as SVG: the layers of the import contracts, and the ways of data through packages.

Layers, and the packages that transcribe without training code, are read from the contracts of import-linter in
pyproject.toml; what each package is for is read from the README's map.
"""

import re
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_WIDTH, _BOX_HEIGHT, _GAP = 760, 46, 18

# What goes through which package; the label of an arrow is what the package after it gets.
PATHS = {
    "Training": (
        ("recipe", "one YAML file"),
        ("data", "corpora"),
        ("audio", "files"),
        ("text", "transcripts"),
        ("training", "batches"),
        ("models", "waveforms and labels"),
        ("run", "checkpoints and curves"),
        ("evaluation", "texts"),
        ("publishing", "model and scores"),
    ),
    "Inference": (
        ("audio", "recordings and live audio"),
        ("inference", "waveforms"),
        ("models", "windows"),
        ("decoding", "logits"),
        ("serving", "words with times"),
        ("feedback", "corrections"),
    ),
}


def read_layers() -> list[list[str]]:
    """The packages of each layer, from the highest to the lowest: each imports only from those below it."""
    [layers] = [each["layers"] for each in _read_contracts() if each["type"] == "layers"]
    return [[name.strip().removeprefix("finetune.") for name in layer.split("|")] for layer in layers]


def read_separation() -> tuple[set[str], set[str]]:
    """The packages that transcribe, and those that they must not import."""
    contract = next(each for each in _read_contracts() if each["name"].startswith("What transcribes"))
    names = (contract["source_modules"], contract["forbidden_modules"])
    inference, training = ({name.removeprefix("finetune.") for name in each} for each in names)
    return inference, training


def read_purposes() -> dict[str, str]:
    """What each package is for, from the README's map."""
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^  (\w+)(?:/|\.py) +(\S.*)$", readme, re.MULTILINE))


def draw_layers() -> str:
    """The layers, one below the other; an arrow down the side is the direction of imports."""
    layers, (inference, training), purposes = read_layers(), read_separation(), read_purposes()
    height = len(layers) * (_BOX_HEIGHT + _GAP)
    parts = [f'<line x1="14" y1="8" x2="14" y2="{height - 20}" marker-end="url(#down)"/>']
    for row, names in enumerate(layers):
        width = (_WIDTH - 40 - 12 * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            kind = "inference" if name in inference else "training" if name in training else "both"
            parts.append(
                _box(name, purposes.get(name, ""), kind, 36 + place * (width + 12), row * (_BOX_HEIGHT + _GAP), width)
            )
    return _frame("".join(parts), height, "Packages in layers; each imports only from the layers below it", "down")


def draw_paths() -> str:
    """The way of training and the way of inference, from left to right and row by row."""
    inference, training = read_separation()
    columns, width, step = 3, 208, 100
    parts, top = [], 0
    for title, stations in PATHS.items():
        parts.append(f'<text x="0" y="{top + 18}" font-weight="bold">{title}</text>')
        for number, (name, gets) in enumerate(stations):
            row, column = divmod(number, columns)
            x, y = column * (width + 64), top + 48 + row * step
            kind = "inference" if name in inference else "training" if name in training else "both"
            parts.append(_box(name, "", kind, x, y, width))
            parts.append(f'<text class="small" x="{x + 4}" y="{y - 6}">{escape(gets)}</text>')
            if number and column:
                parts.append(_arrow(f"M {x - 60} {y + 23} L {x - 8} {y + 23}"))
            elif number:
                turn = y - step + _BOX_HEIGHT + 14
                end = (columns - 1) * (width + 64) + width / 2
                parts.append(_arrow(f"M {end} {turn - 12} L {end} {turn} L 185 {turn} L 185 {y - 4}"))
        top += 48 + -(-len(stations) // columns) * step
    return _frame("".join(parts), top, "The ways of data through the packages", "right")


def _box(name: str, purpose: str, kind: str, x: float, y: float, width: float) -> str:
    most = int((width - 16) / 6.1)  # characters of the small text
    words = purpose if len(purpose) <= most else purpose[: most - 1].rsplit(" ", 1)[0] + " …"
    lines = f'<text x="{x + 10:g}" y="{y + (19 if words else 28):g}">{escape(name)}</text>'
    if words:
        lines += f'<text class="small" x="{x + 10:g}" y="{y + 36:g}">{escape(words)}</text>'
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{_BOX_HEIGHT}" rx="5"/>{lines}'


def _arrow(path: str) -> str:
    return f'<path d="{path}" marker-end="url(#right)"/>'


def _frame(content: str, height: float, title: str, marker: str) -> str:
    """The drawing for a page: HTML in Markdown, without empty lines, in the colours of the page."""
    head = (
        f'<defs><marker id="{marker}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M 0 0 L 10 5 L 0 10 z"/></marker></defs>'
    )
    return (
        f'<div class="diagram"><svg viewBox="-2 -2 {_WIDTH + 4} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{head}{content}</svg></div>\n"
    )


def _read_contracts() -> Iterator[dict[str, Any]]:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    yield from project["tool"]["importlinter"]["contracts"]
