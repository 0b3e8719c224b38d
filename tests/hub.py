"""A model hub of one folder, on loopback: what `huggingface_hub` asks a hub when it reads and writes, without Xet.

The folder holds `models/USER/NAME` and `datasets/USER/NAME`, each a repository with one commit on `main`, read where it
lies and never written. What clients write is kept beside them in `history`, and is there again for the next server.
As the client uploads by Xet without asking the hub first, `huggingface_hub.constants.HF_HUB_DISABLE_XET` must be true.
"""

import http.server
import io
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hub_answers import Answer, Part, Request, refuse
from hub_failures import Dropped, Failures, Line, Rule, cut
from hub_repositories import COMMIT, Refusal, Repository

__all__ = ["COMMIT", "OTHER_TOKEN", "READ_TOKEN", "TOKEN", "Account", "Hub", "serve"]


TOKEN = "hf_" + "w" * 34  # May write as the user `team`,
READ_TOKEN = "hf_" + "r" * 34  # may only read as that user,
OTHER_TOKEN = "hf_" + "o" * 34  # and may write as `other`.


@dataclass(frozen=True)
class Account:
    """Whose a token is, where it may write, and whether at all."""

    name: str
    may_write: bool = True
    organizations: tuple[str, ...] = ()

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The first halves of the repositories that are this account's."""
        return (self.name, *self.organizations)


class Hub(Failures):
    """`endpoint` is its URL; `sent` counts the bytes of each file that went out, `requests` what was answered how.

    Of a request whose connection was cut the status is 0.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.endpoint = ""
        self.sent: dict[str, int] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.accounts = {TOKEN: Account("team"), READ_TOKEN: Account("team", False), OTHER_TOKEN: Account("other")}
        self.part_bytes: int | None = None  # Larger files are uploaded in parts.
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._making = threading.Lock()

    def find(self, name: str, kind: str = "models") -> Repository | None:
        """A repository as it is now, whoever may read it."""
        with self._making:
            if (kind, name) not in self._repositories:
                seed, kept = self.folder / kind / name, self.folder / "history" / kind / name
                if not seed.is_dir() and not kept.is_dir():
                    return None
                self._repositories[kind, name] = Repository(kept, seed if seed.is_dir() else None)
            return self._repositories[kind, name]

    def make(self, name: str, kind: str, private: bool, author: str) -> Repository:
        """A new repository with the first commit that a hub makes."""
        if self.find(name, kind):
            raise Refusal(409, "", f"You already created this {kind[:-1]} repo: {name}")
        repository = Repository(self.folder / "history" / kind / name, None)
        repository.access.private = private
        repository.begin(author)
        with self._making:
            return self._repositories.setdefault((kind, name), repository)

    def restrict(
        self,
        name: str,
        kind: str = "models",
        *,
        private: bool = False,
        gated: bool = False,
        readers: tuple[str, ...] = (),
    ) -> None:
        """Let only the owner and the `readers` (accounts' names) see a repository, or for a gated one its files."""
        repository = self.find(name, kind)
        assert repository, f"no repository {name}"
        repository.access.private, repository.access.gated, repository.access.readers = private, gated, list(readers)
        repository.save()

    def open(
        self, kind: str, name: str, account: Account | None, *, files: bool = False, write: bool = False
    ) -> Repository:
        """A repository for somebody; raises Refusal with the status and code that the hub gives."""
        repository = self.find(name, kind)
        owner = account is not None and name.split("/")[0] in account.namespaces
        known = owner or (account is not None and repository is not None and account.name in repository.access.readers)
        if repository is None or (repository.access.private and not known):
            if account is None:  # The client knows this 401 by its URL, which must be https, or by this code.
                raise Refusal(401, "RepoNotFound", "Invalid username or password.")
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if files and repository.access.gated and not known:
            message = f"Access to model {name} is restricted"
            if account is None:
                raise Refusal(401, "GatedRepo", f"{message}. You must have access to it and be authenticated.")
            raise Refusal(403, "GatedRepo", f"{message} and you are not in the authorized list.")
        if write and account is None:
            raise Refusal(401, "RepoNotFound", "Invalid username or password.")
        if write and account is not None and not account.may_write:
            raise Refusal(403, "", "Forbidden: you must use a write token to upload to a repository.")
        if write and not owner:
            raise Refusal(403, "", "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repository


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
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))  # How often it looks whether to end, in s.
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Put a line that can fail under what is read and written."""
        self.connection = self.request
        # Or each answer waits 40 ms: what it is written in are several pieces.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.rfile = io.BufferedReader(Line(self.connection, self.hub), 65536)
        self.wfile = Line(self.connection, self.hub)  # type: ignore[assignment]

    def handle(self) -> None:
        """Answer until the client or a failure ends the connection."""
        try:
            super().handle()
        except ConnectionError:
            cut(self.connection)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output quiet."""

    def do_GET(self) -> None:
        """Answer any request: first as the failures' rules say, else by the route that its path matches."""
        path = urllib.parse.urlsplit(self.path).path
        shown = urllib.parse.unquote(path)
        rule = self.hub.match(self.command, shown)
        self._pieces = self._read_pieces(rule)
        try:
            answer = self._answer(path, rule)
            for _ in self._pieces:
                pass  # What follows on this connection would be read as the next request.
            if rule and (rule.drop or rule.drop_after_bytes is not None):
                raise Dropped
        except BaseException:
            self.hub.requests.append((self.command, shown, 0))
            raise
        self.hub.requests.append((self.command, shown, answer.status))  # Before its sender can know of the answer.
        self._send(answer)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self, path: str, rule: Rule | None) -> Answer:
        if rule and rule.status:
            return refuse(Refusal(rule.status, rule.code, rule.message or "as the test wanted"), rule.headers)
        if rule and rule.drop == "before":
            return Answer()
        return Request(self.hub, self.command, self.path, self.headers, self._pieces).answer()

    def _read_pieces(self, rule: Rule | None) -> Iterator[bytes]:
        """The request's body."""
        limit = None if rule is None else rule.drop_after_bytes
        come = 0
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        for piece in self._read_chunks() if chunked else self._read_sized():
            come += len(piece)
            if limit is not None and come >= limit:
                raise Dropped
            yield piece
        if limit is not None:
            raise Dropped

    def _read_sized(self) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read1(min(left, 65536))
            if not piece:
                raise Dropped  # The client went away in mid-upload.
            left -= len(piece)
            yield piece

    def _read_chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, answer: Answer) -> None:
        body, part = answer.body, answer.body if isinstance(answer.body, Part) else None
        if not isinstance(body, bytes) and part is None:
            body = json.dumps(body).encode()
            answer.headers.setdefault("Content-Type", "application/json; charset=utf-8")
        length = part.last - part.first + 1 if part else len(body)
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(length), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if part:
            with part.place.open("rb") as file:
                file.seek(part.first)
                body = file.read(length)
        self.wfile.write(body)
