"""The tests' hub, checked with `huggingface_hub`, since all tests of publishing depend on it."""

import time
import warnings
from pathlib import Path

import httpx2
import pytest
from hub import COMMIT, OTHER_TOKEN, READ_TOKEN, TOKEN, Account, Hub, serve
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

NAME = "team/model"
WEIGHTS = bytes(range(256)) * 4000  # 1 MB, which goes to LFS by its name.
CARD = "---\nlicense: apache-2.0\nlanguage: en\npipeline_tag: automatic-speech-recognition\n---\n# A model\n"


@pytest.fixture
def api(hub: Hub) -> HfApi:
    """The client with the token of the owner of NAME, which exists."""
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo(NAME)
    return api


def add(**files: bytes) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(name.replace("_", "."), content) for name, content in files.items()]


def read(api: HfApi, path: str, tmp_path: Path, revision: str | None = None) -> bytes:
    place = api.hf_hub_download(NAME, path, revision=revision, cache_dir=tmp_path / "cache")
    return Path(place).read_bytes()


def uploads(hub: Hub) -> list[int]:
    return [status for method, _, status in hub.requests if method == "PUT"]


def test_a_folder_is_one_commit_and_old_commits_are_kept(api: HfApi, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "sub" / "words.txt").write_text("one")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    first = api.upload_folder(folder_path=folder, repo_id=NAME, commit_message="first")
    second = api.create_commit(
        NAME, [*add(model_safetensors=WEIGHTS[::-1]), CommitOperationDelete("sub/")], commit_message="second"
    )
    assert sorted(api.list_repo_files(NAME)) == [".gitattributes", "README.md", "model.safetensors"]
    assert read(api, "model.safetensors", tmp_path, first.oid) == WEIGHTS
    assert read(api, "model.safetensors", tmp_path) == WEIGHTS[::-1]
    assert read(api, "sub/words.txt", tmp_path, first.oid) == b"one"
    with pytest.raises(RemoteEntryNotFoundError):
        read(api, "sub/words.txt", tmp_path)
    assert [commit.title for commit in api.list_repo_commits(NAME)] == ["second", "first", "initial commit"]
    info = api.model_info(NAME, files_metadata=True)
    assert (info.sha, info.pipeline_tag, info.card_data.language) == (second.oid, "automatic-speech-recognition", "en")
    assert {file.rfilename: file.size for file in info.siblings}["model.safetensors"] == len(WEIGHTS)
    tree = {entry.path: entry for entry in api.list_repo_tree(NAME, revision=first.oid, recursive=True)}
    assert {"sub", "sub/words.txt"} < set(tree)
    assert tree["model.safetensors"].lfs.size == len(WEIGHTS)


def test_existing_files_are_not_sent_again(api: HfApi, hub: Hub) -> None:
    first = api.create_commit(NAME, add(a_safetensors=WEIGHTS, c_json=b"{}"), commit_message="first")
    assert uploads(hub) == [200]
    assert api.create_commit(NAME, add(a_safetensors=WEIGHTS, c_json=b"{}"), commit_message="same").oid == first.oid
    api.create_commit(NAME, add(b_safetensors=WEIGHTS), commit_message="other name")
    assert uploads(hub) == [200]


def test_multipart_uploads(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.part_bytes = 300_000
    api.create_commit(NAME, add(a_safetensors=WEIGHTS), commit_message="large")
    assert uploads(hub) == [200] * 4
    assert read(api, "a.safetensors", tmp_path) == WEIGHTS


def test_branches_tags_and_parents(api: HfApi, tmp_path: Path) -> None:
    first = api.create_commit(NAME, add(c_json=b"1"), commit_message="first")
    api.create_branch(NAME, branch="training/step-1")
    api.create_tag(NAME, tag="v1")
    later = api.create_commit(NAME, add(c_json=b"2"), commit_message="later", revision="training/step-1")
    refs = api.list_repo_refs(NAME)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first.oid, "training/step-1": later.oid}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first.oid}
    assert [read(api, "c.json", tmp_path, r) for r in ("v1", "training/step-1", later.oid)] == [b"1", b"2", b"2"]
    for again in (lambda: api.create_branch(NAME, branch="training/step-1"), lambda: api.create_tag(NAME, tag="v1")):
        with pytest.raises(HfHubHTTPError) as refused:
            again()
        assert refused.value.response.status_code == 409
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_commit(NAME, add(c_json=b"3"), commit_message="late", parent_commit=COMMIT)
    assert refused.value.response.status_code == 412
    for unknown in ("nowhere", "f" * 40):
        with pytest.raises(RevisionNotFoundError):
            read(api, "c.json", tmp_path, unknown)
        with pytest.raises(RevisionNotFoundError):
            api.create_commit(NAME, add(c_json=b"3"), commit_message="nowhere", revision=unknown)
    api.delete_branch(NAME, branch="training/step-1")
    assert [ref.name for ref in api.list_repo_refs(NAME).branches] == ["main"]


def test_permissions(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    api.create_repo(NAME, exist_ok=True)
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo(NAME)
    assert refused.value.response.status_code == 409
    assert api.whoami()["name"] == "team"
    api.create_repo("team/private", private=True)
    reading, other, wrong, nobody = READ_TOKEN, OTHER_TOKEN, "hf_" + "x" * 34, False
    assert api.model_info("team/private", token=reading).private
    for token in (other, nobody):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("team/private", token=token)
    hub.restrict("team/private", private=True, readers=("other",))
    assert api.repo_exists("team/private", token=other)
    statuses = []
    for token in (reading, other, wrong, nobody):
        with pytest.raises(HfHubHTTPError) as refused:
            api.create_commit(NAME, add(c_json=b"1"), commit_message="mine", token=token)
        statuses.append(refused.value.response.status_code)
        with pytest.raises(HfHubHTTPError) as refused:
            api.create_repo("team/new", token=token)
        assert refused.value.response.status_code == statuses[-1]
    assert statuses == [403, 403, 401, 401]
    hub.restrict(NAME, gated=True)
    assert api.model_info(NAME, token=False).gated == "auto"
    for token in (other, nobody):
        with pytest.raises(GatedRepoError):
            api.hf_hub_download(NAME, ".gitattributes", token=token, cache_dir=tmp_path / "cache")
    assert read(api, ".gitattributes", tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("team/nothing")
    hub.accounts[OTHER_TOKEN] = Account("other", organizations=("team",))
    api.create_repo("team/shared", token=other)


def test_a_folder_is_served_as_a_repository(hub: Hub, tmp_path: Path) -> None:
    seed = hub.folder / "models" / "team" / "base"
    seed.mkdir(parents=True)
    (seed / "config.json").write_text("old")
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    assert api.model_info("team/base").sha == COMMIT
    new = api.create_commit("team/base", add(config_json=b"new"), commit_message="new")
    assert (seed / "config.json").read_text() == "old"
    for revision, content in ((COMMIT, "old"), (new.oid, "new"), (None, "new")):
        found = api.hf_hub_download("team/base", "config.json", revision=revision, cache_dir=tmp_path / "cache")
        assert Path(found).read_text() == content
    with serve(hub.folder) as restarted:
        assert HfApi(endpoint=restarted.endpoint).model_info("team/base").sha == new.oid


def test_cards_are_checked(api: HfApi) -> None:
    for wrong, word in (("license: mine", "license"), ("language: English", "language"), ("a: [", "YAML")):
        with pytest.raises(ValueError, match=word):
            api.create_commit(NAME, add(README_md=f"---\n{wrong}\n---\n".encode()), commit_message="card")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        api.create_commit(NAME, add(README_md=b"nothing"), commit_message="card")
    assert "empty or missing yaml metadata" in str(said[0].message)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 413])
def test_it_refuses_with_a_given_status(api: HfApi, hub: Hub, status: int) -> None:
    rule = hub.fail("POST", f"{NAME}/commit/", status=status, message="for a reason")
    with pytest.raises(HfHubHTTPError, match="for a reason") as refused:
        api.create_commit(NAME, add(c_json=b"1"), commit_message="c")
    assert refused.value.response.status_code == status
    api.create_commit(NAME, add(c_json=b"1"), commit_message="c")
    assert rule.hits == 1


def test_the_client_retries_if_the_hub_is_busy(api: HfApi, hub: Hub) -> None:
    hub.fail("POST", "/preupload/", status=429, headers={"Retry-After": "1"})
    hub.fail("POST", "/objects/batch", status=500, times=2)
    hub.fail("PUT", "/lfs/", drop_after_bytes=500_000)
    api.create_commit(NAME, add(a_safetensors=WEIGHTS), commit_message="c")
    assert [s for _, path, s in hub.requests if "/preupload/" in path] == [429, 200]
    assert [s for _, path, s in hub.requests if path.endswith("/batch")] == [500, 500, 200]
    assert uploads(hub) == [0, 200]


def test_a_commit_whose_answer_is_lost_is_done(api: HfApi, hub: Hub) -> None:
    for when, done in (("before", False), ("after", True)):
        hub.fail("POST", "/commit/", drop=when)
        with pytest.raises(httpx2.TransportError):
            api.create_commit(NAME, add(c_json=when.encode()), commit_message=when)
        assert (api.list_repo_commits(NAME)[0].title == when) == done


def test_the_connection_is_cut_at_any_byte(api: HfApi, hub: Hub) -> None:
    before = hub.traffic
    api.create_commit(NAME, add(a_safetensors=WEIGHTS), commit_message="0")
    whole = hub.traffic - before
    assert whole > len(WEIGHTS)
    for i, share in enumerate((0.0, 0.01, 0.5, 0.99), start=1):
        hub.cut_after(int(whole * share), for_good=True)
        with pytest.raises((httpx2.TransportError, RuntimeError)):
            api.create_commit(NAME, add(a_safetensors=WEIGHTS + bytes([i])), commit_message=str(i))
        hub.mend()
        assert api.list_repo_commits(NAME)[0].title == "0"


def test_a_slow_connection(hub: Hub) -> None:
    hub.bytes_per_second = 20_000
    began = time.monotonic()
    httpx2.post(f"{hub.endpoint}/nothing", content=bytes(10_000))
    assert 0.4 < time.monotonic() - began < 5
