"""A model hub of one folder, on loopback: what `huggingface_hub` asks a hub when it reads, nothing of writing.

The folder holds `models/USER/NAME` and `datasets/USER/NAME`; each has one commit, on `main`.
"""

import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMIT = "c0ffee0000000000000000000000000000000000"

_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(?:/([^/]+)(?:/(.*))?)?)?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub:
    """`endpoint` is its URL; `sent` counts the bytes of each file that went out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = ""
        self.sent: dict[str, int] = {}

    def find(self, kind: str, name: str, revision: str | None) -> Path | str:
        """A repository's folder, or the hub's word for why there is none."""
        folder = self.folder / kind / name
        if not folder.is_dir():
            return "RepoNotFound"
        return folder if revision in (None, "main", COMMIT) else "RevisionNotFound"


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """A hub for as long as the `with` statement lasts."""
    hub = Hub(folder)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output quiet."""

    def do_GET(self) -> None:
        """Answer the hub's API, and its files."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if found := _API.fullmatch(path):
            self._answer_api(*found.groups())
        elif found := _FILE.fullmatch(path):
            self._send_file("datasets" if found[1] else "models", *found.groups()[1:])
        else:
            self._refuse("NotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answer `paths-info`, the only question that has a body."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        found = _API.fullmatch(path)
        if not found or found[3] != "paths-info":
            self._refuse("NotFound")
            return
        values = json.loads(body) if body.startswith(b"{") else urllib.parse.parse_qs(body.decode())
        repository = self.hub.find(found[1], found[2], found[4])
        if isinstance(repository, str):
            self._refuse(repository)
            return
        paths = values["paths"] if isinstance(values["paths"], list) else [values["paths"]]
        places = [repository / name for name in paths]
        self._send_json([_describe(repository, place) for place in places if place.exists()])

    def _answer_api(self, kind: str, name: str, what: str | None, revision: str | None, path: str | None) -> None:
        repository = self.hub.find(kind, name, revision)
        if isinstance(repository, str):
            self._refuse(repository)
        elif what == "refs":
            self._send_json({"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}]})
        elif what == "tree":
            folder = repository / (path or "")
            recursive = "recursive=true" in self.path.lower()
            if folder.is_dir():
                self._send_json([_describe(repository, p) for p in folder.glob("**/*" if recursive else "*")])
            else:
                self._refuse("EntryNotFound")
        else:
            files = [p.relative_to(repository).as_posix() for p in repository.rglob("*") if p.is_file()]
            siblings = [{"rfilename": file} for file in files]
            self._send_json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

    def _send_file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self.hub.find(kind, name, revision)
        if isinstance(repository, str):
            self._refuse(repository)
            return
        file = repository / path
        if not file.is_file():
            self._refuse("EntryNotFound")
            return
        size = file.stat().st_size
        first, last = 0, size - 1
        piece = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if piece:
            first, last = int(piece[1]), min(int(piece[2] or size), size - 1)
        self.send_response(206 if piece else 200)
        if piece:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self._send_common(last - first + 1, {"ETag": f'"{_etag(file)}"', "Accept-Ranges": "bytes"})
        if self.command == "GET":
            with file.open("rb") as opened:
                opened.seek(first)
                self.wfile.write(opened.read(last - first + 1))
            key = f"{kind}/{name}/{path}"
            self.hub.sent[key] = self.hub.sent.get(key, 0) + last - first + 1

    def _send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self._send_common(len(body), {"Content-Type": "application/json"})
        self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self._send_common(0, {"X-Error-Code": code, "X-Error-Message": code})

    def _send_common(self, length: int, headers: dict[str, str]) -> None:
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _describe(repository: Path, place: Path) -> dict[str, Any]:
    path = place.relative_to(repository).as_posix()
    if place.is_dir():
        return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": path, "oid": _etag(place), "size": place.stat().st_size}


def _etag(file: Path) -> str:
    return f"{file.stat().st_size:040x}"
