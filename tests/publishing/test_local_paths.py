"""Absolute paths of the training machine are shortened; everything else is unchanged."""

import pytest

from finetune.publishing.local_paths import public_name, public_place, scrub_text, scrub_value
from finetune.resources.repositories import is_on_hub


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("finetune train /home/ann/recipes/a.yaml", "finetune train a.yaml"),
        ("/opt/venv/bin/python -m finetune train a.yaml", "python -m finetune train a.yaml"),
        ("--set data.train=/home/ann/speech/", "--set data.train=speech"),
        ("--set data.train='/home/ann/my speech/x.tsv'", "--set data.train='x.tsv'"),
        (r"cd /home/ann/my\ speech && ls", "cd my speech && ls"),
        ("--data ~/speech --out ~ann/runs", "--data speech --out runs"),
        (r"train C:\Users\ann\speech now", "train speech now"),
        ("see file:///home/ann/notes.md, please", "see notes.md, please"),
        ("-v data:/home/ann/x //server/ann/y", "-v data:x y"),
    ],
)
def test_absolute_paths_are_shortened_to_their_last_part(text, public):
    assert scrub_text(text) == public
    assert "ann" not in scrub_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/facebook/wav2vec2-base",
        "facebook/wav2vec2-base",
        "and/or",
        "3 / 4",
        "data/a.tsv",
        "../a",
        r"[.,/\-]",
        "[/!?]",
        r"\s*/\s*",
        "/.*",
    ],
)
def test_other_texts_are_unchanged(text):
    assert scrub_text(text) == text
    assert scrub_value(text) == text


def test_a_value_can_contain_spaces():
    assert scrub_value("/home/ann lee/speech of ann/train") == "train"


@pytest.mark.parametrize(
    ("place", "public"),
    [
        ("/home/ann/speech", "./speech"),
        ("s3://clients/speech", "./speech"),
        ("openslr/librispeech_asr", "openslr/librispeech_asr"),
        ("https://example.org/speech.tar", "https://example.org/speech.tar"),
        ("https://ann:x@example.org/speech.tar?sig=y", "https://example.org/speech.tar"),
        ("s3://ann:x@clients", "./clients"),
    ],
)
def test_a_place_in_a_recipe_is_public_or_relative_to_it(place, public):
    assert public_place(place) == public


def test_local_folders_are_not_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    assert is_on_hub("facebook/wav2vec2-base")
    for local in ("models/base", str(tmp_path / "models" / "base"), "./models/base", "../x/base", r"D:\models\base"):
        assert not is_on_hub(local)
        assert public_name(local) == "base"
    assert public_name("/") == public_name("..") == "a local folder"
