"""Remove paths of the training machine from published files: they can name users, projects and clients."""

import re
from pathlib import PureWindowsPath

from finetune.resources.addresses import public_address
from finetune.resources.repositories import is_on_hub

# The beginning of an absolute path. Not matched: "https://…", "owner/name", "and/or", "../", "</p>", "[.,/!]".
_START = (
    r"(?:file://"
    r"|(?<!\w)[A-Za-z]:[\\/](?!/)"  # C:\speech
    r"|(?<![\w/.<])~[\w.-]*/"  # ~/speech, ~me/speech
    r"|(?<![\w/.~<])/(?=\.?\w|[~$])"  # /home/me
    r"|(?<![\w:/])//)"  # //server/speech
)
_WHOLE_PATH = re.compile(rf"{_START}.*", re.DOTALL)
_QUOTED_PATH = re.compile(rf"""(?<=(["'])){_START}[^"'\n]*(?=\1)""")
_BARE_PATH = re.compile(rf"""{_START}(?:\\.|[^\s"'`,;()\[\]{{}}<>])+""")


def has_local_path(text: str) -> bool:
    """Whether a text contains an absolute path of a machine."""
    return bool(_QUOTED_PATH.search(text) or _BARE_PATH.search(text))


def public_name(name: str) -> str:
    """A hub name as it is, a web address without credentials, of a path or a bucket's URL only the last part."""
    name = public_address(name)
    return name if is_on_hub(name) or name.startswith(("https://", "http://")) else last_part(name)


def last_part(path: str) -> str:
    """The name of a file or folder without its path."""
    # Windows paths are split at both kinds of slash; the backslash of a shell's escaped space is not a separator.
    return PureWindowsPath(public_address(path).replace("\\ ", " ")).name.strip(".") or "a local folder"


def public_place(name: str) -> str:
    """A place in a published recipe: a local folder becomes a folder relative to the recipe.

    A bare name such as "an4" would be the name of another repository on a hub.
    """
    public = public_name(name)
    return public if public == public_address(name) else f"./{public}"


def scrub_value(value: str) -> str:
    """Shorten URLs and absolute paths in a value; a value that begins like a path is a path to its end."""
    value = public_address(value)
    return public_name(value) if _WHOLE_PATH.fullmatch(value) else scrub_text(value)


def scrub_text(text: str) -> str:
    """Replace each absolute path in a text by its last part; a path ends at a space unless it is quoted."""
    for pattern in (_QUOTED_PATH, _BARE_PATH):
        text = pattern.sub(lambda match: public_name(match[0]), text)
    return text
