"""Greedy decoding, beam search and alignment write every symbol of a vocabulary as the pipeline does."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer

from finetune.decoding.alignment import align
from finetune.decoding.alphabet import Alphabet, read_alphabet, spell, split_symbols
from finetune.decoding.arpa import read_arpa
from finetune.decoding.decoder import build_greedy_search, build_search
from finetune.decoding.greedy import decode_greedy
from finetune.errors import UserError
from finetune.evaluation.scoring import build_hypothesis_normalizer
from finetune.models.vocabulary import load_base_vocabulary

Make = Callable[..., Any]

# Vocabularies and the arguments of their tokenizers.
KINDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "several characters": (["<pad>", "|", "t", "h", "e", "th", "ʈʰ", "sch", "<unk>"], {}),
    "space": (["<pad>", " ", "a", "b", "<unk>"], {"word_delimiter_token": " "}),
    "space where | is expected": (["<pad>", " ", "a", "b", "<unk>"], {}),
    "lower case": (["<pad>", "|", "A", "B", "ẞ", "<unk>"], {"do_lower_case": True}),
    "sentence marks": (["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b"], {}),
    "no delimiter": (["<pad>", "你", "好", "<unk>"], {}),
    "phones": (["<pad>", "t", "ʈʰ", "oʊ", "<s>", "<unk>"], {"kind": Wav2Vec2PhonemeCTCTokenizer}),
    "phones and words": (
        ["<pad>", "t", "ʈʰ", "oʊ", "#"],
        {"kind": Wav2Vec2PhonemeCTCTokenizer, "word_delimiter_token": "#"},
    ),
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(name)` returns the tokenizer of that kind and its symbols."""

    def build(name: str) -> tuple[Any, list[str]]:
        symbols, options = KINDS[name]
        (tmp_path / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
        kind = options.get("kind", Wav2Vec2CTCTokenizer)
        return kind(str(tmp_path / "vocab.json"), **{k: v for k, v in options.items() if k != "kind"}), symbols

    return build


def draw(rng: random.Random, symbols: list[str]) -> list[int]:
    """Repeats, blanks and every symbol."""
    return [symbol for _ in range(12) for symbol in [rng.randrange(len(symbols))] * rng.randint(1, 3)]


def sharpen(ids: list[int], size: int) -> np.ndarray[Any, Any]:
    return (20.0 * np.eye(size)[ids]).astype(np.float32)


@pytest.mark.parametrize("name", KINDS)
def test_searches_write_what_the_pipeline_writes(make: Make, name: str) -> None:
    tokenizer, symbols = make(name)
    rng = random.Random(0)
    searches = build_greedy_search(tokenizer, len(symbols)), build_search(tokenizer, len(symbols))
    for _ in range(40):
        logits = sharpen(draw(rng, symbols), len(symbols))
        [expected] = decode_greedy(torch.tensor(logits[None]), [len(logits)], tokenizer)
        for search in searches:
            [found] = search.finish(search.advance(search.start(), logits))
            assert found.text == " ".join(expected.split())
            assert [word.text for word in found.words] == expected.split()
    assert decode_greedy(torch.zeros(1, 5, len(symbols)), [0], tokenizer) == [""]


@pytest.mark.parametrize("text", ["it 's fine .", "a ' b , a", "do n't ' ' . . b", "'s ' a 's", "fine"])
@pytest.mark.parametrize("clean_up", [True, False])
def test_searches_clean_up_spaces_where_the_tokenizer_does(tmp_path: Path, text: str, clean_up: bool) -> None:
    symbols = ["<pad>", "|", *"abdefinost'.,"]
    (tmp_path / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), clean_up_tokenization_spaces=clean_up)
    ids = [number for letter in text.replace(" ", "|") for number in (symbols.index(letter), 0)]
    logits = sharpen(ids, len(symbols))
    [expected] = decode_greedy(torch.tensor(logits[None]), [len(ids)], tokenizer)
    assert (expected == text) is (not clean_up or text == "fine")
    letters = [number for number in ids if number > 1]
    for search in build_greedy_search(tokenizer, len(symbols)), build_search(tokenizer, len(symbols)):
        [found] = search.finish(search.advance(search.start(), logits))
        assert found.text == expected and [word.text for word in found.words] == expected.split()
        characters = [each for word in found.words for each in word.characters]
        assert [ids[each.start_frame] for each in characters] == letters
        assert [word.end_frame for word in found.words] == [word.characters[-1].end_frame for word in found.words]


@pytest.mark.parametrize("name", KINDS)
def test_alignment_finds_the_frames_of_the_greedy_text(make: Make, name: str) -> None:
    tokenizer, symbols = make(name)
    alphabet = read_alphabet(tokenizer, len(symbols))
    ids = {text: numbers[0] for text, numbers in alphabet.letters.items()}
    silent = {
        alphabet.blank_id,
        *alphabet.silent_ids,
        *(each for numbers in alphabet.marks.values() for each in numbers),
    }
    spoken = [number for number in range(len(symbols)) if number not in silent]
    rng = random.Random(1)
    for _ in range(20):
        # A blank between any two; no h after t, since Transformers' tokenizer would make one symbol of them.
        path = [number for each in rng.choices(spoken, k=8) for number in (each, each, alphabet.blank_id)]
        logits = sharpen(path, len(symbols))
        greedy = build_greedy_search(tokenizer, len(symbols))
        [expected] = greedy.finish(greedy.advance(greedy.start(), logits))
        if [split_symbols(w.text, ids) for w in expected.words] != [
            [c.text for c in w.characters] for w in expected.words
        ]:
            continue
        aligned = align(
            alphabet.fold_silent(logits),
            [word.text for word in expected.words],
            ids,
            blank_id=alphabet.blank_id,
            delimiter_id=alphabet.delimiter_id,
        )
        if not alphabet.symbols_are_words:  # Phones need no blank between them.
            assert [word.text for word in aligned.words] == [word.text for word in expected.words]
        for mine, theirs in zip(aligned.words, expected.words, strict=True):
            assert [c.text for c in mine.characters] == [c.text for c in theirs.characters]
            assert [c.start_frame for c in mine.characters] == [c.start_frame for c in theirs.characters]
    assert spoken


def test_a_language_models_words_and_hotwords_are_spelled_with_symbols_of_several_characters(
    make: Make, tmp_path: Path
) -> None:
    tokenizer, symbols = make("several characters")
    lines = ["-1\t<unk>", "-99\t<s>\t0", "-1\t</s>", "-0.1\tthe", "-3\tte", "-2\tʈʰe"]
    (tmp_path / "lm.arpa").write_text(
        "\\data\\\nngram 1=6\nngram 2=1\n\n\\1-grams:\n"
        + "\n".join(lines)
        + "\n\n\\2-grams:\n-0.1\t<s> the\n\n\\end\\\n"
    )
    model = read_arpa(tmp_path / "lm.arpa")
    search = build_search(tokenizer, len(symbols), model)
    for path in (["th", "e"], ["t", "h", "e"]):
        [found] = search.decode(sharpen([symbols.index(symbol) for symbol in path], len(symbols)))
        assert (found.text, found.lm_score > -3) == ("the", True)  # No spelling makes it an unknown word.
    # Ambiguous between th and t: the language model decides, and both spellings give one text.
    unsure = sharpen([symbols.index("t"), symbols.index("e")], len(symbols))
    unsure[0, symbols.index("th")] = 19.0
    assert search.decode(unsure)[0].text == "the"
    texts = [each.text for each in search.decode(unsure + 0.1, n_best=5)]
    assert len(set(texts)) == len(texts)
    plain = build_search(tokenizer, len(symbols), hotwords={"ʈʰe": 5.0})
    unsure[0, symbols.index("ʈʰ")] = 18.0
    assert plain.decode(unsure)[0].text == "ʈʰe"
    with pytest.raises(UserError, match="characters that the model can't write: 'x'"):
        build_search(tokenizer, len(symbols), hotwords={"thex": 5.0})


def test_hotwords_and_language_models_are_compared_in_lower_case(make: Make) -> None:
    tokenizer, symbols = make("lower case")
    search = build_search(tokenizer, len(symbols), hotwords={"ab": 9.0})
    logits = sharpen([2, 3], len(symbols))
    logits[1, 2] = logits[1, 0] = 19.0
    assert search.decode(logits)[0].text == "ab"


@pytest.mark.parametrize(("name", "unknown"), [("lower case", "<unk>"), ("several characters", "<unk>")])
def test_the_unknown_token_is_scored_as_a_character_of_a_word(make: Make, name: str, unknown: str) -> None:
    tokenizer, symbols = make(name)
    normalize = build_hypothesis_normalizer(
        ("lowercase", "remove_punctuation"), SimpleNamespace(alphabet=read_alphabet(tokenizer, len(symbols)))
    )
    logits = torch.tensor(sharpen([2, symbols.index("<unk>"), 3, 1, symbols.index("<unk>")], len(symbols)))
    [greedy] = decode_greedy(logits[None], [5], tokenizer)
    [searched] = build_search(tokenizer, len(symbols)).decode(logits)
    assert (
        normalize(greedy) == normalize(searched.text) == f"{symbols[2].lower()}{unknown}{symbols[3].lower()} {unknown}"
    )


def test_an_unknown_character_is_scored_where_numbers_become_words() -> None:
    alphabet = Alphabet(("[PAD]", "|", "a", "[UNK]"), blank_id=0, delimiter_id=1)
    normalize = build_hypothesis_normalizer(
        ({"numbers_to_words": "en"}, "lowercase", "remove_punctuation"), SimpleNamespace(alphabet=alphabet)
    )
    assert normalize("Na[UNK]ve, 2 [UNK]") == "na[UNK]ve two [UNK]"


def test_phones_are_words_of_their_own(make: Make) -> None:
    tokenizer, symbols = make("phones")
    [found] = build_search(tokenizer, len(symbols), hotwords={"ʈʰ oʊ": 3.0}).decode(sharpen([1, 0, 2, 2, 3], 6))
    assert [(word.text, word.start_frame, word.end_frame) for word in found.words] == [
        ("t", 0, 1),
        ("ʈʰ", 2, 4),
        ("oʊ", 4, 5),
    ]
    with pytest.raises(UserError, match="can't write: 'tʃ'"):
        build_search(tokenizer, len(symbols), hotwords={"t tʃ": 3.0})


def test_spelling() -> None:
    letters = Alphabet(("_", "|", "t", "h", "th", "[UNK]", " ", "T"), 0, 1).letters
    assert letters == {"t": [2], "h": [3], "th": [4], "T": [7]}
    assert spell("tht", letters) == [(4, 2), (2, 3, 2)]
    assert spell("tx", letters) == []
    assert len(spell("th" * 40, letters)) == 64
    assert split_symbols("thxht", letters) == ["th", "x", "h", "t"]


@pytest.mark.parametrize("name", ["space", "space where | is expected", "lower case"])
def test_training_continues_from_the_head_rows_of_such_vocabularies(make: Make, tmp_path: Path, name: str) -> None:
    make(name)[0].save_pretrained(tmp_path)
    rows = load_base_vocabulary(str(tmp_path))
    assert rows == (
        {"[PAD]": 0, "|": 1, "a": 2, "b": 3, "ß": 4, "[UNK]": 5}
        if name == "lower case"
        else {"[PAD]": 0, "|": 1, "a": 2, "b": 3, "[UNK]": 4}
    )


def test_training_does_not_continue_without_required_symbols(make: Make, tmp_path: Path) -> None:
    make("several characters")[0].save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"has symbols of several characters \(th, ʈʰ, sch\).*text\.vocabulary=training"
    ):
        load_base_vocabulary(str(tmp_path))
