"""Vocabulary, tokenizer, blank and head agree; otherwise decoded texts are wrong."""

from pathlib import Path

import pytest
from transformers import Wav2Vec2CTCTokenizer

from finetune.errors import UserError
from finetune.models.build import build_model
from finetune.models.configuration import load_config
from finetune.models.vocabulary import load_base_vocabulary
from finetune.text.vocabulary import (
    PAD,
    UNKNOWN,
    WORD_DELIMITER,
    build_tokenizer,
    build_vocabulary,
    count_characters,
    encode,
)

VOCABULARY = build_vocabulary(sorted(count_characters(["bad cab", "don't", "é"])))


def test_ids_are_consecutive_with_the_blank_first() -> None:
    assert VOCABULARY[PAD] == 0
    assert list(VOCABULARY) == [PAD, WORD_DELIMITER, *"'abcdnot", "é", UNKNOWN]
    assert list(VOCABULARY.values()) == list(range(len(VOCABULARY)))


def test_head_tokenizer_and_vocabulary_have_one_size(base_folder: Path) -> None:
    config = load_config(str(base_folder))
    model = build_model(
        config, str(base_folder), vocabulary=VOCABULARY, blank=PAD, dropout=0.0, mask_time_probability=0.0, seed=0
    )
    tokenizer = build_tokenizer(VOCABULARY)
    assert model.lm_head.out_features == len(tokenizer) == len(VOCABULARY)
    assert model.config.vocab_size == len(VOCABULARY)
    assert model.config.pad_token_id == tokenizer.pad_token_id == VOCABULARY[PAD]


def test_the_tokenizer_has_exactly_these_tokens_also_after_saving(tmp_path: Path) -> None:
    build_tokenizer(VOCABULARY).save_pretrained(tmp_path)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == VOCABULARY
    assert "<s>" not in tokenizer.get_vocab() and "</s>" not in tokenizer.get_vocab()
    assert len(tokenizer) == len(VOCABULARY)


def test_the_tokenizer_and_encode_agree() -> None:
    tokenizer = build_tokenizer(VOCABULARY)
    for transcript in ("bad cab", "a b", "don't", "zoo"):
        assert encode(transcript, VOCABULARY) == tokenizer(transcript).input_ids


def test_characters_outside_the_vocabulary_become_unknown() -> None:
    assert encode("az", VOCABULARY) == [VOCABULARY["a"], VOCABULARY[UNKNOWN]]


def test_a_language_has_its_own_vocabulary_in_the_tokenizer_file(mms_base_folder: Path) -> None:
    base = str(mms_base_folder)
    assert load_base_vocabulary(base) == {PAD: 0, UNKNOWN: 3, "|": 4, "a": 5, "b": 6, "c": 7}
    assert load_base_vocabulary(base, language="deu")["d"] == 8
    with pytest.raises(UserError, match=r"has no vocabulary \(a vocab.json for the language xyz\)"):
        load_base_vocabulary(base, language="xyz")
