"""Find private information before publishing: paths, names of this machine, tokens, e-mail addresses."""

import getpass
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from finetune.publishing.local_paths import has_local_path
from finetune.resources.addresses import public_address

# Formats of secrets, from the documentation of services or secret scanners (gitleaks).
_TOKEN = re.compile(
    r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}|\bhf_jwt_[\w.-]{10,}"  # Hugging Face
    r"|\b(?:gh[opsur]_|github_pat_|glpat-)\w{20,}"  # GitHub, GitLab
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\b(?i:X-Amz-(?:Signature|Credential|Security-Token))="  # AWS
    r"|\bAIza[\w-]{35}|\b(?i:X-Goog-(?:Signature|Credential))="  # Google
    r"|\b(?i:sig|signature|key-pair-id|token)=[\w%+/~.-]{8,}"  # Azure, CloudFront and others
    r"|\bsk-[\w-]{20,}"  # OpenAI, Anthropic
    r"|\bxox[abeprs]-[\w-]{10,}"  # Slack
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:\b\w*(?:api_?key|secret|password|passwd|(?:access|auth|hf)_token)[\"']?\s*[:=]\s*[\"']?[^\s\"',}]{8,})"
)
_LOGIN_IN_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/@\"'<>]+@")
# "user/name@v1.beta", a model and its revision, is not an address.
_EMAIL = re.compile(r"(?<![\w.+/-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,}(?![\w-])")
_WEB_ADDRESS = re.compile(r"https?://\S+")
_ESCAPED_SPACE = re.compile(r"\\[nrt]")
# Harmless parameters of a URL; any other could be a credential.
_ASKED = r"(?:download|raw|dl|ref|v|version|lang|library|format|page|tab|plain)(?:=[\w.-]{0,20})?"
_HARMLESS_QUERY = re.compile(rf"\?{_ASKED}(?:&(?:amp;)?{_ASKED})*(?![\w=&%/+~])")

# Files of words, in which "and/or" or this user's name is only a word.
_WORD_LISTS = {"vocab.json", "alphabet.json", "unigrams.txt"}
# Names that identify nobody, and occur in recipes and configurations for other reasons.
_NOBODY = re.compile(
    r"root|users?|admin|administrator|guest|nobody|ubuntu|debian|fedora|centos|docker|runner|worker|jovyan|vagrant"
    r"|azureuser|ec2-user|app|git|www-data|default|test|dev|data|models?|speech|audio|train|training|home|python"
    r"|localhost|host|server|gpu|cpu|cuda|linux|windows|laptop|desktop|computer|finetune|transformers|\d+",
    re.IGNORECASE,
)
_SHORTEST_NAME = 3
_BEGINNING = 8192


def find_leaks(folder: Path) -> list[str]:
    """Private information in the text files of a folder, a line for each: the file, the position, the kind.

    Reported are absolute paths, the login name, home and name of this machine, tokens and passwords, e-mail addresses,
    and URL queries that are not known as harmless; the value itself is never repeated. In word lists only tokens and
    addresses are reported. Binary files are skipped, except for the metadata of safetensors.
    """
    names = _machine_names()
    found: list[str] = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = file.relative_to(folder)
        if name.parts[0] in (".git", ".cache"):  # huggingface_hub does not upload these.
            continue
        words = file.name in _WORD_LISTS or file.suffix == ".arpa"
        for place, line in _read_lines(file):
            kinds = _find_secrets(line) if words else [*_find_secrets(line), *_find_places(line, names)]
            found += [f"{name.as_posix()}, {place}: {kind}" for kind in kinds]
    return found


def find_leaks_in(text: str) -> list[str]:
    """The kinds of private information in a text that will be published, a line for each."""
    names = _machine_names()
    return [kind for line in text.splitlines() for kind in [*_find_secrets(line), *_find_places(line, names)]]


def _find_secrets(line: str) -> list[str]:
    patterns = {"a token or password": _TOKEN, "a login in a URL": _LOGIN_IN_URL, "an e-mail address": _EMAIL}
    found = [kind for kind, pattern in patterns.items() if pattern.search(line)]
    if not found and (bare := _HARMLESS_QUERY.sub("", line)) != public_address(bare):
        found = ["a query in an address"]
    return found


def _find_places(line: str, names: dict[str, re.Pattern[str]]) -> list[str]:
    apart = _WEB_ADDRESS.sub(" ", line)  # The page of a user on the hub is public.
    kinds = [kind for kind, pattern in names.items() if pattern.search(apart)]
    # In JSON a path may follow an escaped line break.
    is_path = has_local_path(line) or has_local_path(_ESCAPED_SPACE.sub(" ", line))
    return (["an absolute path"] if is_path else []) + kinds


def _machine_names() -> dict[str, re.Pattern[str]]:
    """Patterns of this user's and this machine's name, except for names that identify nobody.

    They match only in contexts that name somebody, since a user "will" or a host "orange" is a word too.
    """
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # A container may run as a user without a name.
        login = ""
    host = socket.gethostname()
    short = host.partition(".")[0]
    found = {}
    if _identifies(login):
        name = re.escape(login)
        # A user "ann" may have "ann/model" on a hub.
        found["a user name"] = re.compile(
            rf"\b(?i:user|author|owner|login|creator|made|trained|by)\w*[\"']?[\s:=]+[\"']?{name}(?![\w-]|/\w)"
            rf"|[\\/~]{name}(?=[\\/\s\"']|$)|\b{name}@"
        )
    if _identifies(short):
        name = re.escape(short)
        found["a host name"] = re.compile(
            rf"\b(?i:host|node|machine|computer|server|cluster|on|at)\w*[\"']?[\s:=]+[\"']?{name}(?![\w-])|@{name}\b"
            + (rf"|\b{re.escape(host)}\b" if "." in host else "")
        )
    return found


def _identifies(name: str) -> bool:
    return len(name) >= _SHORTEST_NAME and not _NOBODY.fullmatch(name)


def _read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file with their positions; of a language model only the words, of weights the metadata."""
    if file.suffix == ".safetensors":
        yield from _read_metadata(file)
        return
    with file.open("rb") as binary:
        if b"\0" in binary.read(_BEGINNING):
            return
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if file.suffix == ".arpa" and line.startswith("\\2-grams:"):
                return  # Longer n-grams consist of the same words.
            yield f"line {number}", line


def _read_metadata(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with safe_open(file, "numpy") as tensors:
            metadata = tensors.metadata() or {}
    except SafetensorError:
        return
    for key, value in metadata.items():
        yield f"metadata {key}", json.dumps(value, ensure_ascii=False)
