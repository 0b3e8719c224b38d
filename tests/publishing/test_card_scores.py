"""Scores are inserted into an existing card, and nothing else changes."""

import json

import pytest
import yaml
from hub import READ_TOKEN, TOKEN
from huggingface_hub import EvalResult, ModelCard, constants

from finetune.errors import UserError
from finetune.evaluation.analysis import analyse
from finetune.evaluation.report import write_report
from finetune.evaluation.results import Result
from finetune.publishing.card_scores import insert_results, push_scores

NAME = "team/model"
AT_ONCE = (0.0, 0.0)
GREEDY = {"name": "greedy"}
SEARCH = {"name": "beam search", "beam_width": 10, "language_model": "word 2-gram"}
CARD = """\
---
# Written by hand: look out.
language:   en
license: 'mit'   # really
model-index:
  - name: Mine
    results:
      - task: {type: automatic-speech-recognition}
        dataset: {type: common_voice, name: Common Voice, split: test}
        metrics:
          - {type: wer, value: 12.30, name: Test WER}
# A comment after it.
thresholds: 1.50
date: 2024-01-02
---

# Mine

--- no metadata ---   \u2028 kept
"""


def result(value, metric="wer", split="test", decoder=GREEDY, revision=None):
    return EvalResult(
        task_type="automatic-speech-recognition",
        dataset_type="letters",
        dataset_name="letters",
        dataset_split=split,
        dataset_revision=revision,
        metric_type=metric,
        metric_value=value,
        metric_args={"decoder": decoder},
    )


def figures(card):
    """Split, metric, decoder and value of each result."""
    return [
        (
            each.dataset_split,
            each.metric_type,
            (each.metric_args or {}).get("decoder", {}).get("name"),
            each.metric_value,
        )
        for each in ModelCard(card).data.eval_results
    ]


def without_index(card):
    """A card without the lines of its model-index."""
    lines = card.split("\n")
    start = lines.index("model-index:")
    end = next(i for i in range(start + 1, len(lines)) if lines[i][:1] not in ("-", " "))
    return lines[:start] + lines[end:]


def test_only_the_model_index_changes():
    card = insert_results(CARD, [result(10.5), result(4.0, "cer")], "model")
    assert without_index(card) == without_index(CARD)
    assert "value: 12.30" in card, "what others wrote stays as they wrote it"
    assert figures(card) == [
        ("test", "wer", None, 12.3),
        ("test", "wer", "greedy", 10.5),
        ("test", "cer", "greedy", 4.0),
    ]
    assert yaml.safe_load(card.split("---")[1])["model-index"][0]["name"] == "Mine"


def test_newer_scores_replace_older_ones_and_others_stay():
    card = insert_results(CARD, [result(10.5), result(4.0, "cer"), result(8.0, decoder=SEARCH)], "model")
    card = insert_results(card, [result(20.0, split="validation")], "model")
    newer = insert_results(card, [result(9.5, revision="0ff1ce"), result(3.5, "cer", revision="0ff1ce")], "model")
    assert sorted(map(str, figures(newer))) == sorted(
        str(each)
        for each in [
            ("test", "wer", None, 12.3),
            ("test", "wer", "beam search", 8.0),
            ("validation", "wer", "greedy", 20.0),
            ("test", "wer", "greedy", 9.5),
            ("test", "cer", "greedy", 3.5),
        ]
    )
    assert insert_results(newer, [result(9.5, revision="0ff1ce")], "model") == newer
    assert without_index(newer) == without_index(CARD)


@pytest.mark.parametrize(
    ("card", "prefix", "suffix"),
    [
        ("# Mine\n", "---\nmodel-index:\n", "---\n\n# Mine\n"),
        ("", "---\nmodel-index:\n", "---\n"),
        ("\ufeff# Mine\r\n", "\ufeff---\r\nmodel-index:\r\n", "---\r\n\r\n# Mine\r\n"),
        ("---\nlicense: mit # x\n---\n# Mine", "---\nlicense: mit # x\nmodel-index:\n", "\n---\n# Mine"),
        ("---\r\nlicense: mit\r\n---\r\n", "---\r\nlicense: mit\r\nmodel-index:\r\n", "\r\n---\r\n"),
        ("\ufeff---\n# none yet\n---\n", "\ufeff---\n# none yet\nmodel-index:\n", "\n---\n"),
        ("---\n  a: 1\n  b: 2\n---\n", "---\n  a: 1\n  b: 2\n  model-index:\n", "\n---\n"),
        ("---\nmodel-index: null # soon\na: 1\n---\n", "---\nmodel-index:\n", " # soon\na: 1\n---\n"),
        ("---\nmodel-index: [{name: x, results: []}]\na: 1\n---\n", "---\nmodel-index: [{name: x", "}]\na: 1\n---\n"),
        ("---\nmodel-index: []\na: 1\n---\n", "---\nmodel-index:\n", "\na: 1\n---\n"),
        ("---\nmodel-index:\n- name: x\n\n\na: 1\n---\n", "---\nmodel-index:\n", "\n\n\na: 1\n---\n"),
    ],
)
def test_a_card_without_scores_gets_them(card, prefix, suffix):
    changed = insert_results(card, [result(10.5)], "model")
    assert changed.startswith(prefix) and changed.endswith(suffix)
    assert figures(changed.removeprefix("\ufeff")) == [("test", "wer", "greedy", 10.5)]
    assert insert_results(changed, [result(10.5)], "model") == changed
    assert changed.count("\n") == changed.count("\r\n") or "\r" not in changed


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("a: [1", "not valid YAML, line 2"),
        ("- a\n- b", "must be keys on separate lines"),
        ("{license: mit}", "must be keys on separate lines"),
        ("model-index:\n- 1", "not a list of models with their results"),
        ("model-index:\n- name: x\n  results: 3", "not a list of models with their results"),
        ("model-index: &a\n- name: x\nb: *a", "can't be read"),
        ("a: !!python/name:os.system", "can't be read"),
    ],
)
def test_metadata_that_cannot_be_changed_is_refused(metadata, words):
    with pytest.raises(UserError, match=words):
        insert_results(f"---\n{metadata}\n---\n", [result(10.5)], "model")


@pytest.fixture
def report(tmp_path):
    results = [Result("1", "a b c d", "a b c d", "", 60.0, "Ann"), Result("2", "x", "y z", "", 30.0, "Bo")]
    evaluated = {
        "sources": [{"root": "/data/ann/letters", "configuration": None, "revision": None}],
        "split": "test",
        "normalization": ["lowercase"],
        "decoder": {**GREEDY},
    }
    write_report(tmp_path / "report", "x", analyse(results), evaluated=evaluated)
    return tmp_path / "report"


@pytest.fixture
def there(hub, monkeypatch):
    """A repository with a model and a handwritten card."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = hub.folder / "models" / NAME
    folder.mkdir(parents=True)
    (folder / "README.md").write_bytes(CARD.encode())
    (folder / "model.safetensors").write_bytes(b"weights")
    return hub.find(NAME)


def read(repository, name="README.md", branch="main"):
    return repository.read(repository.branches[branch])[name].place.read_bytes().decode()


def test_a_report_is_inserted_into_the_card_of_a_model_on_a_hub(report, there, hub, logged):
    url = push_scores(report, NAME, waits=AT_ONCE)
    assert url == f"{hub.endpoint}/{NAME}/commit/{there.branches['main']}"
    card = read(there)
    assert without_index(card) == without_index(CARD)
    assert figures(card)[1:] == [("test", "wer", "greedy", 40.0), ("test", "cer", "greedy", 37.5)]
    assert "ann" not in card
    assert [commit.title for commit in there.history(there.branches["main"])] == [
        "WER and CER on letters, test",
        "initial commit",
    ]
    assert read(there, "model.safetensors") == "weights"
    assert push_scores(report.parent, NAME, waits=AT_ONCE) == url, "a run's report is in the run"
    assert logged == [f"the card of {NAME} has these scores: nothing to push"]


def test_a_concurrent_commit_is_not_lost(report, there, monkeypatch, logged):
    """The card is edited after it was read: both changes are kept."""
    theirs = CARD.replace("# Mine", "# Ours")
    write = there.write

    def write_second(*ours):
        monkeypatch.setattr(there, "write", write)
        write("main", "Theirs", "", "other", [("file", {"path": "README.md", "content": theirs.encode()})], None)
        return write(*ours)

    monkeypatch.setattr(there, "write", write_second)
    push_scores(report, NAME, waits=AT_ONCE)
    assert logged == [f"main of {NAME} has a new commit: reading it again"]
    assert without_index(read(there)) == without_index(theirs) and len(figures(read(there))) == 3


def test_a_branch_has_its_own_card(report, there):
    there.branches["dropout"] = there.branches["main"]
    push_scores(report, NAME, "dropout", waits=AT_ONCE)
    assert read(there) == CARD and len(figures(read(there, branch="dropout"))) == 3
    with pytest.raises(UserError, match="has no branch nothing; it has dropout, main"):
        push_scores(report, NAME, "nothing", waits=AT_ONCE)


def test_a_model_without_a_card_gets_one(report, there, hub):
    (hub.folder / "models" / NAME / "README.md").unlink()
    push_scores(report, NAME, waits=AT_ONCE)
    assert len(figures(read(there))) == 2


def test_a_refused_push_is_one_sentence_and_changes_nothing(report, there, monkeypatch, tmp_path):
    scores = json.loads((report / "scores.json").read_text())
    head = there.branches["main"]

    def refused(words, folder=report, repo_id=NAME):
        with pytest.raises(UserError, match=words) as error:
            push_scores(folder, repo_id, waits=())
        assert "\n" not in str(error.value) and TOKEN not in str(error.value)

    refused("There is no report in", tmp_path / "hub")
    for name, values, words in (
        ("old", {key: value for key, value in scores.items() if key != "evaluated"}, "write it again"),
        ("damaged", {**scores, "evaluated": {}}, "is damaged"),
        ("silent", {**scores, "wer": None, "cer": None}, "no reference words"),
        (
            "telling",
            {**scores, "evaluated": {**scores["evaluated"], "split": "ann@mail.example.org"}},
            "private information",
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps(values))
        refused(words, tmp_path / name)
    refused("can't be a repository's name", repo_id="no name")
    refused("has no team/nothing", repo_id="team/nothing")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    refused("may not write to team/model")
    monkeypatch.delenv("HF_TOKEN")
    refused("There is no token")
    assert there.branches["main"] == head
