"""The vocabulary that a recipe asks for, and what is said about the characters."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import COMMIT, TOKEN, Hub
from huggingface_hub import CommitOperationAdd, HfApi

from finetune.data.clean_manifests import write_clean_manifests
from finetune.errors import UserError
from finetune.recipe.load import Recipe, load_recipe
from finetune.run.planning import resolve_length
from finetune.run.preparation import Preparation, prepare
from finetune.run.revisions import find_commits, pin_revisions
from finetune.run.summary import summarize_preparation

Write = Callable[..., Path]


def tokens(preparation: Preparation) -> str:
    return "".join(token for token in preparation.vocabulary if len(token) == 1 and token != "|")


@pytest.fixture
def written(tmp_path: Path, write_recipe: Write, make_corpus: Callable[..., Path]) -> Callable[..., Recipe]:
    """A recipe of a corpus with these transcripts in train, and `sections`."""

    def write(transcripts: list[str], **sections: dict[str, object]) -> Recipe:
        make_corpus(tmp_path / "corpus" / "train", transcripts)
        make_corpus(tmp_path / "corpus" / "validation", ["ab"])
        return load_recipe(write_recipe(tmp_path, data={"root": str(tmp_path / "corpus")}, **sections))

    return write


def test_sources_are_used_together(tmp_path: Path, write_recipe: Write, make_corpus: Callable[..., Path]) -> None:
    make_corpus(tmp_path / "a" / "train", ["abc", "cab"], ["1", "2"])
    make_corpus(tmp_path / "a" / "test", ["bac"], ["3"])
    make_corpus(tmp_path / "b" / "validation", ["bb"], ["1"])
    make_corpus(tmp_path / "b" / "train", ["dad"], ["1"])
    (tmp_path / "b" / "train" / "metadata.csv").write_text("clip,words\n00.wav,dad\nnone.wav,dad\n")
    (tmp_path / "b" / "validation" / "metadata.csv").write_text("clip,words\n00.wav,bb\n")
    second = {"root": str(tmp_path / "b"), "weight": 2.5, "text_column": "words", "audio_column": "clip"}
    file = write_recipe(tmp_path, data={"root": None, "sources": ["a", second]})
    recipe = load_recipe(file)
    preparation = prepare(recipe)
    train = preparation.train
    assert [(u.transcript, u.speaker, u.weight) for u in train.utterances] == [
        ("abc", "a/1", 1.0),
        ("cab", "a/2", 1.0),
        ("dad", None, 2.5),
    ]
    assert [Path(u.source).name for u in train.utterances] == ["a", "a", "b"]
    assert all(train.read(utterance, 16000).any() for utterance in train.utterances)
    assert [(Path(r.source).name, r.row, r.name) for r in train.rejected] == [("b", 1, "none.wav")]
    assert [u.transcript for u in preparation.validation.utterances] == ["bb"]
    assert preparation.test is not None and len(preparation.test.utterances) == 1
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_a_speaker_has_one_name_in_all_splits_of_several_sources(
    tmp_path: Path, write_recipe: Write, make_corpus: Callable[..., Path]
) -> None:
    """Two corpora in folders of one name: their speakers differ, and who is in train and test is found."""
    one, other = tmp_path / "one" / "speech", tmp_path / "other" / "speech"
    make_corpus(one / "train", ["abc", "cab"], ["1", "2"])
    make_corpus(other / "train", ["dad"], ["1"])
    make_corpus(other / "validation", ["bb"], ["2"])
    make_corpus(one / "test", ["bac"], ["1"])
    file = write_recipe(tmp_path, data={"root": None, "sources": [str(one), str(other)]})
    preparation = prepare(load_recipe(file))
    speakers = {role: [each.speaker for each in split.utterances] for role, split in preparation.splits.items()}
    assert speakers == {
        "train": ["one/speech/1", "one/speech/2", "other/speech/1"],
        "validation": ["other/speech/2"],
        "test": ["one/speech/1"],
    }
    leaks = [(each.split, len(each.utterances)) for each in preparation.validate().findings if "speakers" in each.kind]
    assert leaks == [("test", 1)]
    # A table that is written for a source has the names that the source has.
    write_clean_manifests(preparation.splits, [])
    assert [row["speaker"] for row in csv.DictReader((one / "train.clean.csv").open())] == ["1", "2"]
    # Splits of one corpus have the same people.
    twice = [{"root": str(one), "train_split": "train"}, {"root": str(one), "train_split": "test"}]
    preparation = prepare(load_recipe(write_recipe(tmp_path, data={"root": None, "sources": twice})))
    assert {each.speaker for each in (*preparation.train.utterances, *preparation.validation.utterances)} == {"1", "2"}


@pytest.mark.parametrize(("weight", "words"), [(0.04, "has 0.96 of the 24"), (1e-320, "has 2.*e-319"), (1e9, "2.4e")])
def test_weights_that_make_no_epoch_are_refused(tmp_path: Path, write_recipe: Write, weight: float, words: str) -> None:
    with pytest.raises(UserError, match=f"By data.weight an epoch .*{words}"):
        prepare(load_recipe(write_recipe(tmp_path, data={"weight": weight})))


def test_an_epoch_that_is_empty_by_chance_is_not_the_measure(tmp_path: Path, write_recipe: Write) -> None:
    recipe = load_recipe(write_recipe(tmp_path, data={"weight": 0.05}))
    preparation = prepare(recipe)
    firsts = [next(preparation.order(8, seed))[0][0] for seed in range(20)]
    assert any(firsts)  # Some seeds have an empty first epoch.
    epochs = [preparation.list_epoch(8, seed) for seed in range(20)]
    assert [{key[0] for batch in epoch for key in batch} for epoch in epochs] == [{first} for first in firsts]
    for seed in range(20):
        training = recipe.training.model_copy(update={"seed": seed, "max_steps": None, "max_epochs": 2.0})
        assert resolve_length(recipe.model_copy(update={"training": training}), preparation, 8, 1).max_steps >= 1


def test_a_recipes_repositories_are_pinned_to_commits(hub: Hub, tmp_path: Path, write_recipe: Write) -> None:
    for folder in ("models/team/base", "datasets/team/speech", "datasets/team/base"):
        (hub.folder / folder).mkdir(parents=True)
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_tag("team/base", tag="v1")
    added = [CommitOperationAdd("a.txt", b"a")]
    moved = api.create_commit("team/speech", added, commit_message="more", repo_type="dataset").oid
    sources = ["team/speech", {"root": "team/speech", "revision": COMMIT}, "team/base", str(tmp_path)]
    recipe = load_recipe(
        write_recipe(tmp_path, model={"base": "team/base@v1"}, data={"root": None, "sources": sources})
    )
    commits = find_commits(recipe)
    assert commits == {
        "team/base@v1": COMMIT,
        "datasets/team/speech": moved,
        f"datasets/team/speech@{COMMIT}": COMMIT,
        "datasets/team/base": COMMIT,
    }
    pinned = pin_revisions(recipe, commits)
    assert (pinned.model.base, pinned.model.revision) == ("team/base", COMMIT)
    assert [source.revision for source in pinned.data.sources] == [moved, COMMIT, COMMIT, None]
    recipe = load_recipe(write_recipe(tmp_path, data={"root": "team/speech"}))
    assert pin_revisions(recipe, find_commits(recipe)).data.revision == moved
    assert pin_revisions(recipe, {}) == recipe


def test_rare_characters_can_be_left_out(written: Callable[..., Recipe]) -> None:
    transcripts = ["abc", "cab", "bac", "éab"]
    assert tokens(prepare(written(transcripts))) == "abcé"
    recipe = written(transcripts, text={"min_character_count": 2})
    preparation = prepare(recipe)
    assert tokens(preparation) == "abc"
    assert preparation.head_rows is None
    assert any(
        line.startswith("not in the vocabulary, learned as [UNK]: é × 1")
        for line in summarize_preparation(preparation, recipe)
    )


def test_given_characters_are_the_vocabulary(written: Callable[..., Recipe]) -> None:
    assert tokens(prepare(written(["abc", "cab"], text={"characters": "zyx cba"}))) == "zyxcba"


def test_a_bases_vocabulary_is_kept_with_its_head(written: Callable[..., Recipe], model_folder: Path) -> None:
    recipe = written(["abe", "ebab"], model={"base": str(model_folder)}, text={"vocabulary": "base"})
    preparation = prepare(recipe)
    assert tokens(preparation) == "abcd"
    assert preparation.head_rows == tuple(range(7))


def test_a_bases_vocabulary_is_extended_by_what_training_adds(
    written: Callable[..., Recipe], model_folder: Path
) -> None:
    recipe = written(["abe", "ebab"], model={"base": str(model_folder)}, text={"vocabulary": "extended"})
    preparation = prepare(recipe)
    assert tokens(preparation) == "abcde"
    assert preparation.head_rows == (0, 1, 2, 3, 4, 5, None, 6)
    assert "head: the base's goes on, with new characters: e" in summarize_preparation(preparation, recipe)


def test_a_head_that_is_not_used_is_named(written: Callable[..., Recipe], model_folder: Path) -> None:
    """Where few transcripts are there, what it knows is worth much; a pretrained base has none."""
    for model, named in (
        ({"base": str(model_folder)}, 1),
        ({"base": str(model_folder), "random_weights": True}, 0),
        ({}, 0),
    ):
        recipe = written(["abe", "ebab"], model=model)
        said = summarize_preparation(prepare(recipe), recipe)
        assert sum("text.vocabulary=extended" in line for line in said) == named


def test_a_base_without_a_vocabulary_is_refused(written: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match=r"has no vocabulary .*text.vocabulary=training"):
        prepare(written(["abc"] * 4, text={"vocabulary": "base"}))


def test_text_in_the_wrong_case_is_refused(written: Callable[..., Recipe], model_folder: Path) -> None:
    text = {"vocabulary": "base", "normalization": ["uppercase"]}
    with pytest.raises(UserError, match=r"Only 0 of the 8 characters .*\(abcd\).*its case"):
        prepare(written(["ab"] * 4, model={"base": str(model_folder)}, text=text))


def test_rare_combining_and_delimiting_characters_are_reported(written: Callable[..., Recipe]) -> None:
    recipe = written(["ab|ab", "abq\u0303", "ab", "abab"])
    said = "\n".join(summarize_preparation(prepare(recipe), recipe))
    assert "note: rare in training: q × 1, COMBINING TILDE × 1;" in said
    assert "note: 1 transcripts hold |" in said


def test_batches_are_rounded_to_few_lengths_where_each_costs(
    written: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU as each batch's length says, on a GPU to 0.1 s, compiled to ten lengths."""
    recipe = written(["ab", "bad cab dab"])
    preparation = prepare(recipe)
    longest = round(16000 * max(utterance.seconds for utterance in preparation.train.utterances))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert preparation.batches(recipe.training).options.padding_samples is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert preparation.batches(recipe.training).options.padding_samples == 1600
    compiled = recipe.training.model_copy(update={"compile": True})
    assert preparation.batches(compiled).options.padding_samples == -(-longest // 10)


def test_limits_of_training_are_those_of_the_training_split_alone(
    tmp_path: Path, write_recipe: Write, make_corpus: Callable[..., Path]
) -> None:
    transcripts = ["a", "ab", "abcd abcd"]  # 0.3, 0.4 and 1.1 s
    for split in ("train", "validation", "test"):
        make_corpus(tmp_path / "corpus" / split, transcripts)
    data = {"root": str(tmp_path / "corpus"), "min_seconds": 0.35, "max_seconds": 1.0}
    preparation = prepare(load_recipe(write_recipe(tmp_path, data=data)))
    counts = {role: len(split.utterances) for role, split in preparation.splits.items()}
    assert counts == {"train": 1, "validation": 3, "test": 3}
    assert [(each.split, each.reason) for each in preparation.rejected] == [
        ("train", "too short"),
        ("train", "too long"),
    ]
    assert preparation.audio_spec.max_seconds == 1.0  # What memory is planned for.
    # Pre-training measures its validation split on batches like those of training.
    preparation = prepare(load_recipe(write_recipe(tmp_path, data=data, pretraining={})))
    assert len(preparation.validation.utterances) == 1


@pytest.mark.parametrize(
    ("max_seconds", "batch_seconds", "advice"),
    [
        (0.2, 8, "raise data.max_seconds"),
        (0.2, "auto", "raise data.max_seconds"),
        (20, 0.2, "raise training.batch_seconds"),
        (0.2, 0.2, "raise data.max_seconds and training.batch_seconds"),
    ],
)
def test_the_limit_that_left_all_out_is_named(
    tmp_path: Path, write_recipe: Write, max_seconds: float, batch_seconds: float | str, advice: str
) -> None:
    recipe = write_recipe(tmp_path, data={"max_seconds": max_seconds}, training={"batch_seconds": batch_seconds})
    with pytest.raises(UserError, match=rf"'train' was left out: 24 × too long\. To use longer ones, {advice}\.$"):
        prepare(load_recipe(recipe))


def test_a_validation_split_too_long_for_evaluation_is_to_be_cut(
    tmp_path: Path, write_recipe: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.run.preparation.MAX_UTTERANCE_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"'validation' was .* 6 × too long\. To use longer ones, cut them with"):
        prepare(load_recipe(write_recipe(tmp_path)))
