"""Push a model's folder to a repository on a hub, in one commit."""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from finetune.errors import UserError
from finetune.models.relatives import RELATIVES
from finetune.publishing.connection import WAITS, hide_tokens, requests_to_hub
from finetune.publishing.model_files import CARD, ModelFile, format_size, list_model_files, list_outdated
from finetune.resources.repositories import is_hub_name

_LOGGER = logging.getLogger(__name__)

# Attempts to commit while others push to the same branch.
_ROUNDS = 5
_REFERENCE = re.compile(r"(?!refs/)(?!.*(\.\.|//|\.lock$|[/.]$))[A-Za-z0-9_][A-Za-z0-9_./+=-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Destination:
    """A repository and a branch (None: main), which are created if they are missing, and a tag for the commit.

    A new repository is private with `private`; otherwise it is public, or as its organisation decides.
    """

    repo_id: str
    revision: str | None = None
    private: bool = False
    tag: str | None = None

    @property
    def branch(self) -> str:
        """The branch's name."""
        return self.revision or constants.DEFAULT_REVISION

    def require_names(self) -> None:
        """Raise UserError unless the names are valid on a hub."""
        if not is_hub_name(self.repo_id) or "/" not in self.repo_id:
            raise UserError(
                f"'{self.repo_id}' can't be a repository's name: expected USER/NAME, of letters, digits, -, _ and . "
                "(not first or last, nor two of - or . together), at most 96 characters."
            )
        for option, name in (("--revision", self.revision), ("--tag", self.tag)):
            if name is not None and (not _REFERENCE.fullmatch(name) or _COMMIT.fullmatch(name)):
                raise UserError(
                    f"{option} '{name}' can't be a name in Git: expected one such as v1.0 or experiments/dropout."
                )


@dataclass(frozen=True)
class _Repository:
    """The state of a repository: a branch's head (main's if it is missing), its files, and the commits of tags."""

    exists: bool
    head: str | None
    files: Mapping[str, RepoFile]
    tags: Mapping[str, str]
    has_branch: bool = False


@dataclass(frozen=True)
class _Changes:
    """The changes of a commit."""

    sent: tuple[ModelFile, ...]
    removed: tuple[str, ...]


class Push:
    """The push of a model's folder to a repository."""

    def __init__(self, folder: Path, destination: Destination, waits: Sequence[float] = WAITS) -> None:
        """Raises UserError for invalid names and for a folder that cannot be published; uses no network."""
        destination.require_names()
        self.files, self.left_out = list_model_files(folder)
        self.folder, self.destination, self.waits = folder, destination, waits
        self.api = HfApi(endpoint=constants.ENDPOINT)

    def check(self) -> list[str]:
        """What a push would do, as lines of text; nothing is written.

        Raises UserError for problems that can be known before: token, permission, another kind of model, a tag.
        """
        repo_id, branch = self.destination.repo_id, self.destination.branch
        with self._asking():
            permission = self._require_permission()
            there = self._look()
            self._require_same_kind(there)
            warned = self._require_valid_card()
            changes = self._compare(there)
            self._require_free_tag(there, changes)
        new = "" if there.has_branch else f", where the branch {branch} will be created"
        if not there.exists:
            new = f", which will be created{', private' if self.destination.private else ''}"
        lines = [f"repository: {repo_id} on {constants.ENDPOINT}, branch {branch}{new}", permission]
        lines += [f"to send: {file.name} ({format_size(file.size)})" for file in changes.sent]
        same = len(self.files) - len(changes.sent)
        lines += [f"there already: {same} of {len(self.files)} files"] if same else []
        lines += [f"to be removed there: {name}" for name in changes.removed]
        lines += [f"not part of the model, not sent: {name}" for name in self.left_out]
        return [*lines, *warned]

    def send(self, message: str) -> str:
        """Commit everything at once; returns the commit's URL. Raises UserError and leaves the repository unchanged.

        A commit is only created on top of the head that was read. After another commit, or a lost answer to ours, the
        head is read again: our commit is recognised by its files.
        """
        repo_id, branch = self.destination.repo_id, self.destination.branch
        with self._asking():
            for _ in range(_ROUNDS):
                there = self._create_missing(self._look())
                changes = self._compare(there)
                self._require_free_tag(there, changes)
                if not changes.sent and not changes.removed:
                    _LOGGER.info(f"{repo_id} has this model already: nothing to send")
                    assert there.head is not None
                    commit = there.head
                    break
                try:
                    commit = self._commit(there, changes, message)
                    break
                except HfHubHTTPError as error:
                    if error.response.status_code not in (409, 412):
                        raise
                    _LOGGER.info(f"{branch} of {repo_id} has a new commit: reading it again")
            else:
                raise UserError(f"Others push to {branch} of {repo_id} all the time: push again when they are done.")
        url = f"{constants.ENDPOINT}/{repo_id}/commit/{commit}"
        if self.destination.tag is not None:
            try:
                with self._asking():
                    self._tag(self.destination.tag, commit)
            except UserError as error:
                raise UserError(f"The model is on the hub ({url}), but without the tag. {error}") from error
        return url

    def _asking(self) -> AbstractContextManager[None]:
        return requests_to_hub(self.destination.repo_id, self.waits)

    def _require_permission(self) -> str:
        """The token's owner as a line; raises UserError if the hub says that the token cannot write there."""
        repo_id = self.destination.repo_id
        about = self.api.whoami()
        role = about.get("auth", {}).get("accessToken", {}).get("role")
        endpoint = constants.ENDPOINT
        if role == "read":
            raise UserError(f"This token may only read: make one with write access at {endpoint}/settings/tokens.")
        if there := self._find("model"):
            if self.destination.private and there.private is False:
                raise UserError(
                    f"{repo_id} exists and is public: make it private on the hub, or push without --private."
                )
            try:
                self.api.auth_check(repo_id, write=True)
            except HfHubHTTPError as error:
                if error.response.status_code != 404:  # A hub without this check.
                    raise
            return f"token: of {about['name']}, may write there"
        for kind in ("dataset", "space"):
            if self._find(kind):
                raise UserError(f"{repo_id} is a {kind} on {endpoint}, and no model: choose another name.")
        namespaces = [about["name"], *(each["name"] for each in about.get("orgs", ()))]
        if repo_id.split("/")[0] not in namespaces:
            raise UserError(
                f"This token may not write to {repo_id}: it is of {about['name']}, whose repositories are named "
                f"{' or '.join(f'{name}/…' for name in namespaces)}."
            )
        knows = "may write there"
        if role != "write":
            knows = "whether it may create the repository is only known when it is created"
        return f"token: of {about['name']}, {knows}"

    def _find(self, kind: str) -> Any:
        """The hub's information on a repository of a kind with this name, or None."""
        try:
            return self.api.repo_info(self.destination.repo_id, repo_type=kind)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            return None

    def _look(self) -> _Repository:
        """The current state of the repository."""
        repo_id, branch = self.destination.repo_id, self.destination.branch
        try:
            references = self.api.list_repo_refs(repo_id)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            return _Repository(False, None, {}, {})
        heads = {each.name: each.target_commit for each in references.branches}
        head = heads.get(branch, heads.get(constants.DEFAULT_REVISION))  # The start of a new branch.
        entries = self.api.list_repo_tree(repo_id, recursive=True, revision=head) if head else ()
        files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        tags = {each.name: each.target_commit for each in references.tags}
        return _Repository(True, head, files, tags, branch in heads)

    def _compare(self, there: _Repository) -> _Changes:
        sent = tuple(file for file in self.files if not file.is_in(there.files.get(file.name)))
        return _Changes(sent, tuple(list_outdated(list(there.files), self.files)))

    def _create_missing(self, there: _Repository) -> _Repository:
        """The repository and its branch, created if they are missing."""
        repo_id = self.destination.repo_id
        if not there.exists:
            self.api.create_repo(repo_id, private=self.destination.private or None, exist_ok=True)
            there = self._look()
        if not there.has_branch and there.head:
            self.api.create_branch(repo_id, branch=self.destination.branch, revision=there.head, exist_ok=True)
            there = self._look()
        return there

    def _commit(self, there: _Repository, changes: _Changes, message: str) -> str:
        """The new commit's hash."""
        repo_id, branch = self.destination.repo_id, self.destination.branch
        additions = [CommitOperationAdd(file.name, file.path) for file in changes.sent]
        for file, addition in zip(changes.sent, additions, strict=True):
            addition.upload_info.sha256 = bytes.fromhex(file.sha256)  # Computed already.
        self._choose_transfer()
        # Separately, as only this call can ignore a .gitignore in the repository that would skip parts of a model.
        self.api.preupload_lfs_files(
            repo_id, additions, revision=branch, free_memory=False, gitignore_content="# nothing\n"
        )
        deletions = [CommitOperationDelete(name) for name in changes.removed]
        with warnings.catch_warnings(action="ignore"):  # Warnings about the card were reported by `check`.
            done = self.api.create_commit(
                repo_id, [*additions, *deletions], commit_message=message, revision=branch, parent_commit=there.head
            )
        return done.oid

    def _choose_transfer(self) -> None:
        """Use Git LFS for a hub without Xet, which `huggingface_hub` requires by default."""
        if not constants.HF_HUB_DISABLE_XET:
            branch = quote(self.destination.branch, safe="")
            address = f"{constants.ENDPOINT}/api/models/{self.destination.repo_id}/xet-write-token/{branch}"
            constants.HF_HUB_DISABLE_XET = get_session().get(address, headers=build_hf_headers()).status_code == 404

    def _require_same_kind(self, there: _Repository) -> None:
        """Raise UserError if the repository has another kind of model."""
        if "config.json" not in there.files:
            return
        repo_id = self.destination.repo_id
        address = f"{constants.ENDPOINT}/{repo_id}/resolve/{there.head}/config.json"
        answer = get_session().get(address, headers=build_hf_headers())
        hf_raise_for_status(answer)
        try:
            kind = answer.json().get("model_type")
        except (ValueError, AttributeError):
            kind = "damaged"
        if kind not in RELATIVES:
            raise UserError(f"{repo_id} has another kind of model ({kind}): choose another name.")

    def _require_valid_card(self) -> list[str]:
        """The hub's warnings about the card; raises UserError if the hub does not accept it."""
        card = self.folder / CARD
        if not card.is_file():
            return []
        values = {"content": card.read_text(encoding="utf-8"), "repoType": "model"}
        answer = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=values, headers=build_hf_headers())
        if answer.status_code == 404:  # A hub without this check.
            return []
        found = answer.json()
        if errors := [hide_tokens(each["message"]) for each in found.get("errors", ())]:
            raise UserError(f"The hub does not accept the metadata of {card}: {'; '.join(errors)}.")
        return [f"note: {CARD}: {hide_tokens(each['message'])}" for each in found.get("warnings", ())]

    def _require_free_tag(self, there: _Repository, changes: _Changes) -> None:
        """Raise UserError if the tag is on another commit."""
        known = there.tags.get(self.destination.tag or "")
        if known is not None and (changes.sent or changes.removed or known != there.head):
            raise self._tag_taken(known)

    def _tag(self, tag: str, commit: str) -> None:
        """Put the tag on a commit, if it is not there already."""
        repo_id = self.destination.repo_id
        try:
            self.api.create_tag(repo_id, tag=tag, revision=commit)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            known = next((each.target_commit for each in self.api.list_repo_refs(repo_id).tags if each.name == tag), "")
            if known != commit:
                raise self._tag_taken(known) from error

    def _tag_taken(self, commit: str) -> UserError:
        return UserError(
            f"{self.destination.repo_id} has a tag {self.destination.tag} on another commit ({commit[:8]}): choose "
            "another name for this one, as tags don't move."
        )


def push_folder(folder: Path, destination: Destination, message: str, *, waits: Sequence[float] = WAITS) -> str:
    """Commit all files of a model's folder at once; returns the commit's URL. Raises UserError.

    `waits` are the seconds before each retry of a failed request.
    """
    push = Push(folder, destination, waits)
    push.check()
    return push.send(message)
