"""The parts of the manual that are made from the code while the site is built: `<!-- generate: NAME -->` in a page."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from diagrams import draw_layers, draw_paths

_ROOT = Path(__file__).parents[2]
_MARKER = re.compile(r"<!-- generate: (\w+) -->")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#])")
# The width of the help texts, in characters, on any terminal.
_COLUMNS = 88
_HELP = "```{code-block} text\n:class: help\n"


def expand(text: str, folder: Path) -> str:
    """A page with what is generated in it; links to folders lead to their README.md, which the site has as a page."""
    return _MARKER.sub(lambda marker: PARTS[marker[1]](), _LINK.sub(lambda link: _complete(link[1], folder), text))


def _complete(link: str, folder: Path) -> str:
    page = folder / link / "README.md"
    return f"{link.rstrip('/')}/README.md" if page.is_file() else link


def list_commands(parser: argparse.ArgumentParser | None = None) -> Iterator[argparse.ArgumentParser]:
    """The parser of each command, and of each command of a command, in the order of `finetune --help`."""
    if parser is None:
        from finetune.cli import build_parser

        parser = build_parser()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from list_commands(command)


def _write_commands() -> str:
    os.environ["COLUMNS"] = str(_COLUMNS)  # argparse asks for nothing else.
    os.environ["NO_COLOR"] = "1"
    parts = []
    for command in list_commands():
        level = "#" * min(4, len(command.prog.split()))
        parts.append(f"{level} {command.prog}\n\n{_HELP}\n$ {command.prog} --help\n{command.format_help()}```\n")
    return "\n".join(parts)


def list_keys() -> Iterator[tuple[str, Any, Any]]:
    """The sections of a recipe: the name, its class, and for each key its pydantic field."""
    from finetune.recipe.load import Recipe
    from finetune.recipe.schema import LoraSection, SourceSection

    for name, field in Recipe.model_fields.items():
        if name == "provenance":
            continue
        kind: Any = next(
            each for each in (field.annotation, *get_args(field.annotation)) if hasattr(each, "model_fields")
        )
        yield name, kind, kind.model_fields
        if name == "model":
            yield "model.lora", LoraSection, LoraSection.model_fields
        if name == "data":
            yield "data.sources", SourceSection, SourceSection.model_fields


def _write_keys() -> str:
    parts = []
    for section, kind, fields in list_keys():
        about = " ".join((kind.__doc__ or "").split())
        parts.append(f"## {section}\n\n{about}\n")
        parts.append("| key | type | default | meaning | source |\n|---|---|---|---|---|")
        for key, field in fields.items():
            meaning, _, source = " ".join((field.description or "").split()).partition(" Source: ")
            cells = (f"`{key}`", _name_type(field), _name_default(field), meaning, _link_papers(source.rstrip(".")))
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def _link_papers(source: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)


def _name_type(field: Any) -> str:
    """The type of a key as people write it, and its bounds."""
    bounds = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}
    limits = [bounds[name].format(f"{getattr(each, name):g}") for each in field.metadata for name in bounds
              if getattr(each, name, None) is not None]  # fmt: skip
    return ", ".join([_describe_type(field.annotation), *limits])


def _describe_type(kind: Any) -> str:
    names = {str: "text", int: "integer", float: "number", bool: "true or false", dict: "keys and values"}
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _describe_type(inside[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_describe_type(each) for each in inside if each is not NoneType))
    if origin is tuple:
        each = _describe_type(inside[0])
        return f"list of {each}" if inside[-1] is Ellipsis else f"[{', '.join([each] * len(inside))}]"
    if origin is dict:
        return names[dict]
    return names.get(kind) or ("section" if hasattr(kind, "model_fields") else str(getattr(kind, "__name__", kind)))


def _name_default(field: Any) -> str:
    if field.is_required():
        return "none: needed"
    default = field.get_default(call_default_factory=True)
    if default is None or default == ():
        return "not set"
    return f"`{json.dumps(default, default=list)}`"


def build_service_app() -> Any:
    """The application of the service with all its routes, without a model: only its description is asked for."""
    from unittest.mock import MagicMock

    from finetune.serving.app import build_app
    from finetune.serving.service import Service
    from finetune.serving.settings import Settings

    service: Any = MagicMock(spec=Service)  # Routes look at the service when they are called, and none is called.
    service.settings = Settings(models=["NAME"])
    return build_app(service)._app


def list_routes() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and OpenAPI description of each route of the service."""
    for path, methods in build_service_app().openapi()["paths"].items():
        for method, about in methods.items():
            yield method.upper(), path, about


def _write_http() -> str:
    parts = []
    for method, path, about in list_routes():
        parts.append(f"### {method} {path}\n\n{about.get('description', '')}\n")
        rows = [
            (each["name"], each["in"], _name_schema(each["schema"]), each.get("description", ""))
            for each in about.get("parameters", ())
        ]
        for kind, content in about.get("requestBody", {}).get("content", {}).items():
            needed = content.get("schema", {}).get("required", ())
            for name, schema in content.get("schema", {}).get("properties", {}).items():
                note = schema.get("description", "") + (" (needed)" if name in needed else "")
                rows.append((name, kind, _name_schema(schema), note))
        if rows:
            parts.append("| name | in | type | meaning |\n|---|---|---|---|")
            parts += [f"| `{name}` | {where} | {kind} | {note} |" for name, where, kind, note in rows]
            parts.append("")
        parts.append("| status | answer |\n|---|---|")
        for status, answer in about["responses"].items():
            kinds = ", ".join(f"`{kind}`" for kind in answer.get("content", ()))
            parts.append(f"| {status} | {answer['description']}{f': {kinds}' if kinds else ''} |")
        parts.append("")
    return "\n".join(parts)


def _name_schema(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_name_schema(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_name_schema(schema.get('items', {}))}"
    limits = [f"{sign} {schema[name]:g}" for name, sign in (("minimum", "≥"), ("maximum", "≤")) if name in schema]
    return ", ".join([schema.get("format") or schema.get("type") or "any", *limits])


def _write_sockets() -> str:
    from starlette.routing import WebSocketRoute

    found = [route for route in _walk(build_service_app().routes) if isinstance(route, WebSocketRoute)]
    rows = [f"| `WS {route.path}` | {' '.join((route.endpoint.__doc__ or '').split())} |" for route in found]
    return "\n".join(["| address | what it is |", "|---|---|", *rows])


def _walk(routes: Any) -> Iterator[Any]:
    for route in routes:
        yield route
        yield from _walk(getattr(getattr(route, "original_router", None), "routes", ()))


def _write_metrics() -> str:
    from finetune.serving.metrics import Metrics

    text = Metrics(["NAME"]).render().decode()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    labels = {
        name: ", ".join(f"`{label}`" for label in re.findall(r'(\w+)="', inside) if label != "le")
        for name, inside in re.findall(r"^(\w+?)(?:_bucket)?\{([^}]*)\}", text, re.MULTILINE)
    }
    rows = [
        f"| `{name}` | {kinds[name]} | {labels.get(name, '')} | {about} |"
        for name, about in re.findall(r"^# HELP (\w+) (.*)$", text, re.MULTILINE)
        if not name.endswith("_created")
    ]
    return "\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows])


def _read_quickstart() -> str:
    """The quickstart as the README tells it, so that it stands once: the command, what it prints, and its use."""
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"<!-- quickstart -->\n(.*?)<!-- end -->", readme, re.DOTALL)
    result = re.search(r"^The first command ends.*?(?=^## Your own data)", readme, re.DOTALL | re.MULTILINE)
    assert command and result
    return f"{command[1]}\n{result[0].replace('The first command', 'The command')}"


def _list_other_pages() -> str:
    """The pages beside the index, each of which is a task that has no place in a folder yet."""
    return "\n".join(sorted(page.stem for page in Path(__file__).parent.glob("*.md") if page.stem != "index"))


PARTS: dict[str, Callable[[], str]] = {
    "other_pages": _list_other_pages,
    "quickstart": _read_quickstart,
    "commands": _write_commands,
    "recipe_keys": _write_keys,
    "http": _write_http,
    "sockets": _write_sockets,
    "metrics": _write_metrics,
    "layers_diagram": draw_layers,
    "paths_diagram": draw_paths,
}
