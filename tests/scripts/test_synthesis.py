"""The texts and voices of the made corpora, and the promises of the committed one; no synthesiser needed."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import sentences
import soundfile
import synthesis
from acoustics import add_noise, make_noise, record, resample, warp_formants
from make_quickstart_corpus import UTTERANCES, draw_recordings, split_words, write_sentences
from neural_voices import (
    BASE_ACCENTS,
    BASE_VALIDATION_VOICES,
    BASE_VOICES,
    QUICKSTART_TEST_VOICES,
    QUICKSTART_TRAIN_VOICES,
)
from synthesis import QUICKSTART_TEST_VARIANTS, QUICKSTART_TRAIN_VARIANTS

CORPUS = Path(__file__).parents[2] / "recipes" / "quickstart" / "corpus"

# Tests must not wait for all of Python's documentation to be read.
CLAUSES = ["return a copy of the list", "if it doesn't exist", "open the file"]


def read_metadata(split: str) -> list[dict[str, str]]:
    with (CORPUS / split / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("number", "use_and", "wording"),
    [
        (0, False, "zero"),
        (13, False, "thirteen"),
        (40, False, "forty"),
        (99, False, "ninety nine"),
        (100, True, "one hundred"),
        (512, False, "five hundred twelve"),
        (512, True, "five hundred and twelve"),
        (2003, True, "two thousand and three"),
        (2300, True, "two thousand three hundred"),
        (45067, False, "forty five thousand sixty seven"),
        (999999, False, "nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)
def test_numbers_are_worded(number: int, use_and: bool, wording: str) -> None:
    assert sentences.word_number(number, use_and) == wording


@pytest.mark.parametrize(
    ("number", "wording"),
    [
        (1, "first"),
        (12, "twelfth"),
        (20, "twentieth"),
        (31, "thirty first"),
        (90, "ninetieth"),
    ],
)
def test_ordinals_are_worded(number: int, wording: str) -> None:
    assert sentences.word_ordinal(number) == wording


def test_spelled_letters_are_told_from_words() -> None:
    assert synthesis.respell_letters("a plan A, Z I") == "a plan eigh, zee eye"
    assert synthesis.respell_letters("Z", zed=True) == "zed"


def test_spelling_keeps_every_letter() -> None:
    rng = np.random.default_rng(0)
    for word in ("anna", "o'neill", "bookkeeper") * 20:
        said = sentences.spell(word, rng).replace("apostrophe", "'")
        said = re.sub(r"double (\w)", r"\1 \1", said)
        assert said.replace(" ", "").lower() == word


def test_scripts_are_repeatable_and_plain() -> None:
    written = [sentences.write_script(np.random.default_rng([3, index]), CLAUSES) for index in range(3000)]
    assert written[:50] == [sentences.write_script(np.random.default_rng([3, index]), CLAUSES) for index in range(50)]
    for script, source in written:
        assert re.fullmatch(r"[a-z']+( [a-z']+)*", script.lower()), script
        assert source in sentences.SOURCE_SHARES
    share = sum(source == "spelling" for _, source in written) / len(written)
    assert share == pytest.approx(sentences.SOURCE_SHARES["spelling"], abs=0.03)
    sources = [sentences.write_script(np.random.default_rng([3, index]), CLAUSES, 0.7)[1] for index in range(3000)]
    assert sources.count("sentence") / 3000 == pytest.approx(0.7, abs=0.03)
    assert sources.count("spelling") / 3000 == pytest.approx(sentences.SOURCE_SHARES["spelling"] / 2, abs=0.03)


def test_pauses_change_no_word() -> None:
    rng = np.random.default_rng(0)
    for source in sentences.SOURCE_SHARES:
        for script in ("enter A B five", "yes"):
            assert sentences.add_pauses(script, source, rng).replace(",", "") == script


def test_unheard_voices_stay_unheard() -> None:
    heard = set(synthesis.BASE_VARIANTS) | set(synthesis.QUICKSTART_TRAIN_VARIANTS)
    held_out = [
        synthesis.BASE_VALIDATION_VARIANTS,
        synthesis.QUICKSTART_VALIDATION_VARIANTS,
        synthesis.QUICKSTART_TEST_VARIANTS,
    ]
    for variants in held_out:
        assert not heard & set(variants)
        heard |= set(variants)


def test_a_missing_synthesiser_is_named_with_its_remedy() -> None:
    with pytest.raises(synthesis.SynthesisError, match="apt-get install no-such-speaker"):
        synthesis.require_program("no-such-speaker")


def test_invented_voices_are_repeatable_and_all_different() -> None:
    variants = [synthesis.invent_variant(np.random.default_rng([5, number])) for number in range(50)]
    assert variants == [synthesis.invent_variant(np.random.default_rng([5, number])) for number in range(50)]
    assert len(set(variants)) == 50
    second = [int(re.findall(r"(?m)^formant 2 (\d+) ", variant)[0]) for variant in variants]
    assert 70 <= min(second) < 85
    assert 120 < max(second) <= 140


def test_espeak_finds_invented_voices_beside_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "installed"
    (installed / "voices" / "!v").mkdir(parents=True)
    (installed / "en_dict").write_text("words")
    (installed / "voices" / "!v" / "f1").write_text("its own")
    program = tmp_path / "espeak-ng"
    program.write_text(f"#!/bin/sh\necho 'eSpeak NG text-to-speech: 1.51  Data at: {installed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    synthesis.write_espeak_data(tmp_path / "made", {"invented0000": "ours"})
    made = tmp_path / "made" / "espeak-ng-data"
    assert (made / "en_dict").read_text() == "words"
    assert (made / "voices" / "!v" / "f1").read_text() == "its own"
    assert (made / "voices" / "!v" / "invented0000").read_text() == "ours"
    assert not (installed / "voices" / "!v" / "invented0000").exists()


def test_recording_keeps_shape_and_range() -> None:
    tone = np.sin(np.arange(16000) * 0.1).astype(np.float32)
    assert len(resample(tone, 0.5)) == pytest.approx(8000, abs=1)
    np.testing.assert_allclose(warp_formants(tone, 1.0), tone, atol=1e-4)
    recorded = record(tone, 16000, np.random.default_rng(0), [tone])
    assert recorded.dtype == np.float32 and len(recorded) > len(tone)
    assert float(np.max(np.abs(recorded))) <= 0.99


def test_noise_has_the_asked_level() -> None:
    rng = np.random.default_rng(0)
    square = np.sign(np.sin(np.arange(16000) * 0.1) + 1e-3).astype(np.float32)
    noise = make_noise("pink", 16000, 16000, rng, [])
    added = add_noise(square, noise, 20.0) - square
    assert float(np.sqrt(np.mean(added**2))) == pytest.approx(0.1, rel=0.05)


def test_every_kind_of_recording_is_drawn() -> None:
    kinds = list(draw_recordings(60, np.random.default_rng(0)))
    assert len(kinds) == 60 and len(set(kinds)) >= 10


def test_quickstart_sentences_are_the_committed_ones() -> None:
    for split, written in write_sentences(0, UTTERANCES).items():
        assert [row["text"] for row in read_metadata(split)] == written


def test_quickstart_corpus_splits() -> None:
    rows = {split: read_metadata(split) for split in UTTERANCES}
    assert {split: len(rows[split]) for split in UTTERANCES} == UTTERANCES
    # A blend of voices is known by all of them, and a throat (of hibari) is nobody else's.
    voices = {split: {voice for row in rows[split] for voice in row["speaker"].split("+")} for split in UTTERANCES}
    assert sum(map(len, voices.values())) == len(set.union(*voices.values()))
    assert voices["test"] == set(QUICKSTART_TEST_VOICES) and voices["test_formant"] == set(QUICKSTART_TEST_VARIANTS)
    assert voices["train"] >= {*QUICKSTART_TRAIN_VOICES, *QUICKSTART_TRAIN_VARIANTS}
    assert not voices["test"] & {*BASE_VOICES, *BASE_ACCENTS, *BASE_VALIDATION_VOICES}
    texts = {split: {" ".join(split_words(row["text"])) for row in rows[split]} for split in UTTERANCES}
    assert sum(map(len, texts.values())) == len(set.union(*texts.values()))
    known = {word for text in texts["train"] for word in text.split(" ")}
    assert 80 <= len(known) <= 100
    assert known.issuperset(word for text in texts["test"] | texts["validation"] for word in text.split(" "))


def test_quickstart_corpus_recordings() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    infos = []
    for split in UTTERANCES:
        listed = {row["file_name"] for row in read_metadata(split)}
        assert listed == {path.name for path in (CORPUS / split).iterdir()} - {"metadata.csv"}
        infos += [soundfile.info(CORPUS / split / name) for name in listed]
    assert len({info.samplerate for info in infos}) >= 3
    assert {info.channels for info in infos} == {1, 2}
    assert {info.format for info in infos} == {"OGG", "FLAC", "WAV"}
    assert all(0.6 < info.duration < 8 for info in infos)
