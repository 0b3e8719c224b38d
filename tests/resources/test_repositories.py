"""A model from a hub has the files of one commit, and errors of the hub are one sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import COMMIT, OTHER_TOKEN, TOKEN, Hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from finetune.errors import UserError
from finetune.models.configuration import load_config
from finetune.resources.repositories import fetch_model, find_commit, is_hub_name, name_model, split_revision

FILES = ("config.json", "model.safetensors", "normalization.json", "language_model/attrs.json", ".gitattributes")
OTHERS = ("modeling.py", "adapter.deu.safetensors", "adapter.eng.safetensors", "pytorch_model.bin", "training.png")


@pytest.fixture
def api(hub: Hub) -> HfApi:
    """The client as the owner of team/model, whose files hold their names and which has the tag v1."""
    for name in (*FILES, *OTHERS):
        place = hub.folder / "models" / "team" / "model" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f'{{"model_type": "{name}"}}')
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_tag("team/model", tag="v1")
    return api


def commit(api: HfApi, **files: str) -> str:
    added = [CommitOperationAdd(name.replace("_", "."), content.encode()) for name, content in files.items()]
    return api.create_commit("team/model", added, commit_message="new").oid


def list_files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("team/model", ("team/model", None)),
        ("team/model@v1", ("team/model", "v1")),
        ("model@refs/pr/1", ("model", "refs/pr/1")),
        ("team/model@", ("team/model@", None)),
        ("/home/a@b/model@v1", ("/home/a@b/model@v1", None)),
        ("../a/b@c", ("../a/b@c", None)),
    ],
)
def test_a_name_and_its_revision(name: str, expected: tuple[str, str | None]) -> None:
    assert split_revision(name) == expected


@pytest.mark.parametrize(
    "last", ["model", "m", "_m", "-m", "m-", ".m", "a--b", "a..b", "a.b", "m.git", "m" * 97, "é", ""]
)
@pytest.mark.parametrize("first", ["", "team/", "-team/", "te--am/", "team", "/", "~/", "a/b/", "s3://"])
def test_a_name_has_the_form_that_the_hubs_client_takes(first: str, last: str) -> None:
    try:
        validate_repo_id(first + last)
        valid = True
    except HFValidationError:
        valid = False
    assert is_hub_name(first + last) is valid


def test_only_the_files_that_a_model_needs_are_downloaded(api: HfApi, hub: Hub) -> None:
    small = fetch_model("team/model", weights=False)
    assert "models/team/model/model.safetensors" not in hub.sent
    folder = fetch_model("team/model")
    assert folder == small
    assert list_files(folder) == set(FILES)
    assert name_model(folder) == f"team/model@{COMMIT[:8]}"
    with pytest.raises(UserError, match=f"team/model@{COMMIT[:8]} is neither a model folder"):
        load_config(str(folder))
    assert fetch_model(folder) == folder == fetch_model("team/model", "v1") == fetch_model(f"team/model@{COMMIT}")


def test_a_branch_may_move_and_a_tag_does_not(api: HfApi) -> None:
    old = fetch_model("team/model")
    moved = commit(api, config_json="{}")
    assert find_commit("team/model") == moved != find_commit("team/model", "v1") == COMMIT
    assert (fetch_model("team/model") / "config.json").read_text() == "{}"
    assert fetch_model("team/model@v1") == old


def test_pickled_weights_are_fetched_only_where_there_are_no_others(api: HfApi) -> None:
    api.create_commit("team/model", [CommitOperationDelete("model.safetensors")], commit_message="without")
    assert list_files(fetch_model("team/model")) == {*FILES, "pytorch_model.bin"} - {"model.safetensors"}


def test_a_path_with_an_at_sign_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "team" / "model@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert fetch_model("team/model@v1") == Path("team/model@v1")


def _make_private(hub: Hub) -> None:
    hub.restrict("team/model", private=True)


def _make_gated(hub: Hub) -> None:
    hub.restrict("team/model", gated=True)


def _leave(hub: Hub) -> None:
    return


@pytest.mark.parametrize(
    ("change", "token", "name", "words"),
    [
        (_leave, None, "team/nothing", "team/nothing is neither a model folder here nor a model on http://127.0.0.1"),
        (_leave, None, "team/model@v9", "has no revision v9: expected a commit's hash, or one of its .*main, v1"),
        (_leave, None, f"team/model@{'f' * 40}", "has no revision ffff"),
        (_leave, "hf_wrong", "team/model", "refuses the token that you are logged in with"),
        (_make_private, None, "team/model", "check the name, and for a private one log in"),
        (_make_private, OTHER_TOKEN, "team/model", "check the name, and for a private one log in"),
        (_make_private, TOKEN, "team/model", ""),
        (_make_gated, None, "team/model", "is gated: ask for access at http://127.0.0.1:.*/team/model, then log in"),
        (_make_gated, OTHER_TOKEN, "team/model", "is gated: ask for access"),
        (_make_gated, TOKEN, "team/model", ""),
        (lambda hub: hub.cut_after(0, for_good=True), None, "team/model", "127.0.0.1:.* can't be reached: check"),
        (lambda hub: hub.fail("GET", "/api/models", status=418), None, "team/model", "answers 418 for the model"),
    ],
)
def test_errors_of_the_hub_are_one_sentence(
    api: HfApi,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Hub], object],
    token: str | None,
    name: str,
    words: str,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    change(hub)
    if not words:
        assert fetch_model(name).is_dir()
        return
    with pytest.raises(UserError, match=words) as refused:
        fetch_model(name)
    assert "\n" not in str(refused.value)
    assert (token or "?") not in str(refused.value)


def test_a_data_set_that_may_not_be_read(hub: Hub) -> None:
    (hub.folder / "datasets" / "team" / "speech").mkdir(parents=True)
    assert find_commit("team/speech", kind="dataset") == COMMIT
    hub.restrict("team/speech", "datasets", gated=True)
    with pytest.raises(
        UserError, match=r"The data set team/speech is gated: ask for access at .*/datasets/team/speech"
    ):
        find_commit("team/speech", kind="dataset")
    for name in ("team/model", "team/nothing"):
        with pytest.raises(UserError, match=f"{name} is neither a folder or file here nor a data set on"):
            find_commit(name, kind="dataset")


def test_without_a_network_complete_downloads_are_used(api: HfApi, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_model("team/model", weights=False)
    hub.cut_after(0, for_good=True)
    assert fetch_model("team/model", weights=False).is_dir()
    with pytest.raises(UserError, match="can't be reached"):
        fetch_model("team/model")
    hub.mend()
    folder = fetch_model("team/model@v1")
    for change in (
        lambda: hub.cut_after(0, for_good=True),
        lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True),
    ):
        change()
        assert fetch_model("team/model") == folder == fetch_model("team/model@v1")
        with pytest.raises(UserError, match="was fetched from a hub before"):
            fetch_model("team/model@v2")
    shutil.rmtree(folder.parents[1] / "trees")
    assert fetch_model("team/model") == folder
    (folder / ".gitattributes").unlink()
    from huggingface_hub import _tree_cache

    monkeypatch.setattr(_tree_cache, "_IN_MEMORY_TREE_CACHE", {})
    with pytest.raises(UserError, match="may have more files than were fetched before"):
        fetch_model("team/model")
