"""Stub until the metrics are merged."""

from typing import Any


class Metrics:
    def __init__(self, names: list[str]) -> None: ...
    def render(self) -> bytes:
        return b""

    def __getattr__(self, name: str) -> Any:
        return lambda *a, **k: None
