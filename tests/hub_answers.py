"""What the tests' hub answers to each request, by whose token it comes with: all but the HTTP."""

import base64
import contextlib
import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_repositories import Commit, File, Refusal, find_card_errors, is_large, read_card

if TYPE_CHECKING:
    from hub import Account, Hub


@dataclass
class Answer:
    """`body` are bytes, a part of a file, or what becomes JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    place: Path
    first: int
    last: int


@dataclass
class Request:
    """One request, with its body as it comes."""

    hub: "Hub"
    method: str
    url: str
    headers: Mapping[str, str]
    pieces: Iterator[bytes]

    def answer(self) -> Answer:
        """What the route that the path matches says."""
        path = urllib.parse.urlsplit(self.url).path
        method = "GET" if self.method == "HEAD" else self.method
        for wanted, pattern, name in _ROUTES:
            if method == wanted and (found := re.fullmatch(pattern, path)):
                groups = [value and urllib.parse.unquote(value) for value in found.groups()]
                try:
                    answer: Answer = getattr(self, name)(*groups)
                except Refusal as refusal:
                    return refuse(refusal)
                return answer
        return refuse(Refusal(404, "", "Sorry, we can't find the page you are looking for."))

    def _account(self) -> "Account | None":
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.accounts:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return self.hub.accounts.get(token)

    def _writer(self) -> "Account":
        account = self._account()
        if account is None:
            raise Refusal(401, "", "Invalid username or password.")
        return account

    def _read_json(self) -> Any:
        return json.loads(b"".join(self.pieces) or b"{}")

    # Who and what there is

    def _whoami(self) -> Answer:
        account = self._writer()
        token = {"displayName": "test", "role": "write" if account.may_write else "read"}
        orgs = [{"name": name, "type": "org"} for name in account.organizations]
        return Answer({"type": "user", "name": account.name, "orgs": orgs, "auth": {"accessToken": token}})

    def _create(self) -> Answer:
        account, values = self._writer(), self._read_json()
        kind = f"{values.get('type') or 'model'}s"
        namespace = values.get("organization") or account.name
        name = f"{namespace}/{values['name']}"
        if not account.may_write or namespace not in account.namespaces:
            raise Refusal(
                403, "", f"You don't have the rights to create a {kind[:-1]} under the namespace {namespace!r}"
            )
        url = f"{self.hub.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        try:
            self.hub.make(name, kind, values.get("visibility") == "private", account.name)
        except Refusal as refusal:
            return Answer({"error": refusal.message, "url": url}, refusal.status)
        return Answer({"url": url, "name": name})

    def _check_card(self) -> Answer:
        try:
            values = read_card(self._read_json()["content"])
            errors = find_card_errors(values)
        except ValueError as error:
            values, errors = {}, [str(error)]
        warnings = [] if values or errors else [{"message": "empty or missing yaml metadata in repo card"}]
        answer = {"errors": [{"message": error} for error in errors], "warnings": warnings}
        return Answer(answer, 400 if errors else 200)

    def _check_access(self, kind: str, name: str, write: str | None) -> Answer:
        self.hub.open(kind, name, self._account(), files=True, write=bool(write))
        return Answer({})

    # Reading

    def _describe(self, kind: str, name: str, revision: str | None) -> Answer:
        repository = self.hub.open(kind, name, self._account())
        commit = repository.resolve(revision or "main")
        files = repository.read(commit)
        card = {}
        if "README.md" in files:
            with contextlib.suppress(ValueError):
                card = read_card(files["README.md"].place.read_text())
        siblings = [{"rfilename": path} for path in files]
        if "blobs" in self.url:
            siblings = [{"rfilename": p, "size": f.size, "blobId": f.oid} | _lfs(f) for p, f in files.items()]
        answer = {"id": name, "sha": commit, "private": repository.access.private, "siblings": siblings}
        answer |= {"gated": "auto" if repository.access.gated else False, "tags": card.get("tags") or []}
        answer |= {"cardData": card, "lastModified": _write_date(repository.commits[commit])}
        answer |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
        return Answer(answer, headers={"X-Repo-Commit": commit})

    def _list_references(self, kind: str, name: str) -> Answer:
        repository = self.hub.open(kind, name, self._account())

        def describe(folder: str, references: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": c} for n, c in references.items()]

        answer = {"branches": describe("heads", repository.branches), "tags": describe("tags", repository.tags)}
        return Answer(answer | {"converts": [], "pullRequests": []})

    def _list_commits(self, kind: str, name: str, revision: str) -> Answer:
        repository = self.hub.open(kind, name, self._account())
        history = repository.history(repository.resolve(revision))
        answer = [
            {"id": c.id, "title": c.title, "message": c.message, "authors": [{"user": c.author}]} for c in history
        ]
        return Answer([a | {"date": _write_date(repository.commits[a["id"]])} for a in answer])

    def _list_tree(self, kind: str, name: str, revision: str, path: str | None) -> Answer:
        repository = self.hub.open(kind, name, self._account())
        entries = _list(repository.read(repository.resolve(revision)))
        inside = "" if not path else path.rstrip("/") + "/"
        recursive = "recursive=true" in self.url.lower()
        found = [e for p, e in entries.items() if p.startswith(inside) and (recursive or "/" not in p[len(inside) :])]
        if inside and not found:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist on {revision!r}")
        return Answer(found)

    def _describe_paths(self, kind: str, name: str, revision: str) -> Answer:
        body = b"".join(self.pieces)
        values = json.loads(body) if body.startswith(b"{") else urllib.parse.parse_qs(body.decode())
        repository = self.hub.open(kind, name, self._account())
        entries = _list(repository.read(repository.resolve(revision)))
        paths = values["paths"] if isinstance(values["paths"], list) else [values["paths"]]
        return Answer([entries[path.rstrip("/")] for path in paths if path.rstrip("/") in entries])

    def _send_file(self, kind: str | None, name: str, revision: str, path: str) -> Answer:
        kind = kind or "models"
        repository = self.hub.open(kind, name, self._account(), files=True)
        commit = repository.resolve(revision)
        file = repository.read(commit).get(path)
        if file is None:  # With the commit, for which the client then remembers that there is none.
            return refuse(Refusal(404, "EntryNotFound", "Entry not found"), {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        piece = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(piece[1]), min(int(piece[2] or file.size), file.size - 1)) if piece else (0, file.size - 1)
        if piece:
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        if self.method == "GET":
            key = f"{kind}/{name}/{path}"
            self.hub.sent[key] = self.hub.sent.get(key, 0) + last - first + 1
        return Answer(Part(file.place, first, last), 206 if piece else 200, headers)

    # Writing

    def _announce(self, kind: str, name: str, revision: str) -> Answer:
        repository = self.hub.open(kind, name, self._account(), write=True)
        there = repository.read(repository.resolve(revision))
        answer = []
        values = self._read_json()
        kept = there[".gitignore"].place.read_text() if ".gitignore" in there else ""
        patterns = values.get("gitIgnore", kept).splitlines()
        for file in values["files"]:
            large = is_large(file["path"], file["size"]) or b"\0" in base64.b64decode(file["sample"])
            known = there.get(file["path"])
            ignored = any(fnmatch(file["path"], pattern) for pattern in patterns)
            answer.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignored})
            answer[-1]["oid"] = known.etag if known and known.large == large else None
        return Answer({"files": answer})

    def _commit(self, kind: str, name: str, revision: str) -> Answer:
        account = self._account()
        repository = self.hub.open(kind, name, account, write=True)
        lines = [json.loads(line) for line in b"".join(self.pieces).splitlines()]
        header, operations = lines[0]["value"], [(line["key"], line["value"]) for line in lines[1:]]
        for what, value in operations:
            if what == "file":
                value["content"] = base64.b64decode(value["content"])
        about = header["summary"], header.get("description", ""), account.name if account else ""
        commit = repository.write(revision, *about, operations, header.get("parentCommit"))
        url = f"{self.hub.endpoint}/{'' if kind == 'models' else kind + '/'}{name}/commit/{commit.id}"
        return Answer({"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""})

    def _offer_uploads(self, kind: str | None, name: str) -> Answer:
        repository = self.hub.open(kind or "models", name, self._account(), write=True)
        values = self._read_json()
        parts = self.hub.part_bytes if "multipart" in values["transfers"] else None
        answer = []
        for wanted in values["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer.append({"oid": oid, "size": size})
            if repository.blob(oid).is_file():
                continue
            upload: dict[str, Any] = {"href": f"{self.hub.endpoint}/lfs/{kind or 'models'}/{name}/{oid}"}
            if parts and size > parts:
                urls = {str(i): f"{upload['href']}/{i}" for i in range(1, -(-size // parts) + 1)}
                upload = {"href": f"{upload['href']}/complete", "header": {"chunk_size": str(parts), **urls}}
            prefix = f"{kind}/" if kind else ""
            verify = {"href": f"{self.hub.endpoint}/{prefix}{name}.git/info/lfs/objects/verify"}
            answer[-1]["actions"] = {"upload": upload, "verify": verify}
        return Answer({"transfer": "multipart" if parts else "basic", "objects": answer})

    def _take_upload(self, kind: str, name: str, oid: str, part: str | None) -> Answer:
        repository = self.hub.find(name, kind)
        assert repository  # These addresses are given to those who may write.
        if part is None:
            repository.keep(self.pieces, oid)
            return Answer()
        kept = repository.keep(self.pieces)
        repository.blob(kept).replace(repository.blob(f"{oid}-{int(part):04d}"))
        return Answer(headers={"ETag": f'"{kept}"'})

    def _join_parts(self, kind: str, name: str, oid: str) -> Answer:
        repository = self.hub.find(name, kind)
        assert repository
        places = [repository.blob(f"{oid}-{part['partNumber']:04d}") for part in self._read_json()["parts"]]
        repository.keep((place.read_bytes() for place in places), oid)
        for place in places:
            place.unlink()
        return Answer({})

    def _verify(self, kind: str | None, name: str) -> Answer:
        repository = self.hub.open(kind or "models", name, self._account(), write=True)
        values = self._read_json()
        place = repository.blob(values["oid"])
        if not place.is_file() or place.stat().st_size != values["size"]:
            raise Refusal(404, "", "This object was not uploaded")
        return Answer({})

    def _add_branch(self, kind: str, name: str, branch: str) -> Answer:
        repository = self.hub.open(kind, name, self._account(), write=True)
        start = self._read_json().get("startingPoint", "main")
        repository.refer(repository.branches, branch, start, "Reference")
        return Answer({})

    def _add_tag(self, kind: str, name: str, revision: str) -> Answer:
        repository = self.hub.open(kind, name, self._account(), write=True)
        repository.refer(repository.tags, self._read_json()["tag"], revision, "Tag reference")
        return Answer({})

    def _remove(self, kind: str, name: str, what: str, reference: str) -> Answer:
        repository = self.hub.open(kind, name, self._account(), write=True)
        references = repository.branches if what == "branch" else repository.tags
        if reference == "main":
            raise Refusal(403, "", "The main branch can't be deleted")
        if references.pop(reference, None) is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {reference}")
        repository.save()
        return Answer({})


_NAME, _ONE = r"([^/]+/[^/]+)", r"([^/]+)"
_API = rf"/api/(models|datasets)/{_NAME}"
_GIT = r"/(?:(datasets)/)?([^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "_whoami"),
    ("POST", r"/api/repos/create", "_create"),
    ("POST", r"/api/validate-yaml", "_check_card"),
    ("GET", rf"{_API}/auth-check(/write)?", "_check_access"),
    ("GET", rf"{_API}(?:/revision/{_ONE})?", "_describe"),
    ("GET", rf"{_API}/refs", "_list_references"),
    ("GET", rf"{_API}/commits/{_ONE}", "_list_commits"),
    ("GET", rf"{_API}/tree/{_ONE}(?:/(.+))?", "_list_tree"),
    ("POST", rf"{_API}/paths-info/{_ONE}", "_describe_paths"),
    ("GET", rf"{_GIT}/resolve/{_ONE}/(.+)", "_send_file"),
    ("POST", rf"{_API}/preupload/{_ONE}", "_announce"),
    ("POST", rf"{_API}/commit/{_ONE}", "_commit"),
    ("POST", rf"{_GIT}\.git/info/lfs/objects/batch", "_offer_uploads"),
    ("POST", rf"{_GIT}\.git/info/lfs/objects/verify", "_verify"),
    ("PUT", rf"/lfs/{_ONE}/{_NAME}/{_ONE}(?:/(\d+))?", "_take_upload"),
    ("POST", rf"/lfs/{_ONE}/{_NAME}/{_ONE}/complete", "_join_parts"),
    ("POST", rf"{_API}/branch/{_ONE}", "_add_branch"),
    ("POST", rf"{_API}/tag/{_ONE}", "_add_tag"),
    ("DELETE", rf"{_API}/(branch|tag)/{_ONE}", "_remove"),
]


def refuse(refusal: Refusal, headers: Mapping[str, str] | None = None) -> Answer:
    said = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
    return Answer({"error": refusal.message}, refusal.status, said | dict(headers or {}))


def _lfs(file: File) -> dict[str, Any]:
    return {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}} if file.large else {}


def _list(files: Mapping[str, File]) -> dict[str, dict[str, Any]]:
    """Files and the folders that they are in, as `tree` describes them."""
    folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    entries = {path: {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)}
    return entries | {path: {"type": "file", "path": path, **file.describe()} for path, file in files.items()}


def _write_date(commit: Commit) -> str:
    return datetime.fromtimestamp(commit.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
