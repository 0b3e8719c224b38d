"""Removing user names, passwords, queries and signatures from addresses before they are shown or written."""

import re

_SCHEME = r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
_LOGIN = re.compile(rf"{_SCHEME}(?P<login>[^\s/?#\"'<>`]*)@")
_QUERY = re.compile(rf"(?P<address>{_SCHEME}[^\s?#\"'<>`]*)(?P<query>[?#][^\s\"'<>`]*)")

# Azure's addresses have a container in the place of the user; it belongs to the name.
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")
# Characters after an address that end a sentence or a bracket.
_SENTENCE_END = ").,;:]}"


def public_address(text: str) -> str:
    """Remove user, password, query and key=value fragments from each address (SCHEME://…) in a text.

    Other text does not change, nor do wildcards as in `s3://bucket/talk?.wav`.
    """
    if "://" not in text:
        return text
    return _QUERY.sub(_cut_query, _LOGIN.sub(_cut_login, text))


def _cut_login(found: re.Match[str]) -> str:
    is_container = found["scheme"].lower() in _CONTAINER_SCHEMES and ":" not in found["login"]
    return found[0] if is_container else f"{found['scheme']}://"


def _cut_query(found: re.Match[str]) -> str:
    query = found["query"]
    is_web_query = query[0] == "?" and re.search("https?://", found["address"], re.IGNORECASE)
    if not is_web_query and "=" not in query:
        return found[0]
    return found["address"] + query[len(query.rstrip(_SENTENCE_END)) :]
