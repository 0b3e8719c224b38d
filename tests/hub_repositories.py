"""The repositories of the tests' hub: a commit maps paths to contents, which lie on disk by SHA-256."""

import functools
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

COMMIT = "c0ffee0000000000000000000000000000000000"  # The one commit of a repository that was put there as a folder.
LARGE = (".safetensors", ".bin", ".arpa", ".gz", ".wav", ".flac", ".parquet")
_LARGE_BYTES = 10_000_000
_LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "bsd-3-clause", "other"}
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_REFERENCE = re.compile(r"(?!.*(\.\.|//|/$|\.lock$))[\w][\w./+=-]*")


class Refusal(Exception):
    """What a hub answers instead: an HTTP status, the word of its X-Error-Code (or none) and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class File:
    """One version of one file: where its bytes lie, and its names in Git and in Git LFS."""

    place: Path
    size: int
    sha256: str
    oid: str
    large: bool

    @property
    def etag(self) -> str:
        """What a download's ETag says, and what `preupload` compares."""
        return self.sha256 if self.large else self.oid

    def describe(self) -> dict[str, Any]:
        """As `tree` and `paths-info` answer."""
        answer: dict[str, Any] = {"oid": self.oid, "size": self.size}
        if self.large:
            answer["lfs"] = {
                "oid": self.sha256,
                "size": self.size,
                "pointerSize": len(_point_at(self.sha256, self.size)),
            }
        return answer


@dataclass(frozen=True)
class Commit:
    """`files` gives each path its SHA-256 and whether it is in LFS; none for a seed, which is read where it lies."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    seconds: float
    files: Mapping[str, tuple[str, bool]] | None


@dataclass
class Access:
    """Who may read: everybody, or for private and gated repositories the owner and `readers`."""

    private: bool = False
    gated: bool = False
    readers: list[str] = field(default_factory=list)


class Repository:
    """One model or data set, kept in `folder`; a `seed` folder is its first commit and is never written."""

    def __init__(self, folder: Path, seed: Path | None) -> None:
        self.folder, self.seed = folder, seed
        self.access = Access()
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commits: dict[str, Commit] = {}
        self.lock = threading.Lock()
        if self._state.is_file():
            state = json.loads(self._state.read_text())
            self.access = Access(**state["access"])
            self.branches, self.tags = state["branches"], state["tags"]
            self.commits = {commit["id"]: Commit(**commit) for commit in state["commits"]}
        elif seed is not None:
            self.commits[COMMIT] = Commit(COMMIT, None, "initial commit", "", "system", 1_600_000_000.0, None)
            self.branches["main"] = COMMIT

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    def save(self) -> None:
        """Write all but the contents, in one step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"access": asdict(self.access), "branches": self.branches, "tags": self.tags}
        written = self._state.with_suffix(".new")
        written.write_text(json.dumps({**state, "commits": [asdict(commit) for commit in self.commits.values()]}))
        written.replace(self._state)

    def begin(self, author: str) -> None:
        """The commit that a hub makes itself in a new repository."""
        content = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()
        self.write(
            "main", "initial commit", "", author, [("file", {"path": ".gitattributes", "content": content})], None
        )

    def resolve(self, revision: str) -> str:
        """A branch's, a tag's or a commit's hash."""
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        if found not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def read(self, commit: str) -> dict[str, File]:
        """All files of a commit."""
        files = self.commits[commit].files
        if files is not None:
            return {path: _read(self.blob(sha256), large) for path, (sha256, large) in files.items()}
        assert self.seed is not None
        places = {p.relative_to(self.seed).as_posix(): p for p in sorted(self.seed.rglob("*")) if p.is_file()}
        return {path: _read(place, is_large(path, place.stat().st_size)) for path, place in places.items()}

    def history(self, commit: str) -> Iterator[Commit]:
        """A commit and its ancestors."""
        following: str | None = commit
        while following is not None:
            yield self.commits[following]
            following = self.commits[following].parent

    def blob(self, sha256: str) -> Path:
        """Where a content lies, or would."""
        return self.folder / "blobs" / sha256

    def keep(self, pieces: Iterable[bytes], sha256: str | None = None) -> str:
        """Store a content, whole or not at all; raises Refusal where it isn't what its name says."""
        self.blob("").mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        part = self.blob(f"{threading.get_ident()}.part")
        try:
            with part.open("wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
            if sha256 not in (None, digest.hexdigest()):
                raise Refusal(400, "", "The content's SHA-256 is not the announced one.")
            part.replace(self.blob(digest.hexdigest()))
        finally:
            part.unlink(missing_ok=True)
        return digest.hexdigest()

    def write(
        self,
        branch: str,
        title: str,
        message: str,
        author: str,
        operations: Iterable[tuple[str, dict[str, Any]]],
        parent: str | None,
    ) -> Commit:
        """Add a commit to a branch, all of it or nothing."""
        with self.lock:
            head = self.branches.get(branch)
            if head is None and self.commits:
                raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {branch}")
            if parent is not None and parent != head:
                raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
            files = {} if head is None else dict(self._stored(head))
            for what, value in operations:
                self._apply(files, what, value)
            about = json.dumps([head, title, message, author, len(self.commits), sorted(files.items())])
            name = hashlib.sha1(about.encode()).hexdigest()
            self.commits[name] = Commit(name, head, title, message, author, time.time(), files)
            self.branches[branch] = name
            self.save()
            return self.commits[name]

    def _stored(self, commit: str) -> Mapping[str, tuple[str, bool]]:
        files = self.commits[commit].files
        if files is not None:
            return files
        return {p: (self.keep([file.place.read_bytes()]), file.large) for p, file in self.read(commit).items()}

    def _apply(self, files: dict[str, tuple[str, bool]], what: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if what == "file":
            files[path] = (self.keep([value["content"]]), False)
        elif what == "lfsFile":
            if not self.blob(value["oid"]).is_file():
                raise Refusal(400, "", f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = (value["oid"], True)
        else:
            gone = [p for p in files if p == path or (what == "deletedFolder" and p.startswith(path.rstrip("/") + "/"))]
            if not gone:
                raise Refusal(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
            for each in gone:
                del files[each]

    def refer(self, references: dict[str, str], name: str, revision: str, kind: str) -> None:
        """Make a branch or a tag."""
        with self.lock:
            if not _REFERENCE.fullmatch(name):
                raise Refusal(400, "", f"Invalid reference name: {name}")
            if name in references:
                raise Refusal(409, "", f"{kind} already exists: {name}")
            references[name] = self.resolve(revision)
            self.save()


def is_large(path: str, size: int) -> bool:
    """Whether a file goes to LFS, by its ending and size."""
    return path.endswith(LARGE) or size > _LARGE_BYTES


def _read(place: Path, large: bool) -> File:
    about = place.stat()
    sha256, sha1 = _digest(place, about.st_size, about.st_mtime_ns)
    pointer = _point_at(sha256, about.st_size)
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest() if large else sha1
    return File(place, about.st_size, sha256, oid, large)


@functools.lru_cache(1024)
def _digest(place: Path, size: int, changed: int) -> tuple[str, str]:
    content = place.read_bytes()
    return hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0" % size + content).hexdigest()


def _point_at(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def read_card(content: str) -> dict[str, Any]:
    """The metadata at a card's beginning; raises ValueError where it isn't a mapping in YAML."""
    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise ValueError(f"YAML Metadata Error: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("YAML Metadata Error: not a mapping")
    return values


def find_card_errors(values: Mapping[str, Any]) -> list[str]:
    """What the hub refuses in a card's metadata, as far as it says so."""
    errors = []
    lists = {key: values[key] if isinstance(values[key], list) else [values[key]] for key in values}
    if not set(map(str, lists.get("license", []))) <= _LICENCES:
        errors.append('"license" must be one of the known licences')
    if not all(isinstance(value, str) and re.fullmatch("[a-z]{2,3}", value) for value in lists.get("language", [])):
        errors.append('"language" must only contain ISO 639 codes')
    for key in ("base_model", "datasets"):
        if not all(isinstance(value, str) and _REPOSITORY.fullmatch(value) for value in lists.get(key, [])):
            errors.append(f'"{key}" with value {values[key]!r} is not valid: a repository\'s name')
    for index in lists.get("model-index", []):
        for result in index.get("results") or [{}]:
            if not {"task", "dataset", "metrics"} <= set(result):
                errors.append('"model-index[0].results[0]" needs task, dataset and metrics')
            elif not {"name", "type"} <= set(result["dataset"]):
                errors.append('"model-index[0].results[0].dataset" needs name and type')
            elif not all({"type", "value"} <= set(metric) for metric in result["metrics"]):
                errors.append('"model-index[0].results[0].metrics" need type and value')
    return errors
