"""Keep paths of the machine that trained out of what is published: they name users, projects, clients."""

from __future__ import annotations

import re
from pathlib import PureWindowsPath

from finetune.resources.addresses import public_address
from finetune.resources.repositories import is_on_hub

# How an absolute path begins. Not so: "https://…", "owner/name", "and/or", "../", "</p>".
_START = (
    r"(?:file://"
    r"|(?<!\w)[A-Za-z]:[\\/](?!/)"  # C:\speech
    r"|(?<![\w/.<])~[\w.-]*/"  # ~/speech, ~me/speech
    r"|(?<![\w/.~<])/(?!/)"  # /home/me
    r"|(?<![\w:/])//)"  # //server/speech
)
_WHOLE_PATH = re.compile(rf"{_START}.*", re.DOTALL)
_QUOTED_PATH = re.compile(rf"""(?<=(["'])){_START}[^"'\n]*(?=\1)""")
_BARE_PATH = re.compile(rf"""{_START}(?:\\.|[^\s"'`,;()\[\]{{}}<>])+""")


def has_local_path(text: str) -> bool:
    """Whether there is an absolute path of a machine in a text."""
    return bool(_QUOTED_PATH.search(text) or _BARE_PATH.search(text))


def public_name(name: str) -> str:
    """Return a hub name, a web address without what opens it, and only the last part of a path or of a bucket's URL."""
    name = public_address(name)
    return name if is_on_hub(name) or name.startswith(("https://", "http://")) else last_part(name)


def last_part(path: str) -> str:
    """Return the name of a file or folder without where it lies."""
    # Windows' rules split at both kinds of slash; a shell's escaped space is no folder.
    return PureWindowsPath(public_address(path).replace("\\ ", " ")).name.strip(".") or "a local folder"


def public_place(name: str) -> str:
    """Return what stands for a place in a published recipe: a folder here is one beside the recipe there.

    Called "an4" alone, it would be a stranger's repository on a hub.
    """
    public = public_name(name)
    return public if public == public_address(name) else f"./{public}"


def scrub_value(value: str) -> str:
    """Cut down addresses and absolute paths in one value; one that begins as a path is one to its end, spaces too."""
    value = public_address(value)
    return public_name(value) if _WHOLE_PATH.fullmatch(value) else scrub_text(value)


def scrub_text(text: str) -> str:
    """Cut each absolute path in a text down to its last part; a path ends at a space unless it is quoted."""
    for pattern in (_QUOTED_PATH, _BARE_PATH):
        text = pattern.sub(lambda match: public_name(match[0]), text)
    return text
