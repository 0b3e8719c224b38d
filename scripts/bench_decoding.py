"""What the beam search costs, against flashlight-text and pyctcdecode, at equal beam width and with the same models.

    python scripts/bench_decoding.py [--pyctcdecode PYTHON] [--rounds 3] [--utterances 4] [--beam 100]
    python scripts/bench_decoding.py --logits FILE [--arpa FILE]

In turn in one run, on one core and after warm-up, decoding only: logits (500 frames, 32 symbols) of made-up sentences
from very peaky to flat, without a language model and with trigrams of 1,000 and 200,000 words whose frequencies follow
Zipf's law. `--pyctcdecode` names another Python for it, since it needs numpy<2; it has one round, so long does it take.
`--logits` decodes real ones. All have beams of 100 prefixes and the same weights; ours and pyctcdecode drop prefixes
that are worse by 10 and symbols below -5. flashlight's lexicon allows known words only.

A frame takes an exponential for each symbol of the vocabulary; for each prefix two sums of logarithms and its 88 bytes
read and written; for each prefix and likely symbol an addition and a comparison, and for the few that are kept a place
in a heap, a node of 64 bytes and a time of 24. The limit is the sums and the copy alone: 24 ns a frame and prefix.
Ours takes 80 ns with 2 likely symbols a frame (peaky), 130 to 200 ns with 15 (noisy), 320 to 370 with 25 (flat).

Measured on 2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni) that other programs shared, by each process's
own time, medians of 3 to 5 rounds of 6 utterances; µs a frame, and WER:

                              ours            flashlight       pyctcdecode
    no model, very peaky    1.8    0.0 %     325    0.0 %       9    0.0 %
    no model, peaky         8.0    0.9 %     372    0.0 %     629    0.0 %
    no model, noisy        12.6   18.1 %     379   18.1 %    4389   19.0 %
    no model, noisier      13.9   89.7 %     435   85.3 %    5897   87.1 %
    no model, flat         31.9              967             8194
    1,000, very peaky       2.0    0.0 %      26    0.0 %       8    0.0 %
    1,000, peaky            4.4    0.0 %      88    0.0 %      99    5.1 %
    1,000, noisy           15.8    0.0 %     103    1.7 %    3252    4.3 %
    1,000, noisier         20.1    8.5 %     101   15.4 %    6328    9.4 %
    1,000, flat            35.5              113             8821
    200,000, very peaky     2.2    0.0 %      76    0.0 %       8    0.0 %
    200,000, peaky          6.8    0.0 %     181    0.0 %     173    6.2 %
    200,000, noisy         20.4    2.1 %     201    3.1 %    5348    3.1 %

Two threads were 1.4 to 1.7 times as fast as one, while the cores were shared. The table is of a search of one width;
that narrower ones are searched with it, so that a wider beam never has a lower score, came later and takes 1.3 to 1.5
times as long. On 40 utterances (some 650 words) with 200,000 words ours took 10.4 µs (peaky), 28 (noisy) and 36
(noisier), with WERs of 0.0, 4.8 and 15.0 %; flashlight 138, 149 and 156 µs, with 0.0, 3.8 and 14.4 %; pyctcdecode 111,
3274 and 5261 µs, with 6.1, 6.9 and 15.0 %; ours with a beam of 300, 74 and 95 µs for 2.8 and 10.6 %. That an unknown
word costs more when it is long was chosen on ten of the noisier ones: without it ours had 30.0 % there, and 15.6 with
(pyctcdecode has it too, for a word's beginning).

Logits of AN4's recogniser on 52 utterances, with a 3-gram of its training transcripts: ours 2.9 µs a frame
and 6.6 % WER, flashlight 41.8 µs and 7.2 %, pyctcdecode 12.2 µs and 6.9 %.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from parts import report_machine

BLANK, DELIMITER = "[PAD]", "|"
Decode = Callable[[NDArray[np.float32]], tuple[str, float]]
Case = tuple[list[NDArray[np.float32]], list[str]]

SYMBOLS = (BLANK, DELIMITER, *"abcdefghijklmnopqrstuvwxyz'", "[UNK]", "<s>", "</s>")
FRAMES = 500
# The logit of what was said, where all others are standard normal noise; 0 says nothing.
PEAKS = {"very peaky": 14.0, "peaky": 7.0, "noisy": 4.5, "noisier": 3.5, "flat": 0.0}
VOCABULARIES = {"no model": 0, "1,000 words": 1000, "200,000 words": 200_000}
ALPHA, BETA, UNKNOWN, PRUNE, LEAST = 0.5, 1.0, -10.0, -10.0, -5.0
# With 10 as the others flashlight lost words of clear speech when its lexicon's words did not end in a delimiter;
# with the delimiter 10 was not tried.
FLASHLIGHT_THRESHOLD = 25.0
LN_10 = math.log(10)


def draw_words(count: int, rng: np.random.Generator) -> list[str]:
    """Different words of syllables, short ones first as in a language."""
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = 1 + int(rng.poisson(0.4 + 0.25 * math.log10(1 + len(words))))
        consonants, vowels = rng.integers(0, 20, syllables + 1), rng.integers(0, 5, syllables)
        letters = ["bcdfghjklmnprstvwxyz"[c] + "aeiou"[v] for c, v in zip(consonants, vowels, strict=False)]
        words["".join(letters) + ("bcdfghjklmnprstvwxyz"[consonants[-1]] if len(words) % 2 else "")] = None
    return list(words)


class Language:
    """Sentences of words whose frequencies follow Zipf's law, half of which are one of five that like to follow."""

    def __init__(self, num_words: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.words = draw_words(num_words, self.rng)
        self.frequency = 1 / np.arange(1, num_words + 1)
        self.frequency /= self.frequency.sum()
        self.successors = self.rng.choice(num_words, (num_words, 5), p=self.frequency)

    def write(self, num_tokens: int) -> Iterator[str]:
        """Sentences of ten words."""
        drawn = self.rng.choice(len(self.words), num_tokens, p=self.frequency)
        liked, which = self.rng.random(num_tokens) < 0.5, self.rng.integers(0, 5, num_tokens)
        for first in range(0, num_tokens - 9, 10):
            word, sentence = int(drawn[first]), []
            for at in range(first, first + 10):
                sentence.append(self.words[word])
                word = int(self.successors[word, which[at]]) if liked[at] else int(drawn[at])
            yield " ".join(sentence)


def speak(text: str, peak: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Logits (500, 32) of a text: each symbol is one or two frames, with up to three blanks behind it."""
    path: list[int] = []
    for character in text.replace(" ", "|"):
        path += [SYMBOLS.index(character)] * int(rng.integers(1, 3)) + [0] * int(rng.integers(1, 4))
    path = (path + [0] * FRAMES)[:FRAMES]
    logits = rng.standard_normal((FRAMES, len(SYMBOLS)))
    logits[np.arange(FRAMES), path] += peak
    logits[:, 29:] -= 10
    return logits.astype(np.float32)


def fit(text: str) -> str:
    """As many words of a text as 500 frames certainly hold."""
    return text[:100].rpartition(" ")[0]


@dataclass(frozen=True)
class Task:
    """What all decoders are given."""

    symbols: tuple[str, ...]
    arpa: Path | None
    beam_width: int

    @property
    def special_ids(self) -> list[int]:
        """What is never said."""
        return [i for i, symbol in enumerate(self.symbols) if len(symbol) > 1 and symbol != BLANK]


def our_search(task: Task) -> Any:
    """This package's search."""
    from finetune.decoding.arpa import read_arpa
    from finetune.decoding.beam import BeamSearch, Weights

    return BeamSearch(
        task.symbols,
        blank_id=task.symbols.index(BLANK),
        delimiter_id=task.symbols.index(DELIMITER),
        special_ids=task.special_ids,
        language_model=read_arpa(task.arpa) if task.arpa else None,
        weights=Weights(ALPHA, BETA, UNKNOWN),
        beam_width=task.beam_width,
        beam_prune_logp=PRUNE,
        token_min_logp=LEAST,
    )


def ours(task: Task) -> Decode:
    """The same as a function."""
    search = our_search(task)

    def decode(logits: NDArray[np.float32]) -> tuple[str, float]:
        best = search.decode(logits)[0]
        return best.text, best.logit_score

    return decode


def flashlight(task: Task) -> Decode:
    """flashlight-text: with a lexicon and KenLM, when it can write known words only, or with neither."""
    from flashlight.lib.text.decoder import (
        CriterionType,
        LexiconDecoder,
        LexiconDecoderOptions,
        LexiconFreeDecoder,
        LexiconFreeDecoderOptions,
        SmearingMode,
        Trie,
        ZeroLM,
    )
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import create_word_dict

    symbols, width, blank, delimiter = task.symbols, task.beam_width, *map(task.symbols.index, (BLANK, DELIMITER))
    if task.arpa is None:
        options = LexiconFreeDecoderOptions(
            width, len(symbols), FLASHLIGHT_THRESHOLD, 0.0, 0.0, True, CriterionType.CTC
        )
        decoder = LexiconFreeDecoder(options, ZeroLM(), delimiter, blank, [])
    else:
        words = [word for word in read_words(task.arpa) if set(word) <= set(symbols)]
        dictionary = create_word_dict({word: [list(word)] for word in [*words, "<unk>"]})
        model = KenLM(str(task.arpa), dictionary)
        trie, start = Trie(len(symbols), delimiter), model.start(False)
        for word in words:
            number = dictionary.get_index(word)
            # A word ends in a delimiter, or words would be allowed to follow one another without.
            trie.insert([*map(symbols.index, word), delimiter], number, model.score(start, number)[1])
        trie.smear(SmearingMode.MAX)
        options = LexiconDecoderOptions(
            width, len(symbols), FLASHLIGHT_THRESHOLD, ALPHA * LN_10, BETA, -math.inf, 0.0, True, CriterionType.CTC
        )
        unknown = dictionary.get_index("<unk>")
        decoder = LexiconDecoder(options, trie, model, delimiter, blank, unknown, [], False)

    def decode(logits: NDArray[np.float32]) -> tuple[str, float]:
        log_probs = np.ascontiguousarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), np.float32)
        log_probs[:, task.special_ids] = -1e4
        best = decoder.decode(log_probs.ctypes.data, *log_probs.shape)[0]
        if task.arpa is not None:
            return " ".join(
                dictionary.get_entry(number) for number in best.words if number >= 0
            ), best.emittingModelScore
        tokens = [number for at, number in enumerate(best.tokens) if at == 0 or number != best.tokens[at - 1]]
        text = "".join(symbols[number] for number in tokens if number != blank).replace(DELIMITER, " ")
        return " ".join(text.split()), best.emittingModelScore

    return decode


def pyctcdecode(task: Task) -> Decode:
    """pyctcdecode, which adds up the alignments of a text as ours does."""
    from pyctcdecode import build_ctcdecoder

    labels = ["" if symbol == BLANK else " " if symbol == DELIMITER else symbol for symbol in task.symbols]
    # It takes only names that it knows for what it shall not say, and one symbol for each.
    for number, name in zip(task.special_ids, ("⁇", "<s>", "</s>"), strict=False):
        labels[number] = name
    model = {"kenlm_model_path": str(task.arpa), "unigrams": read_words(task.arpa)} if task.arpa else {}
    decoder = build_ctcdecoder(labels, alpha=ALPHA, beta=BETA, unk_score_offset=UNKNOWN, **model)

    def decode(logits: NDArray[np.float32]) -> tuple[str, float]:
        best = decoder.decode_beams(
            logits, beam_width=task.beam_width, beam_prune_logp=PRUNE, token_min_logp=LEAST, prune_history=True
        )[0]
        return best[0], float(best[3])

    return decode


def read_words(arpa: Path) -> list[str]:
    """The words of an ARPA file that can be said."""
    words = []
    with arpa.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("\\2-grams"):
                break
            fields = line.rstrip("\n").split("\t")
            if len(fields) > 1 and fields[1] not in ("<unk>", "<s>", "</s>"):
                words.append(fields[1])
    return words


class Elsewhere:
    """A decoder in another process, which this script runs with another Python."""

    def __init__(self, python: str, task: Task) -> None:
        command = [python, __file__, "--serve", json.dumps(task.symbols), "--beam", str(task.beam_width)]
        command += ["--arpa", str(task.arpa)] if task.arpa else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, file: Path) -> tuple[float, list[str], list[float]]:
        """What `measure` says there of the utterances in a file."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{file}\n")
        self.process.stdin.flush()
        seconds, texts, scores = json.loads(self.process.stdout.readline())
        return seconds, texts, scores

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(decode: Decode, utterances: list[NDArray[np.float32]]) -> tuple[float, list[str], list[float]]:
    """Seconds of one core to decode some utterances, their texts and acoustic scores."""
    started = time.process_time()
    decoded = [decode(logits) for logits in utterances]
    return time.process_time() - started, [text for text, _ in decoded], [score for _, score in decoded]


def serve(task: Task) -> None:
    """Measure pyctcdecode on each file named on standard input."""
    decode = pyctcdecode(task)
    for line in sys.stdin:
        print(json.dumps(measure(decode, list(np.load(line.strip()).values()))), flush=True)


def measure_limit(beam_width: int) -> float:
    """Nanoseconds for each frame and prefix that its arithmetic alone takes: two sums of logarithms and a copy."""
    from finetune.decoding.compilation import compiled
    from finetune.decoding.prefix_search import add_logs
    from finetune.decoding.prefix_tree import BEAM

    @compiled
    def run(a: Any, b: Any, times: int) -> float:
        total = 0.0
        for _ in range(times):
            for i in range(len(a)):
                b[i] = a[i]
                total += add_logs(a[i].blank, a[i].extended) + add_logs(a[i].extended, a[i].total)
        return total

    a = np.zeros(beam_width, BEAM)
    a["blank"], a["extended"], a["total"] = np.random.default_rng(0).standard_normal((3, beam_width))
    run(a, a.copy(), 1)
    started = time.process_time()
    run(a, a.copy(), FRAMES)
    return 1e9 * (time.process_time() - started) / FRAMES / beam_width


def bench_threads(task: Task, utterances: list[NDArray[np.float32]], rounds: int) -> None:
    """Print how much faster two threads are than one, by the clock."""
    search, batch = our_search(task), utterances * 4
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads, values in seconds.items():
            started = time.perf_counter()
            search.decode_batch(batch, [len(logits) for logits in batch], threads=threads)
            values.append(time.perf_counter() - started)
    one, two = (statistics.median(values) for values in seconds.values())
    print(f"two threads: {one / two:.2f} times as fast as one", flush=True)


def compare(name: str, task: Task, cases: dict[str, Case], options: argparse.Namespace, folder: Path) -> None:
    """Print each decoder's time, its ratio to ours, WER and mean acoustic score for each case."""
    import jiwer

    decoders = {"ours": ours(task), "flashlight": flashlight(task)}
    elsewhere = Elsewhere(options.pyctcdecode, task) if options.pyctcdecode else None
    for case, (utterances, references) in cases.items():
        np.savez(folder / "logits.npz", *utterances)
        measured: dict[str, list[tuple[float, list[str], list[float]]]] = {}
        for decode in decoders.values():
            measure(decode, utterances[:1])
        for number in range(options.rounds):
            for decoder, decode in decoders.items():
                measured.setdefault(decoder, []).append(measure(decode, utterances))
            if elsewhere and number == 0:  # It takes so long that one round tells.
                measured["pyctcdecode"] = [elsewhere.measure(folder / "logits.npz")]
        frames, medians = sum(map(len, utterances)), {}
        for decoder, found in measured.items():
            medians[decoder] = statistics.median(seconds for seconds, _, _ in found)
            _, texts, scores = found[0]
            wer = f"WER {100 * jiwer.wer(references, texts):5.1f} %" if any(references) else ""
            print(
                f"{name:>13}, {case:>10}, {decoder:>11}: {1e6 * medians[decoder] / frames:8.1f} µs a frame, "
                f"{medians[decoder] / medians['ours']:6.2f} times ours, {wer}, score {statistics.mean(scores):.2f}",
                flush=True,
            )
    if elsewhere:
        elsewhere.close()


def make_cases(language: Language, count: int) -> dict[str, Case]:
    """Utterances of each sharpness."""
    texts = [fit(" ".join(language.write(100))) for _ in range(count)]
    rng = np.random.default_rng(1)
    return {name: ([speak(text, peak, rng) for text in texts], texts) for name, peak in PEAKS.items()}


def read_logits(file: Path) -> tuple[tuple[str, ...], dict[str, Case]]:
    """Symbols and utterances of a safetensors file: a tensor (frames, vocabulary) for each utterance.

    Its metadata are `symbols`, a JSON list of the columns' texts with "[PAD]" for the blank, and `references`, a JSON
    object of the utterances' texts.
    """
    from safetensors import safe_open

    with safe_open(file, "np") as opened:
        names, metadata = sorted(opened.keys()), opened.metadata()
        utterances = [np.asarray(opened.get_tensor(name), np.float32) for name in names]
    references = json.loads(metadata["references"])
    return tuple(json.loads(metadata["symbols"])), {"real": (utterances, [references[name] for name in names])}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="Logits are given in float32 and no model is computed, so there is no --precision.",
    )
    parser.add_argument("--pyctcdecode", metavar="PYTHON", help="a Python that has pyctcdecode, numpy<2 and kenlm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--utterances", type=int, default=4)
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--models", nargs="+", choices=VOCABULARIES, default=list(VOCABULARIES))
    parser.add_argument("--logits", type=Path, help="a safetensors file with real logits, see read_logits")
    parser.add_argument("--arpa", type=Path, help="the language model for them")
    parser.add_argument("--serve", metavar="SYMBOLS", help="measure pyctcdecode on files named on standard input")
    options = parser.parse_args()
    if options.serve:
        serve(Task(tuple(json.loads(options.serve)), options.arpa, options.beam))
        return
    report_machine(None)
    from finetune.decoding.arpa import write_arpa
    from finetune.decoding.kneser_ney import estimate

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.logits:
            symbols, cases = read_logits(options.logits)
            compare("real", Task(symbols, options.arpa, options.beam), cases, options, folder)
            return
        for name in options.models:
            num_words = VOCABULARIES[name]
            language, task = Language(num_words or 1000, seed=0), Task(SYMBOLS, None, options.beam)
            if num_words:
                task = Task(SYMBOLS, folder / "model.arpa", options.beam)
                # Each word is there at least once.
                text = [*language.write(20 * num_words), *language.words]
                write_arpa(estimate(text, 3).model, folder / "model.arpa")
            cases = make_cases(language, options.utterances)
            compare(name, task, cases, options, folder)
            bench_threads(task, cases["noisy"][0], options.rounds)
    print(f"limit: {measure_limit(options.beam):.0f} ns a frame and prefix")


if __name__ == "__main__":
    main()
