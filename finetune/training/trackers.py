"""Trackers (TensorBoard, Weights & Biases, trackio), which Accelerate writes to."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from finetune.errors import UserError


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values to section.key, with the plain types that trackers accept."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat


def require_trackers(trackers: Sequence[str]) -> list[str]:
    """The same names; raises UserError where a package is missing, which Accelerate would ignore silently."""
    for tracker in trackers:
        if find_spec(tracker) is None:
            raise UserError(f"training.trackers: {tracker} is not installed: pip install {tracker}")
    return list(trackers)
