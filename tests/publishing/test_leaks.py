"""Private information is found, and similar harmless texts are not."""

import getpass
import json
import socket

import pytest
import torch
from safetensors.torch import save_file

from finetune.publishing.leaks import find_leaks

HUGGING_FACE = "hf_" + "aB3" * 11  # Put together here: a scanner of this repository need not stop at it.
GITHUB = "ghp_" + "aB3" * 12


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):  # After pytest has named its own folder by the user.
    monkeypatch.setattr(getpass, "getuser", lambda: "annlee")
    monkeypatch.setattr(socket, "gethostname", lambda: "gandalf.example")


def leaks(folder, text, name="README.md"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return find_leaks(folder)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("made in /home/ann/speech", "an absolute path"),
        ('{"text": "see\\n/home/ann/speech"}', "an absolute path"),
        (r'{"base": "C:\\Users\\ann"}', "an absolute path"),
        ("by annlee, 2026", "a user name"),
        ("author: 'annlee'", "a user name"),
        ("root: corpora/annlee/speech", "a user name"),
        ("hostname: gandalf", "a host name"),
        ("seen at gandalf.example.", "a host name"),
        ("trained on gandalf with love", "a host name"),
        (f"export HF_TOKEN={HUGGING_FACE}", "a token or password"),
        (f"git clone with {GITHUB}", "a token or password"),
        ('"wandb_api_key": "0123456789abcdef"', "a token or password"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a token or password"),
        ("root: https://ann:secret@storage/speech", "a login in a URL"),
        ("root: s3://speech/a?X-Amz-Signature=0a0b", "a token or password"),
        ("https://a.blob.core.windows.net/c/x?sv=2024-11-04&sr=b&sig=aB3%2FdE4fG5", "a token or password"),
        ("?sv=2024-11-04&amp;sig=aB3%2FdE4fG5", "a token or password"),
        ("https://storage.googleapis.com/b/x?X-Goog-Signature=0a0b", "a token or password"),
        ("https://d1.cloudfront.net/x?Signature=aB3~dE4_fG5-&Key-Pair-Id=K1", "a token or password"),
        ("https://d1.cloudfront.net/x?Key-Pair-Id=APKA1234567890", "a token or password"),
        ("https://host/x?token=aB3dE4fG5", "a token or password"),
        ("export token=aB3dE4fG5", "a token or password"),
        ("hf_" + "jwt_" + "aB3dE4fG5.x_y", "a token or password"),
        ("https://host/x?id=7", "a query in an address"),
        ("[it](https://host/x?download=true&key=7)", "a query in an address"),
        ("https://host/x?aB3dE4fG5", "a query in an address"),
        ("s3://host/x?versionId=7", "a query in an address"),
        ("https://host/x?v=aB3dE4fG5aB3dE4fG5aB3dE4fG5", "a query in an address"),
        ("questions to <ann.lee@mail.example.org>", "an e-mail address"),
    ],
)
def test_private_information_is_reported_with_its_position_and_not_repeated(tmp_path, text, kind):
    assert leaks(tmp_path, f"# fine\n{text}\n") == [f"README.md, line 2: {kind}"]


@pytest.mark.parametrize(
    "text",
    [
        "base: annlee/wav2vec2@v1.beta",
        "https://huggingface.co/annlee/wav2vec2 and what annlee and gandalf said",
        "commit: 03d460d8c1f1b1a4ff54f1e7a3f2f5f0d8b3c9aa",
        '"pad_token": "<|endoftext|>", "word_delimiter_token": "|"',
        "torch@2.12.1, https://huggingface.co/facebook/wav2vec2-base",
        "data:\n  root: corpus\n",
        "and/or, 3 / 4, km/h, </s>, data/train.csv",
        "https://huggingface.co/a/b/resolve/main/x.wav?download=true, (https://host/x?v=2&amp;raw=1).",
        "what is this? s3://speech/talk?.wav",
        '{"steps": [{"replace": ["[.,/!?\\\\-]", ""]}]}',  # A regular expression of text_normalization.json.
    ],
)
def test_harmless_texts_are_not_reported(tmp_path, text):
    assert leaks(tmp_path, text) == []


def test_generic_names_are_not_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert leaks(tmp_path, "data:\n  root: corpus\n") == []


def test_a_user_without_a_name_works(tmp_path, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert leaks(tmp_path, "by annlee") == []


def test_words_of_a_language_model_are_not_names(tmp_path):
    leaks(tmp_path, "annlee\n/home/ann\ngandalf\n", "language_model/unigrams.txt")
    leaks(tmp_path, json.dumps({"/a": 1, "annlee": 2}), "vocab.json")
    arpa = "\\1-grams:\n-1.0 annlee\n-1.0 ann@mail.example.org\n\\2-grams:\n-1.0 the ann@mail.example.org\n"
    assert leaks(tmp_path, arpa, "language_model/lm.arpa") == ["language_model/lm.arpa, line 3: an e-mail address"]


def test_weights_are_skipped_except_for_their_metadata(tmp_path):
    save_file({"w": torch.zeros(4)}, tmp_path / "model.safetensors", {"format": "pt", "from": "/home/ann/run"})
    (tmp_path / "noise.bin").write_bytes(b"\0 /home/ann/run")
    (tmp_path / "damaged.safetensors").write_bytes(b"/home/ann/run")
    assert find_leaks(tmp_path) == ["model.safetensors, metadata from: an absolute path"]


def test_files_that_are_not_uploaded_are_not_read(tmp_path):
    assert leaks(tmp_path, "/home/ann", ".cache/huggingface/x.txt") == []
