"""What TensorBoard, Weights & Biases and trackio are told, through Accelerate."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from finetune.errors import UserError


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as section.key, in the plain types that trackers take."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat


def require_trackers(trackers: Sequence[str]) -> list[str]:
    """The same names; raises UserError for one whose package is missing, which Accelerate leaves out in silence."""
    for tracker in trackers:
        if find_spec(tracker) is None:
            raise UserError(f"training.trackers: {tracker} is not installed: pip install {tracker}")
    return list(trackers)
