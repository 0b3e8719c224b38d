"""Values as Markdown that looks like them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def escape(text: str) -> str:
    """A text as Markdown that looks like it, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.split()))


def quote_code(text: str) -> str:
    """A name as code; one that holds a backtick, or the bar that parts a table's cells, as plain text."""
    return escape(text) if "`" in text or "|" in text else f"`{text}`"


def format_table(head: Sequence[str], rows: Sequence[Sequence[Any]], left: int) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others, numbers, right."""
    marks = [":--" if place < left else "--:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, marks, *rows])
