"""HTML from templates: every value is escaped, and only the report's own script and style are allowed."""

import base64
import hashlib
import json
import re

import pytest
from jinja2 import UndefinedError

from finetune.resources.templates import build_environment, render_html

HOSTILE = "</script><!-- \u2028\u2029 <b>&'\""


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_names_the_style_and_the_script_that_are_in_the_file() -> None:
    script = "evaluation/html_report.js"
    text = render_html("evaluation/html_report.html", "x", script=script, figures=[], details={}, data=HOSTILE)
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    code = re.search("<script>(.*?)</script>", text, re.DOTALL)
    policy = re.search('Content-Security-Policy" content="(.*?)"', text)
    assert style and code and policy
    assert f"script-src {digest(code[1])}; style-src {digest(style[1])};" in policy[1]
    [data] = re.findall('<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert not set("<>&'\u2028\u2029") & set(data) and json.loads(data) == HOSTILE


def test_a_report_without_a_script_allows_none() -> None:
    text = render_html("resources/report.html", HOSTILE)
    assert "script-src 'none'" in text and "<script" not in text and "<b>" not in text


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="undefined"):
        build_environment().get_template("resources/report.html").render()


def test_numbers_that_json_does_not_have_are_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        build_environment().from_string("{{ value | tojson }}").render(value=float("nan"))
