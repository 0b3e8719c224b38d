"""Licences in a card's metadata: an identifier that the hub knows, or "other" with a name."""

import re
from pathlib import Path

# From https://huggingface.co/docs/hub/repositories-licenses; a missing one is published as "other" with its name.
_KNOWN = Path(__file__).parent / "licences.txt"


def describe_licence(name: str | None) -> dict[str, str | None]:
    """`license`, and `license_name` if `license` must be "other" because the hub does not know it."""
    if name is None:
        return {"license": None, "license_name": None}
    if name.lower() in _KNOWN.read_text(encoding="utf-8").splitlines():
        return {"license": name.lower(), "license_name": None}
    return {"license": "other", "license_name": re.sub(r"[^\w.+-]+", "-", name).strip("-").lower() or "unnamed"}
