"""A licence as a hub takes it in a card's metadata: one of those it knows, or another with its name."""

from __future__ import annotations

import re
from pathlib import Path

# From https://huggingface.co/docs/hub/repositories-licenses: one that is missing is published as "other", by its name.
_KNOWN = Path(__file__).parent / "licences.txt"


def describe_licence(name: str | None) -> dict[str, str | None]:
    """`license`, with `license_name` for one that the hub's list does not have, where it must be "other"."""
    if name is None:
        return {"license": None, "license_name": None}
    if name.lower() in _KNOWN.read_text(encoding="utf-8").splitlines():
        return {"license": name.lower(), "license_name": None}
    return {"license": "other", "license_name": re.sub(r"[^\w.+-]+", "-", name).strip("-").lower() or "unnamed"}
