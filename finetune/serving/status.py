"""Health for orchestrators, metrics for Prometheus, and the administrator's routes."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from finetune.errors import UserError
from finetune.serving.openapi import ERRORS
from finetune.serving.problems import Problem
from finetune.serving.service import Service


def build_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["Operation"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether the process answers; if not, restart it."""
        return {"status": "ok"}

    @router.get("/health/ready", responses={503: {"description": "It is about to end"}})
    async def ready() -> Response:
        """Whether to send requests here: the models are loaded, and the service is not about to end."""
        if service.draining.is_set():
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok", "models": service.models.names})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Metrics in Prometheus's text format; without a key, as they name no one."""
        for model in service.models.all():
            service.metrics.live_sessions(model.name, model.engine.num_sessions)
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.post("/admin/models/{name}/reload", responses=ERRORS)
    async def reload(request: Request, name: str) -> dict[str, Any]:
        """Load a model again from where it came from; requests that have begun go on with the old one."""
        service.admit(request, "admin")
        service.find_model(name, request)
        try:
            changed = await asyncio.to_thread(service.reload, name)
        except UserError as error:
            raise Problem(
                503, f"The model {name} can't be loaded; the old one stays.", "model_not_loaded", "name"
            ) from error
        return {"model": name, "changed": bool(changed)}

    return router
