"""How far the times of words are from the truth, as transcribed and as aligned with the text.

    python scripts/bench_times.py MODEL [--sentences 100] [--pause 0.8] [--precision auto|float32|bf16]

Sentences of the quickstart recipe, new ones, are said by its ten validation and test voices and joined to one recording
with so many seconds of silence between them. The truth is what espeak-ng says when it begins a word or a pause (events
of libespeak-ng). Printed are the shares of the starts and ends that are within 60 ms of it, for each voice too, and the
median error: of words that were recognised as they are and, aligned, of all that were found.

Measured on an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni) with a model of the quickstart recipe that was trained for 540
steps, starts and ends (frames as they are: each sentence by itself, 300 of them):

                             transcribed         aligned
    frames as they are       0.3 %   91.7 %      0.4 %   92.0 %
    corrected, no pauses    98.6 %   97.0 %     98.5 %   96.5 %
    corrected, 0.8 s        99.7 %   97.0 %     99.6 %   96.5 %

Frames of the base of today hear 65 ms instead of 25; their middle is 20 ms later. On 60 sentences with pauses, on an
AMD EPYC (Zen 3: avx2) in float32, beside other work, with medians of -35, -15 and -3 ms:

    the middle not counted  88.7 %   86.4 %     88.8 %   86.4 %
    the middle counted      98.0 %   95.2 %     98.1 %   95.2 %
    run 13's base           98.4 %   95.3 %     98.3 %   95.5 %
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, c_char, c_int, c_short, c_uint, c_void_p
from difflib import SequenceMatcher
from itertools import count as count_up
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from acoustics import Waveform, resample
from make_quickstart_corpus import write_sentence
from parts import add_precision, report_machine
from synthesis import ESPEAK_SAMPLING_RATE, QUICKSTART_TEST_VARIANTS, QUICKSTART_VALIDATION_VARIANTS

from finetune.inference.aligner import align_text
from finetune.inference.transcriber import Transcriber
from finetune.inference.transcript import Word

SAMPLING_RATE = 16000
NEAR_SECONDS = 0.06
# Of espeak-ng's speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8, _RATE = 2, 1, 1, 1
_END, _WORD, _PHONEME = 0, 1, 7


class Event(NamedTuple):
    """What begins after so many samples: a word at a place of the text (characters, from 0), or a phoneme."""

    kind: int
    place: int
    sample: int
    phoneme: str = ""


class Spoken(NamedTuple):
    """A word and from when to when it is said, in seconds; None where espeak-ng doesn't tell it from the one before."""

    text: str
    start: float | None
    end: float | None
    voice: str = ""


class _Event(Structure):
    _fields_ = (
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_position", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("name", c_char * 8),
    )


class Synthesiser:
    """espeak-ng's library, which says what it begins when."""

    def __init__(self) -> None:
        """Raises OSError when it is not installed."""
        self._library = CDLL("libespeak-ng.so.1")
        self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        self._blocks: list[Waveform] = []
        self._events: list[Event] = []
        self._callback = CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if count and samples:
            block = np.ctypeslib.as_array(samples, (count,)).astype(np.float32)
            self._blocks.append(block / np.float32(32768))
        for event in takewhile(lambda event: event.type != _END, map(events.__getitem__, count_up())):
            phoneme = event.name.decode(errors="replace") if event.type == _PHONEME else ""
            self._events.append(Event(event.type, event.text_position - 1, event.sample, phoneme))
        return 0

    def say(self, sentence: str, voice: str, words_per_minute: int) -> tuple[Waveform, list[Event]]:
        """Samples at `ESPEAK_SAMPLING_RATE` and what begins in them."""
        self._blocks.clear()
        self._events.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice}.")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        text = sentence.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        return np.concatenate(self._blocks), list(self._events)


def find_words(sentence: str, events: Iterable[Event], num_samples: int) -> list[Spoken]:
    """When each word is said: to the next word or a pause, in seconds."""
    events = list(events)
    starts = {event.place: event.sample for event in events if event.kind == _WORD}
    pauses = [event.sample for event in events if event.phoneme.startswith("_")]
    places = [(match.start(), match.group()) for match in re.finditer(r"[\w']+", sentence)]
    words = []
    for (place, text), following in zip(places, [*places[1:], None], strict=True):
        start = starts.get(place)
        behind = num_samples if following is None else starts.get(following[0])
        if start is None or behind is None:
            words.append(Spoken(text, None if start is None else start / ESPEAK_SAMPLING_RATE, None))
            continue
        end = min([behind, *(pause for pause in pauses if pause > start)])
        words.append(Spoken(text, start / ESPEAK_SAMPLING_RATE, end / ESPEAK_SAMPLING_RATE))
    return words


def make_recording(num_sentences: int, pause_seconds: float) -> tuple[Waveform, str, list[Spoken]]:
    """A recording at `SAMPLING_RATE`, its text and the times of its words."""
    synthesiser, rng = Synthesiser(), np.random.default_rng(7)
    voices = QUICKSTART_VALIDATION_VARIANTS + QUICKSTART_TEST_VARIANTS
    blocks: list[Waveform] = []
    sentences, words = [], []
    at = 0
    for number in range(num_sentences):
        variant = voices[number % len(voices)]
        accent = "en" if variant in ("m8", "quincy") else "en-us"
        sentence = write_sentence(rng)
        dry, events = synthesiser.say(sentence, f"{accent}+{variant}", int(rng.integers(130, 176)))
        before, behind = rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.35) + pause_seconds
        shift = at / SAMPLING_RATE + round(before * ESPEAK_SAMPLING_RATE) / ESPEAK_SAMPLING_RATE
        for text, start, end, _ in find_words(sentence, events, len(dry)):
            moved = (None if time is None else time + shift for time in (start, end))
            words.append(Spoken(text, next(moved), next(moved), variant))
        dry = np.pad(dry * (0.6 / np.abs(dry).max()), [round(s * ESPEAK_SAMPLING_RATE) for s in (before, behind)])
        blocks.append(resample(dry, SAMPLING_RATE / ESPEAK_SAMPLING_RATE).astype(np.float32))
        at += len(blocks[-1])
        sentences.append(sentence)
    noise = 1e-4 * rng.standard_normal(at)
    return (np.concatenate(blocks) + noise).astype(np.float32), " ".join(sentences), words


def match_words(found: Sequence[Word], words: Sequence[Spoken]) -> list[tuple[Word, Spoken]]:
    """The words that are the same, in order."""
    texts = [re.sub(r"[^\w']", "", word.text).lower() for word in found], [word.text.lower() for word in words]
    blocks = SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
    pairs = [(found[a + i], words[b + i]) for a, b, size in blocks for i in range(size)]
    return [(word, spoken) for word, spoken in pairs if word.found]


def describe(name: str, pairs: Sequence[tuple[Word, Spoken]]) -> str:
    """The shares that are near the truth, and the median errors."""
    told = [f"{name:>20}"]
    for side in ("start", "end"):
        truth = [(getattr(word, side), getattr(spoken, side)) for word, spoken in pairs]
        errors = np.array([found - known for found, known in truth if known is not None])
        near = float(np.mean(np.abs(errors) <= NEAR_SECONDS))
        told.append(f"{side}s {near:6.1%} of {len(errors)}, median {1000 * float(np.median(errors)):+4.0f} ms")
    return "   ".join(told)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.8)
    add_precision(parser)
    arguments = parser.parse_args()
    precision = report_machine(arguments.precision)
    audio, text, words = make_recording(arguments.sentences, arguments.pause)
    transcriber = Transcriber(arguments.model, precision="bfloat16" if precision == "bf16" else "float32")
    transcribed = transcriber.transcribe(audio, sampling_rate=SAMPLING_RATE)
    aligned = align_text(transcriber, audio, text, sampling_rate=SAMPLING_RATE)
    for name, transcript in (("transcribed", transcribed), ("aligned", aligned)):
        pairs = match_words(transcript.words, words)
        print(describe(name, pairs))
        for voice in dict.fromkeys(spoken.voice for spoken in words):
            print(describe(voice, [pair for pair in pairs if pair[1].voice == voice]))


if __name__ == "__main__":
    main()
