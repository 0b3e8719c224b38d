"""The web pages at / and /review: files that need nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter
from fastapi.responses import Response

from finetune.serving.service import Service

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def build_router(_: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(include_in_schema=False)
    contents = {file.name: file.read_bytes() for file in files("finetune.serving").joinpath("web").iterdir()}

    def answer(name: str) -> Response:
        return Response(contents[name], media_type=f"{_TYPES[PurePath(name).suffix]}; charset=utf-8")

    @router.get("/")
    async def index() -> Response:
        """The page."""
        return answer("index.html")

    @router.get("/review")
    async def review() -> Response:
        """The page that reviews feedback."""
        return answer("review.html")

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        """What the pages need."""
        return answer(name) if name in contents else Response(status_code=404)

    return router
