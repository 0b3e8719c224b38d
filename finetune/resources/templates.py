"""Jinja2 templates of this package, and HTML reports made of them that share one style sheet."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

_STYLE = "resources/report.css"


def build_environment(**options: Any) -> Environment:
    """Templates by their path in this package; a value is escaped as HTML unless it is `Markup`."""
    import jinja2  # Its import takes 0.1 s; commands that write no report do not need it.

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("finetune", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.policies["json.dumps_function"] = _dump_json
    return environment


def render_html(template: str, title: str, script: str | None = None, **values: Any) -> str:
    """An HTML report from a template that extends `resources/report.html`.

    Its Content-Security-Policy allows the shared style sheet and `script`, the path of a file in this package, by their
    hashes; no other script runs and nothing is loaded but media.
    """
    style = _read(_STYLE)
    code = _read(script) if script else None
    return (
        build_environment()
        .get_template(template)
        .render(
            title=title,
            style=style,
            style_source=_hash_source(style),
            script=code,
            script_source=_hash_source(code) if code else Markup("'none'"),
            **values,
        )
    )


def _read(path: str) -> Markup:
    return Markup(resources.files("finetune").joinpath(path).read_text(encoding="utf-8"))


def _hash_source(text: str) -> Markup:
    """The name of an inline script or style in a Content-Security-Policy."""
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")


def _dump_json(values: Any, **_: Any) -> str:
    """JSON for Jinja's filter `tojson`, which escapes what a script element would interpret (<, >, &, ')."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
