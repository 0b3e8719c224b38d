"""The speech of neural voices for the base: who speaks where, what Kokoro reads, and shards that can be continued."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import make_base_corpus
import make_natural_speech
import neural_voices
import numpy as np
import pytest
import sentences
import soundfile
import write_phonemes
from neural_voices import NeuralVoice, draw_kokoro_voice, spell_for_kokoro
from synthesis import SynthesisError, respell_letters

USES = {
    "base": neural_voices.BASE_VOICES + neural_voices.BASE_ACCENTS,
    "base validation": neural_voices.BASE_VALIDATION_VOICES,
    "quickstart train": neural_voices.QUICKSTART_TRAIN_VOICES,
    "quickstart validation": neural_voices.QUICKSTART_VALIDATION_VOICES,
    "quickstart test": neural_voices.QUICKSTART_TEST_VOICES,
}


def test_each_of_the_54_voices_has_one_use() -> None:
    voices = [voice for names in USES.values() for voice in names]
    assert len(voices) == len(set(voices)) == 54


def test_blends_stay_within_their_use() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_kokoro_voice(rng, neural_voices.BASE_VOICES, neural_voices.BASE_ACCENTS) for _ in range(600)]
    assert {name for voice in drawn for name in voice.weights} == set(USES["base"])
    for voice in drawn:
        assert sum(voice.weights.values()) == pytest.approx(1, abs=0.03) and 0.75 <= voice.speed <= 1.35
        assert sum(voice.weights.get(name, 0) for name in neural_voices.BASE_ACCENTS) <= 0.5
    assert 60 < sum(len(voice.weights) == 1 for voice in drawn) < 250, "unmixed voices, too"


@pytest.mark.parametrize(
    ("phonemes", "british", "spelled"),
    [
        ("ma^ɪ nˈe^ɪm", False, "mI nˈAm"),
        ("nˈɜːs hˈo^ʊm d^ʒˈʌd^ʒ", False, "nˈɜɹs hˈOm ʤˈʌʤ"),
        ("lˈɪɾə^l wˈɔːɾɚ", False, "lˈɪɾᵊl wˈɔɾəɹ"),
        ("hˈə^ʊm ðˈe^ə", True, "hˈQm ðˈɛː"),
    ],
)
def test_phonemes_are_spelled_as_kokoro_learned_them(phonemes: str, british: bool, spelled: str) -> None:
    assert spell_for_kokoro(phonemes, british) == spelled
    assert set(spelled) <= set(neural_voices.KOKORO_TOKENS)


@pytest.mark.parametrize("fault", ["silent", "broken", "too short", "too long"])
def test_a_failed_synthesis_is_refused(fault: str) -> None:
    voice = NeuralVoice("piper", "joe", {}, 1.0, british=False)
    speech = np.sin(np.arange(24000, dtype=np.float32) / 20) * np.float32(0.3)
    neural_voices._require_speech(speech, 24000, 12, voice)
    wrong = {"silent": speech * 0.01, "broken": speech * np.nan, "too short": speech[:2400], "too long": speech}[fault]
    with pytest.raises(SynthesisError, match="joe failed"):
        neural_voices._require_speech(wrong, 24000, 12 if fault != "too long" else 1, voice)


def test_the_examples_of_wordnet_become_clauses(tmp_path: Path) -> None:
    (tmp_path / "data.adj").write_text(
        '00001740 00 a 01 able 0 001 = 05200169 n 0000 | having the means; "able to swim"; "she was able, at last!"; '
        '"in 1999 he left"; "unable"; "Don\'t be silly"\n',
        encoding="utf-8",
    )
    assert sentences.collect_examples(tmp_path) == ["able to swim", "don't be silly", "she was able at last"]
    assert sentences.collect_examples(tmp_path / "none") == []


class Tones:
    """Says a tone for each word, and fails now and then."""

    def speak(self, spoken: str, voice: NeuralVoice, rng: np.random.Generator) -> tuple[Any, int]:
        if rng.random() < 0.02:
            raise SynthesisError("no sound")
        seconds = 0.4 * len(spoken.split()) / voice.speed
        return np.sin(np.arange(int(24000 * seconds)) * 0.1).astype(np.float32), 24000


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> make_natural_speech.Studio:
    made = make_natural_speech.Studio(tmp_path, "train", 0, ["open the file", "a b c"], Tones(), float("inf"))  # type: ignore[arg-type]
    monkeypatch.setattr(make_natural_speech, "_studio", made)
    monkeypatch.setattr(make_natural_speech, "SHARD_UTTERANCES", 12)
    return made


def test_shards_can_be_made_in_any_number_of_runs(
    studio: make_natural_speech.Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = [make_natural_speech.make_shard(number) for number in (0, 1)]
    shards = make_natural_speech.read_shards(studio.folder / "train")
    assert [path.name for path, _ in shards] == [f"{number:06d}.flac" for number in range(24)]
    seconds = [soundfile.info(path).duration for path, _ in shards]
    assert sum(hours) * 3600 == pytest.approx(sum(seconds), abs=0.2)
    assert [float(row["seconds"]) for _, row in shards] == pytest.approx(seconds, abs=0.01)
    first = {path.name: path.read_bytes() for path, _ in shards[:12]}
    (studio.folder / "train" / "0000").rename(studio.folder / "train" / "0000.partial")
    make_natural_speech.make_shard(0)
    again = make_natural_speech.read_shards(studio.folder / "train")
    assert again == shards and {path.name: path.read_bytes() for path, _ in again[:12]} == first
    late = make_natural_speech.Studio(studio.folder, "train", 0, studio.clauses, studio.synthesizer, 0.0)
    monkeypatch.setattr(make_natural_speech, "_studio", late)
    assert make_natural_speech.make_shard(1) == hours[1] and make_natural_speech.make_shard(2) is None
    with pytest.raises(SynthesisError, match="no shards were found"):
        make_natural_speech.read_shards(studio.folder / "validation")


def test_the_share_of_running_text_can_be_chosen(
    studio: make_natural_speech.Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_only = dataclasses.replace(studio, shares=make_natural_speech.Shares(sentences=1.0))
    monkeypatch.setattr(make_natural_speech, "_studio", text_only)
    make_natural_speech.make_shard(0)
    rows = [row for _, row in make_natural_speech.read_shards(studio.folder / "train")]
    assert {row["source"] for row in rows} == {"sentence"} and len(rows) == 12


def test_the_share_of_hibari_can_be_chosen() -> None:
    rng = np.random.default_rng(0)
    engines = {
        share: {make_natural_speech.draw_voice("train", rng, share).engine for _ in range(100)} for share in (0, 0.5, 1)
    }
    assert engines == {0: {"kokoro", "piper"}, 0.5: {"hibari", "kokoro", "piper"}, 1: {"hibari"}}
    assert {make_natural_speech.draw_voice("validation", rng, 1).engine for _ in range(20)} == {"kokoro"}


def test_the_base_corpus_takes_utterances_from_shards(
    studio: make_natural_speech.Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_natural_speech.make_shard(0)
    shards = make_natural_speech.read_shards(tmp_path / "train")
    natural = make_base_corpus.NaturalSpeech({"train": shards}, share=1.0)
    sources = make_base_corpus.Sources([], None, natural)
    monkeypatch.setattr(make_base_corpus, "_studio", make_base_corpus.Studio(tmp_path, 0, sources, []))
    (tmp_path / "train" / "0000").mkdir(exist_ok=True)
    made = [make_base_corpus.make_utterance(("train", number)) for number in range(14)]
    texts = [row["text"] for _, row in shards]
    assert [each.text for each in made] == [*texts, *texts[:2]]  # Each in turn; none waits while another is used twice.
    with (tmp_path / "train" / "0000" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        speakers = {row["speaker"] for row in csv.DictReader(file)}
    assert {each.speaker for each in made} <= speakers
    assert all(soundfile.info(tmp_path / "train" / each.file_name).samplerate == 16000 for each in made)
    shutil.copytree(tmp_path / "train", tmp_path / "validation")
    shutil.copytree(tmp_path / "train", tmp_path / "more" / "train")
    both = make_base_corpus.read_natural_speech([tmp_path, tmp_path / "more"], 0.5).utterances
    assert len(both["train"]) == 2 * len(shards) and len(both["validation"]) == len(shards)


def test_natural_utterances_come_in_turn_among_others() -> None:
    assert [make_base_corpus.find_turn(index, 0.6) for index in range(5)] == [None, 0, None, 1, 2]
    turns = [make_base_corpus.find_turn(index, 0.8) for index in range(1000)]
    assert [turn for turn in turns if turn is not None] == list(range(800))  # None is left out or comes twice.
    assert [make_base_corpus.find_turn(index, 0.0) for index in range(3)] == [None] * 3


def test_a_corpus_gets_a_column_of_phonemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    # Says its last argument back, with the marks that espeak-ng writes and a clause on a line of its own.
    program.write_text('#!/bin/sh\nfor text; do :; done\nprintf "ˈ%s\\n (en)n̩ː\\n" "$text"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    table = tmp_path / "train" / "metadata.csv"
    table.parent.mkdir()
    table.write_text('file_name,text,source\na.flac,"a b",spelling\nb.flac,a bee,sentence\n', encoding="utf-8")
    for _ in range(2):  # a second run changes nothing
        write_phonemes.add_phonemes(tmp_path, 1)
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["text"] for row in rows] == ["a b", "a bee"]
        # A spelled letter is said by its name; the article is not.
        assert [row["phonemes"] for row in rows] == [f"{respell_letters('A')} B n", "a bee n"]
    assert [path.name for path in table.parent.iterdir()] == ["metadata.csv"]
    with pytest.raises(SynthesisError, match="make a corpus with"):
        write_phonemes.add_phonemes(tmp_path / "none", 1)


def test_further_sentences_are_plain_words_that_are_common(tmp_path: Path) -> None:
    common = ["press the button"] * 3 + [
        "press the button now and then " * 3,
        "the now",
        "now the now",
        "the xq",
        "stop",
    ]
    text = tmp_path / "text.txt"
    text.write_text("\n".join([*common, "the xq now", "xq the", "Press the button", "the button 2"]), encoding="utf-8")
    assert sentences.read_sentences(text) == ["now the now", "press the button", "the now"]
