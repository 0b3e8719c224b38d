"""Repositories on a hub: finding the commit of a revision, and downloading a model at that commit."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from finetune.errors import UserError

# As `huggingface_hub.utils.validate_repo_id` has it.
_NAME = re.compile(r"(?!.*(--|\.\.|\.git$))(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII)
_CACHED = re.compile(r".*/models--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})")

# Files that a model needs beside its weights: configuration, tokenizer, normalisation and so on; the decoder. No code.
_SMALL = ["*.json", ".gitattributes"]
_DECODER = ["language_model/*", "language_model.safetensors"]
# Without adapter.LANGUAGE.safetensors: MMS models have more than a thousand of them.
_WEIGHTS = ["model.safetensors", "model-*.safetensors", "adapter_model.safetensors"]
_PICKLED_WEIGHTS = ["pytorch_model.bin", "pytorch_model-*.bin"]


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of a repository name: NAME or USER/NAME."""
    return _NAME.fullmatch(name) is not None


def is_on_hub(place: str) -> bool:
    """Whether a name is that of a repository on a hub: it has the form, and there is no such local path."""
    return is_hub_name(place) and not Path(place).exists()  # A local path has precedence when it is loaded.


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `USER/NAME@REVISION`; other names, such as a path with an @, have no revision."""
    repository, _, revision = name.partition("@")
    return (repository, revision) if revision and is_hub_name(repository) else (name, None)


def find_commit(name: str, revision: str | None = None, kind: Literal["model", "dataset"] = "model") -> str:
    """The hash of the current commit of a revision: a branch, a tag or a hash; None is the newest on main.

    If the hub can't be reached it is the commit of the last download. Raises UserError if there is no such repository
    or revision, or no permission to read it.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download

    with reporting(name, revision, kind):
        commit = str(HfApi().resolve_revision(name, revision=revision, repo_type=kind).resolved)
        # The commits of a gated repository are public, its files are not.
        if kind == "model":
            with suppress(errors.RemoteEntryNotFoundError):
                hf_hub_download(name, "config.json", revision=commit)
        else:
            try:
                HfApi().auth_check(name, repo_type=kind)
            except _unreachable(errors.HfHubHTTPError) as error:
                if isinstance(error, errors.GatedRepoError):  # Otherwise an earlier download is used.
                    raise
    return commit


def fetch_model(name: str | Path, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of a model: a local folder, or a download of USER/NAME or USER/NAME@REVISION.

    All files are of one commit: weights, processor, normalisation, preprocessing, decoder. Without `weights` only small
    files are downloaded. Raises UserError as `find_commit` does, and if there is no such folder.
    """
    if Path(name).is_dir():
        return Path(name)
    name, named = split_revision(str(name))
    revision = revision or named
    if not is_hub_name(name):
        raise UserError(f"There is no model at {name}: expected a folder with a config.json, or a name on a hub.")
    commit = find_commit(name, revision)
    folder = _download(name, commit, [*_SMALL, *(_WEIGHTS + _DECODER if weights else [])])
    if weights and not any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        _download(name, commit, _PICKLED_WEIGHTS)
    return folder


def fetch_more(folder: Path, name: str) -> Path | None:
    """Another file of a model, which is downloaded if the model is from a hub; None if there is no such file."""
    found = _CACHED.fullmatch(str(folder))
    if (folder / name).is_file() or not found:
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import errors, hf_hub_download

    repository, commit = found["name"].replace("--", "/"), found["commit"]
    try:
        with reporting(repository, commit):
            return Path(hf_hub_download(repository, name, revision=commit))
    except errors.EntryNotFoundError:
        return None


def name_model(model: str | Path) -> str:
    """The name of a model for messages: its folder, or for a download the repository and the commit."""
    found = _CACHED.fullmatch(str(model))
    return f"{found['name'].replace('--', '/')}@{found['commit'][:8]}" if found else str(model)


@contextmanager
def reporting(name: str, revision: str | None = None, kind: str = "model") -> Iterator[None]:
    """Raise errors of a hub, and failures to reach it, as UserError with the action to take."""
    from huggingface_hub import constants, errors

    hub, noun, place = constants.ENDPOINT, "model", "a model folder here"
    if kind == "dataset":
        noun, place = "data set", "a folder or file here"
    log_in = "log in (hf auth login, or a token in HF_TOKEN)"
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"{hub}/{name}" if kind == "model" else f"{hub}/datasets/{name}"
        raise UserError(
            f"The {noun} {name} is gated: ask for access at {page}, then {log_in} as a user with access."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name} is neither {place} nor a {noun} on {hub} that you may read: check the name, and for a private one "
            f"{log_in}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"The {noun} {name} has no revision {revision}: {_list_revisions(name, kind)}.") from error
    except _unreachable() as error:
        offline = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{hub} can't be reached"
        raise UserError(
            f"{name} is neither {place} nor a {noun} that was fetched from a hub before, and {offline}: check the "
            "name, or try again with a network."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise UserError(f"{hub} refuses the token that you are logged in with: {log_in} again.") from error
        reason = error.server_message or type(error).__name__
        raise UserError(f"{hub} answers {status} for the {noun} {name}: {reason.splitlines()[0]}") from error
    except errors.HFValidationError as error:
        raise UserError(f"{name} is no name on a hub: {str(error).splitlines()[0]}") from error


def _unreachable(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """The exceptions of the client without an answer, and `others`."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2, by its version.

    found = (errors.RevisionResolutionError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    return (*others, *found, httpx.TransportError)


def _download(name: str, commit: str, patterns: list[str]) -> Path:
    """Download the files of a commit that match patterns; raises UserError if it is unknown whether all are there."""
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    with reporting(name, commit):
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=patterns))
    try:
        get_cached_repo_tree(name, revision=commit)
    except errors.CachedRepoTreeNotFoundError as error:
        # Downloads by other programs leave no list of files; this file is there only if they downloaded everything.
        if not (folder / ".gitattributes").exists():
            raise UserError(
                f"{name} may have more files than were fetched before, and the hub can't be reached to see: "
                f"fetch all of it where it can (hf download {name})."
            ) from error
    return folder


def _list_revisions(name: str, kind: str) -> str:
    from huggingface_hub import HfApi, errors

    try:
        found = HfApi().list_repo_refs(name, repo_type=kind)
    except _unreachable(errors.HfHubHTTPError):
        return "expected a branch, a tag or a commit's hash"
    names = [reference.name for reference in (*found.branches, *found.tags)]
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return f"expected a commit's hash, or one of its branches and tags ({shown})"
