"""Users, passwords, queries and signatures are removed from addresses, and other text does not change."""

import pytest

from finetune.resources.addresses import public_address


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("https://ann:s3cret@host/speech", "https://host/speech"),
        ("https://t0ken@host/speech/list.csv", "https://host/speech/list.csv"),
        ("s3://key:sec@ret@bucket/speech", "s3://bucket/speech"),
        ("sftp://ann@host/~/speech", "sftp://host/~/speech"),
        ("https://host/a.wav?sv=1&sig=a%2Fb", "https://host/a.wav"),
        ("HTTPS://host/a.wav?X-Goog-Signature=0a#t=1", "HTTPS://host/a.wav"),
        ("https://host/a.wav?abcdef", "https://host/a.wav"),
        ("https://host/#access_token=abc", "https://host/"),
        ("simplecache::https://a:b@host/x.wav?k=v", "simplecache::https://host/x.wav"),
        ("zip://x.csv::https://a:b@host/x.zip?k=v", "zip://x.csv::https://host/x.zip"),
        ("no such file: https://a:b@host/a.wav?k=v: 404.", "no such file: https://host/a.wav: 404."),
        ("404, message='Not Found', url='https://host/a?sig=b'", "404, message='Not Found', url='https://host/a'"),
        ("(see https://host/a?sig=b), then", "(see https://host/a), then"),
        ("abfs://container:key@account/x", "abfs://account/x"),
        ("wss://host/x?k=v and https://u:p@host", "wss://host/x and https://host"),
    ],
)
def test_secrets_are_removed_from_addresses(text: str, public: str) -> None:
    assert public_address(text) == public == public_address(public)


@pytest.mark.parametrize(
    "text",
    [
        "what? a=b, ann:b@host, facebook/wav2vec2-base@main",
        "https://huggingface.co/facebook/wav2vec2-base#usage",
        "hf://datasets/user/speech@main/data",
        "abfs://container@account.dfs.core.windows.net/speech",
        "s3://bucket/talk?.wav and memory://a/**/*.wav",
        r"{replace: ['https?://\S+', '']}",
    ],
)
def test_other_text_does_not_change(text: str) -> None:
    assert public_address(text) == text
