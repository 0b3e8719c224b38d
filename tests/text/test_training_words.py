"""The training words of a run are stored beside its model, and nothing else of its transcripts."""

import gzip

import pytest

from finetune.errors import UserError
from finetune.text.training_words import FILE, load_training_words, save_training_words


def test_words_are_found_beside_the_model_and_not_in_it(tmp_path):
    (tmp_path / "model").mkdir()
    save_training_words(tmp_path, ["the cat", "the 我爱", ""])
    assert load_training_words(tmp_path / "model") == {"the", "cat", "我", "爱"}
    assert list((tmp_path / "model").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"model", FILE}


def test_a_file_of_whole_thai_sentences_gives_their_characters(tmp_path):
    (tmp_path / FILE).write_bytes(gzip.compress("สวัสดี\nthe".encode()))
    assert load_training_words(tmp_path / "model") == {"ส", "วั", "ดี", "the"}


def test_the_same_words_make_the_same_file(tmp_path):
    save_training_words(tmp_path, ["a b"])
    first = (tmp_path / FILE).read_bytes()
    save_training_words(tmp_path, ["b", "a a"])
    assert (tmp_path / FILE).read_bytes() == first


def test_a_model_from_elsewhere_has_none(tmp_path):
    assert load_training_words(tmp_path / "model") is None
    assert load_training_words("someone/model") is None


@pytest.mark.parametrize("damage", [b"words", b"\x1f\x8b\x08\x00"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    save_training_words(tmp_path, ["a b"])
    (tmp_path / FILE).write_bytes(damage)
    with pytest.raises(UserError, match=r"is damaged .*: remove it"):
        load_training_words(tmp_path / "model")
