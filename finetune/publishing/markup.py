"""Markdown from templates in which every value is escaped."""

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from finetune.resources.templates import build_environment


def render_markdown(template: str, **values: Any) -> str:
    """A Markdown text from a template; a value is escaped unless it is `Markup`."""
    environment = build_environment(finalize=escape)
    environment.filters |= {"code": quote_code, "source": format_source}
    environment.globals |= {"table": format_table}
    return environment.get_template(template).render(**values)


def escape(value: object) -> Markup:
    """Markdown that renders as the text of a value, on one line; Markup is returned as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(str(value).split())))


def quote_code(text: str) -> Markup:
    """A name as code; one that contains a backtick, or the bar that separates a table's cells, as plain text."""
    return escape(text) if "`" in text or "|" in text else Markup(f"`{text}`")


def format_source(source: Any) -> Markup:
    """A model or data set with its configuration and revision."""
    others = [source.get("configuration"), source.get("revision") and f"revision {source['revision']}"]
    listed = ", ".join(escape(each) for each in others if each)
    return Markup(f"{quote_code(source['root'])} ({listed})" if listed else quote_code(source["root"]))


def format_table(head: Sequence[str], rows: Sequence[Sequence[Any]], left: int) -> Markup:
    """A Markdown table; the first `left` columns are aligned left, the others, numbers, right."""
    marks = [":--" if place < left else "--:" for place in range(len(head))]
    return Markup("\n".join(f"| {' | '.join(map(escape, row))} |" for row in [head, marks, *rows]))
