"""The web page at /: its three files, which need nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from finetune.serving.service import Service

_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


def build_router(_: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index() -> Response:
        """The page."""
        return _read("index.html")

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        """What the page needs."""
        return _read(name) if name in _TYPES else Response(status_code=404)

    return router


def _read(name: str) -> Response:
    content = files("finetune.serving").joinpath("web", name).read_text(encoding="utf-8")
    return Response(content, media_type=f"{_TYPES[name]}; charset=utf-8")
