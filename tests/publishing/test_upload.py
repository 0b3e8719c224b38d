"""Pushing a folder to a repository: atomic with any failure of the network, and only files of a model."""

import email.utils
import hashlib
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import COMMIT, OTHER_TOKEN, READ_TOKEN, TOKEN, Account, Hub
from huggingface_hub import CommitOperationAdd, HfApi, constants
from programs import started

from finetune.errors import UserError
from finetune.publishing.upload import Destination, push_folder

NAME = "team/model"
AT_ONCE = (0.0, 0.0, 0.0)
CARD = "---\nlicense: apache-2.0\nlanguage: en\npipeline_tag: automatic-speech-recognition\n---\n# Version {version}\n"


@pytest.fixture(autouse=True)
def _client(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


def write_model(folder: Path, version: int, shards: int = 2) -> Path:
    """A stand-in for a model, with different content in every file of each version."""
    folder.mkdir(parents=True)
    rng = random.Random(version)
    for shard in range(1, shards + 1):
        (folder / f"model-{shard:05d}-of-{shards:05d}.safetensors").write_bytes(rng.randbytes(20_000))
    (folder / "config.json").write_text(json.dumps({"model_type": "wav2vec2", "version": version}))
    (folder / "vocab.json").write_text(json.dumps({"a": version}))
    (folder / "recipe.yaml").write_text(f"# {version}\n")
    (folder / "README.md").write_text(CARD.format(version=version))
    (folder / "language_model").mkdir()
    (folder / "language_model" / "unigrams.txt").write_text(f"word{version}\n")
    return folder


def contents(folder: Path) -> dict[str, str]:
    places = {place.relative_to(folder).as_posix(): place for place in folder.rglob("*") if place.is_file()}
    return {name: hashlib.sha256(place.read_bytes()).hexdigest() for name, place in places.items()}


def published(hub: Hub, branch: str = "main") -> list[dict[str, str]]:
    """The files of each commit of a branch, the newest first."""
    repository = hub.find(NAME)
    assert repository
    commits = repository.history(repository.branches[branch])
    found = [{name: file.sha256 for name, file in repository.read(commit.id).items()} for commit in commits]
    return [{name: digest for name, digest in files.items() if name != ".gitattributes"} for files in found]


def push(folder: Path, repo_id: str = NAME, waits: tuple[float, ...] = AT_ONCE, **where: object) -> str:
    destination = Destination(repo_id, **where)  # type: ignore[arg-type]
    return push_folder(folder, destination, "A model", waits=waits)


def refusal(folder: Path, repo_id: str = NAME, waits: tuple[float, ...] = AT_ONCE, **where: object) -> str:
    with pytest.raises(UserError) as caught:
        push(folder, repo_id, waits, **where)
    return str(caught.value)


def sent(hub: Hub, status: int = 200) -> list[str]:
    """The names, by content, of the received files."""
    return [path.split("/")[-1] for method, path, code in hub.requests if method == "PUT" and code == status]


def wrote(hub: Hub) -> list[str]:
    """The requests that could have changed something."""
    quiet = ("/api/validate-yaml", "/preupload/")
    return [path for method, path, _ in hub.requests if method != "GET" and not any(part in path for part in quiet)]


def test_one_commit_has_all_new_files_and_no_old_ones(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    url = push(write_model(tmp_path / "1", 1, shards=3))
    assert published(hub) == [contents(tmp_path / "1"), {}]
    theirs = [CommitOperationAdd(name, b"theirs") for name in ("notes.txt", "pictures/a.png", "pytorch_model.bin")]
    api.create_commit(NAME, theirs, commit_message="by hand")
    second = push(write_model(tmp_path / "2", 2))
    assert url != second
    assert second == f"{hub.endpoint}/{NAME}/commit/{api.model_info(NAME).sha}"
    newest, _, *before = published(hub)
    # What somebody put there stays, but for weights that could be loaded in place of ours.
    kept = {name: newest.pop(name) for name in ("notes.txt", "pictures/a.png")}
    assert kept and newest == contents(tmp_path / "2")
    assert before == [contents(tmp_path / "1"), {}]
    assert api.list_repo_commits(NAME)[0].title == "A model"


def test_existing_files_are_not_sent_again(hub: Hub, tmp_path: Path, logged: list[str]) -> None:
    url = push(write_model(tmp_path / "1", 1))
    assert len(sent(hub)) == 2
    again = push(tmp_path / "1")
    assert (again, len(published(hub)), len(sent(hub))) == (url, 2, 2)
    assert logged == [f"{NAME} has this model already: nothing to send"]
    (tmp_path / "1" / "model-00001-of-00002.safetensors").write_bytes(b"other")
    (tmp_path / "1" / "language_model" / "unigrams.txt").unlink()
    push(tmp_path / "1")
    assert published(hub)[0] == contents(tmp_path / "1")
    assert len(sent(hub)) == 3


@pytest.mark.long
@pytest.mark.parametrize("for_good", [False, True])
def test_a_repository_has_the_old_or_the_new_commit_wherever_the_connection_is_cut(
    for_good: bool, hub: Hub, tmp_path: Path
) -> None:
    """25 cuts after which the push continues, and 25 after which the hub stays unreachable."""
    push(write_model(tmp_path / "0", 0))
    before = hub.traffic
    push(write_model(tmp_path / "1", 1))
    whole = hub.traffic - before
    versions = [contents(tmp_path / name) for name in ("0", "1")]
    rng = random.Random(for_good)
    failed = 0
    for version in range(2, 27):
        folder = write_model(tmp_path / str(version), version)
        versions.append(contents(folder))
        hub.cut_after(rng.randrange(whole), for_good)
        try:
            push(folder)
        except UserError as error:
            assert for_good, error
            failed += 1
            assert published(hub)[0] in versions[-2:]
            hub.mend()
            push(folder)
        # Each commit that ever was at the head of the branch is one version, each once.
        assert published(hub) == [*reversed(versions), {}]
    assert failed > 15 if for_good else failed == 0


def test_a_commit_whose_answer_was_lost_is_not_repeated(hub: Hub, tmp_path: Path, logged: list[str]) -> None:
    push(write_model(tmp_path / "1", 1))
    hub.fail("POST", "/commit/", drop="after")
    url = push(write_model(tmp_path / "2", 2))
    assert published(hub) == [contents(tmp_path / "2"), contents(tmp_path / "1"), {}]
    assert url.endswith(HfApi(endpoint=hub.endpoint, token=TOKEN).model_info(NAME).sha or "?")
    assert [line.split(" (")[0] for line in logged] == [
        "the hub can't be reached",
        f"main of {NAME} has a new commit: reading it again",
        f"{NAME} has this model already: nothing to send",
    ]


def test_concurrent_pushes_do_not_mix(hub: Hub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other push commits between this one's read and commit, and has an additional file."""
    push(write_model(tmp_path / "1", 1))
    write_model(tmp_path / "2", 2, shards=3)
    create, calls = HfApi.create_commit, []

    def interfere(self: HfApi, *arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            push(tmp_path / "2")
        return create(self, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(HfApi, "create_commit", interfere)
    push(write_model(tmp_path / "3", 3))
    assert published(hub) == [contents(tmp_path / name) for name in "321"] + [{}]


@pytest.mark.parametrize("status", [409, 412])
def test_a_changed_branch_is_read_again_a_limited_number_of_times(
    status: int, hub: Hub, tmp_path: Path, logged: list[str]
) -> None:
    hub.fail("POST", "/commit/", status=status)
    push(write_model(tmp_path / "1", 1))
    assert logged == [f"main of {NAME} has a new commit: reading it again"]
    assert published(hub) == [contents(tmp_path / "1"), {}]
    rule = hub.fail("POST", "/commit/", status=status, times=None)
    assert "Others push to main" in refusal(write_model(tmp_path / "2", 2))
    assert rule.hits == 5
    assert published(hub) == [contents(tmp_path / "1"), {}]


def test_a_refused_part_of_a_multipart_upload_is_sent_again(hub: Hub, tmp_path: Path) -> None:
    hub.part_bytes = 8_000
    hub.fail("PUT", "/2$", status=500)
    push(write_model(tmp_path / "1", 1, shards=1))
    assert sorted(sent(hub)) == ["1", "2", "3"]
    assert published(hub) == [contents(tmp_path / "1"), {}]


def test_a_hub_without_xet_and_a_gitignore_in_the_repository(
    hub: Hub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    api.create_repo(NAME)
    api.create_commit(NAME, [CommitOperationAdd(".gitignore", b"*.safetensors\n")], commit_message="by hand")
    push(write_model(tmp_path / "1", 1))
    newest = published(hub)[0]
    del newest[".gitignore"]
    assert newest == contents(tmp_path / "1")


@pytest.mark.long
def test_after_a_kill_the_next_push_sends_the_missing_files(hub: Hub, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "1", 1)
    (folder / "model-00002-of-00002.safetensors").write_bytes(random.Random(0).randbytes(400_000))
    program = (
        "import sys; from pathlib import Path; from finetune.publishing.upload import Destination, push_folder\n"
        "push_folder(Path(sys.argv[1]), Destination(sys.argv[2]), 'A model')"
    )
    variables = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    hub.bytes_per_second = 200_000
    with started([sys.executable, "-c", program, folder, NAME], HF_TOKEN=TOKEN, **variables) as running:
        running.wait_for(lambda: len(sent(hub)) == 1, 60)
        running.signal_all(signal.SIGKILL)
        running.process.wait()
    assert published(hub) == [{}]
    hub.mend()
    push(folder)
    first, second = (contents(folder)[f"model-0000{number}-of-00002.safetensors"] for number in (1, 2))
    assert sent(hub) == [first, second]
    assert published(hub) == [contents(folder), {}]


@pytest.mark.parametrize("refused", [("POST", "/commit/"), ("PUT", "/lfs/"), ("GET", "/whoami"), ("POST", "/create")])
def test_requests_to_a_busy_hub_are_retried(
    refused: tuple[str, str], hub: Hub, tmp_path: Path, logged: list[str]
) -> None:
    rule = hub.fail(*refused, status=503, times=2)
    push(write_model(tmp_path / "1", 1, shards=1))
    assert rule.hits == 3 - 1
    assert [line.partition(";")[0] for line in logged] == ["the hub answers 503"] * 2
    assert published(hub) == [contents(tmp_path / "1"), {}]


def test_retries_are_limited(hub: Hub, tmp_path: Path) -> None:
    rule = hub.fail("PUT", "/lfs/", status=500, times=None)
    told = refusal(write_model(tmp_path / "1", 1, shards=1))
    assert "answers 500; tried 4 times" in told
    assert "run the same command" in told
    assert rule.hits == 4  # Those of `huggingface_hub` did not begin over it.
    hub.mend()
    push(tmp_path / "1")


@pytest.mark.parametrize("form", ["seconds", "date", "limits"])
def test_the_hubs_retry_after_is_observed(form: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    headers = {
        "seconds": {"Retry-After": "7"},
        "date": {"Retry-After": email.utils.formatdate(time.time() + 8.5, usegmt=True)},
        "limits": {"RateLimit": '"api";r=0;t=7', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'},
    }[form]
    hub.fail("POST", "/commit/", status=429, headers=headers)
    push(write_model(tmp_path / "1", 1))
    assert len([seconds for seconds in slept if 6 < seconds < 9]) == 1
    hub.fail("POST", "/commit/", status=429, headers={"Retry-After": "3600"})
    told = refusal(write_model(tmp_path / "2", 2))
    assert "asks to wait 3600 s; tried once" in told


def test_a_branch_and_a_tag_are_created(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    push(write_model(tmp_path / "1", 1))
    url = push(write_model(tmp_path / "2", 2), revision="trials/a", tag="v2")
    assert published(hub)[0] == contents(tmp_path / "1")
    assert published(hub, "trials/a") == [contents(tmp_path / "2"), contents(tmp_path / "1"), {}]
    assert [(tag.name, tag.target_commit) for tag in api.list_repo_refs(NAME).tags] == [("v2", url.split("/")[-1])]
    push(tmp_path / "2", revision="trials/a", tag="v2")  # It is where it should be.
    hub.requests.clear()
    assert "has a tag v2 on another commit" in refusal(write_model(tmp_path / "3", 3), tag="v2")
    assert wrote(hub) == []


def test_a_tag_whose_answer_was_lost_or_that_was_refused(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.fail("POST", "/tag/", drop="after")
    url = push(write_model(tmp_path / "1", 1), tag="v1")
    assert api.list_repo_refs(NAME).tags[0].target_commit == url.split("/")[-1]
    hub.fail("POST", "/tag/", status=403)
    told = refusal(write_model(tmp_path / "2", 2), tag="v2")
    assert "The model is on the hub" in told and "without the tag. This token may not" in told
    assert published(hub)[0] == contents(tmp_path / "2")
    push(tmp_path / "2", tag="v2")
    assert len(published(hub)) == 3


def test_private(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    push(write_model(tmp_path / "1", 1), private=True)
    assert api.model_info(NAME).private
    push(write_model(tmp_path / "2", 2), private=True)
    push(tmp_path / "2", "team/public")
    assert "exists and is public" in refusal(tmp_path / "2", "team/public", private=True)


def test_tokens(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "1", 1)
    push(folder, "team/there")
    hub.requests.clear()
    wrong = "hf_" + "x" * 34
    for token, words in (
        (wrong, "doesn't know this token"),
        (READ_TOKEN, "may only read"),
        (OTHER_TOKEN, "may not write to team/there"),
        (TOKEN[:-1] + "\x01", "has invalid characters"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        told = refusal(folder, "team/there")
        assert words in told
        assert token not in told and "\n" not in told
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    assert "named other/…" in refusal(folder, "team/new")
    hub.accounts[wrong] = Account("team")
    monkeypatch.setenv("HF_TOKEN", wrong)
    hub.fail("POST", "/create", status=403, message=f"no rights, Bearer {wrong} !")
    told = refusal(folder, "team/new")
    assert "may not write to team/new (no rights, Bearer *** !)" in told
    assert wrong not in told
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no token" in refusal(folder)
    assert wrote(hub) == ["/api/repos/create"]


def test_other_problems_are_reported_before_anything_is_sent(
    hub: Hub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "1", 1)
    api.create_repo("team/speech", repo_type="dataset")
    api.create_repo("team/text")
    api.create_commit(
        "team/text", [CommitOperationAdd("config.json", b'{"model_type": "bert"}')], commit_message="text"
    )
    hub.requests.clear()
    assert "is a dataset" in refusal(folder, "team/speech")
    assert "another kind of model (bert)" in refusal(folder, "team/text")
    for name in ("model", "team/what is this", "team/a--b", "team/" + "x" * 97, "a/b/c", "", "https://hub/team/model"):
        assert "can't be a repository's name" in refusal(folder, name)
    for name in ("a..b", "-x", "refs/pr/1", "a b", COMMIT):
        assert f"--tag '{name}' can't be" in refusal(folder, tag=name)
        assert f"--revision '{name}' can't be" in refusal(folder, revision=name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert wrote(hub) == []
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # discard, where nothing listens
    assert "http://127.0.0.1:9 can't be reached" in refusal(folder)
    monkeypatch.setattr(constants, "ENDPOINT", "nowhere")
    assert "look at HF_ENDPOINT" in refusal(folder)


def test_too_large_files_and_other_refusals(hub: Hub, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "1", 1)
    hub.fail("PUT", "/lfs/", status=413, times=None)
    assert "takes no file as large" in refusal(folder)
    hub.mend()
    hub.fail("POST", "/commit/", status=402, message="pay first")
    assert "status 402 (pay first)" in refusal(folder)
    assert published(hub) == [{}]
    hub.requests.clear()
    (folder / "README.md").write_text("---\nlicense: none of these\n---\n# A model\n")
    assert 'README.md: "license" must be' in refusal(folder)
    assert wrote(hub) == []


def spoil(name: str, content: str | bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


@pytest.mark.parametrize(
    "change, words",
    [
        (spoil("training_args.bin", b"\x80\x02"), "training_args.bin may be a pickle"),
        (spoil("language_model/lm.bin", b"\x80\x02"), "lm.bin may be a pickle"),
        (spoil("optimizer.PT", b"\x80\x02"), "optimizer.PT may be a pickle"),
        (spoil("config.json", '{"model_type": "wav2vec2", "auto_map": {"AutoModel": "m.M"}}'), "auto_map"),
        (spoil("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["m.M", null]}}'), "auto_map"),
        (spoil("config.json", '{"model_type": "bert"}'), "is a bert model; expected a wav2vec2"),
        (spoil("config.json", "{"), "is damaged"),
        (spoil("adapter_config.json", "{}"), "an adapter without its base"),
        (lambda folder: [file.unlink() for file in folder.glob("*.safetensors")], "has no weights"),
        (lambda folder: (folder / "config.json").unlink(), "is not a model"),
    ],
)
def test_unpublishable_folders_are_refused(
    change: Callable[[Path], object], words: str, hub: Hub, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "1", 1)
    change(folder)
    assert words in refusal(folder)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["README.md", "vocab.json", "model.safetensors", "language_model/words.txt"])
def test_links_to_files_outside_are_not_sent(name: str, hub: Hub, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "1", 1)
    (tmp_path / "secret").write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    assert f"{folder / name} is a link to a file outside of the model's folder" in refusal(folder)
    assert hub.requests == []
    (folder / name).unlink()
    (folder / name).symlink_to(folder / "config.json")
    push(folder)
    assert published(hub)[0][name] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


def test_a_folder_of_a_hubs_cache_is_sent(hub: Hub, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--team--model" / "snapshots" / ("0" * 40)
    blobs = write_model(snapshot.parents[1] / "blobs", 1)
    (snapshot / "language_model").mkdir(parents=True)
    for file in [file for file in blobs.rglob("*") if file.is_file()]:
        (snapshot / file.relative_to(blobs)).symlink_to(file)
    push(snapshot)
    assert published(hub)[0] == contents(blobs)


def test_files_that_are_not_of_a_model_are_not_sent(hub: Hub, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "1", 1)
    expected = contents(folder)
    for name in (".env", "notes.txt", "checkpoint-10/optimizer.pt", "model.py", ".cache/x", "language_model/.x"):
        spoil(name, "mine")(folder)
    kenlm = b"mmap lm http://kheafield.com/code format version 5\n\0"
    spoil("language_model/lm.bin", kenlm)(folder)
    push(folder)
    assert published(hub)[0] == {**expected, "language_model/lm.bin": hashlib.sha256(kenlm).hexdigest()}
