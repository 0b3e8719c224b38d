"""What a model card says of the model's use: what for, what not, an example that runs, and what to mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.evaluation.scores import count, percent
from finetune.publishing.markup import escape

# Below these a card warns; they are round numbers and no science.
_FEW_HOURS, _FEW_SPEAKERS = 10, 20
_TELEPHONE_HERTZ = 8000


def describe_purpose(record: Mapping[str, Any]) -> str:
    """What the model is for and not for: as its author says, and what follows from what it was trained on."""
    train = record["data"]["splits"]["train"]
    voices = f" by {count(train['speakers'], 'speaker')}" if train["speakers"] else ""
    usual = (
        "Writing down what is said in recordings like those it was trained on: "
        f"{say_time(train['seconds'])} of speech{voices}."
    )
    limits = [record["limitations"]] if record["limitations"] else []
    limits = [escape(text) for text in limits]
    if record["characters"]:
        written = " ".join(escape(character) for character in record["characters"])
        limits.append(f"It writes these {len(record['characters'])} characters and the space, nothing else: {written}")
    hours = train["seconds"] / 3600
    if hours < _FEW_HOURS and not record["data"]["streamed"]:
        limits.append(f"{say_time(train['seconds'])} of speech is little: expect it to fail on what it never heard.")
    if train["speakers"] is None:
        limits.append("Its speakers are not known, so the results may be on voices that it was trained on.")
    elif train["speakers"] < _FEW_SPEAKERS:
        limits.append(f"It was trained on {count(train['speakers'], 'voice')}: others may be recognised less well.")
    if any(0 < int(rate) <= _TELEPHONE_HERTZ for rate in train["sampling_rates"]):
        limits.append("Some of its training audio has the narrow band of telephones (8 kHz or less).")
    limits += [
        f"It was trained on pieces of up to {train['longest_seconds']:.1f} s: cut longer recordings at pauses.",
        "Other languages, accents, noises, microphones and topics: measure it on some of yours first.",
        "It is not made to tell who speaks, and its text alone is no ground for a decision about a person.",
    ]
    purpose = escape(record["intended_use"]) if record["intended_use"] else usual
    return "\n".join([purpose, "", "Mind:", "", *(f"- {limit}" for limit in limits)])


def describe_use(record: Mapping[str, Any], preprocessing: Sequence[str], decoder: Mapping[str, Any] | None) -> str:
    """An example that runs as it stands in the model's folder, and what it leaves out.

    `preprocessing` are the steps that all audio takes, `decoder` is what is saved of a beam search.
    """
    start = _ADAPTER.format(base=record["base"]) if record["adapter_alone"] else _PLAIN
    rate = record["sampling_rate"]
    notes = [
        f"Recordings at another rate than {rate} Hz must be resampled before, for example with "
        f"`soxr.resample(samples, sampling_rate, {rate})`. `pipeline` does it itself only where torchaudio is "
        "installed, whose last release, 2.11, does not fit every torch."
    ]
    if preprocessing:
        steps = ", ".join(f"`{step}`" for step in preprocessing)
        notes.append(
            f"The model was trained and measured on audio after these steps, which the example leaves out: {steps}. "
            "`finetune transcribe` takes them by itself; elsewhere take them before, or expect more errors."
        )
    if decoder is not None:
        notes.append(_describe_language_model(decoder))
    if record["group_norm"]:
        notes.append(
            "Give `pipeline` one recording at a time: in a padded batch this model's text can differ a little."
        )
    return "\n".join([f"{start}{_REST}", *(f"- {note}" for note in notes)])


def _describe_language_model(decoder: Mapping[str, Any]) -> str:
    tuned = decoder.get("tuned", {})
    gain = ""
    if tuned.get("wer") is not None and tuned.get("greedy_wer") is not None:
        gain = (
            f" On the {count(tuned['utterances'], 'utterance')} on which its weights were chosen WER is "
            f"{percent(tuned['wer'])} with it and {percent(tuned['greedy_wer'])} without: elsewhere it may help less."
        )
    return (
        "A language model is saved with the model. The example decodes greedily, without it; `finetune transcribe` and "
        "`finetune evaluate` use it, and so does `Wav2Vec2ProcessorWithLM` of Transformers where pyctcdecode and "
        f"kenlm are installed.{gain}"
    )


def say_time(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


_PLAIN = """\
`pip install transformers torch soundfile`; FFmpeg is not needed. In this folder:

```python
import soundfile
from transformers import pipeline

recogniser = pipeline("automatic-speech-recognition", model=".")  # or this repository's name"""

_ADAPTER = """\
This is a LoRA adapter and a head, to be put into its base. `pip install transformers peft torch soundfile`; FFmpeg is
not needed. In this folder:

```python
import soundfile
from peft import PeftModel
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, pipeline

config = AutoConfig.from_pretrained(".")  # or this repository's name, here and below
base = AutoModelForCTC.from_pretrained("{base}", config=config, ignore_mismatched_sizes=True)
recogniser = pipeline(
    "automatic-speech-recognition",
    model=PeftModel.from_pretrained(base, ".").merge_and_unload(),
    tokenizer=AutoTokenizer.from_pretrained("."),
    feature_extractor=AutoFeatureExtractor.from_pretrained("."),
)"""

_REST = """
samples, sampling_rate = soundfile.read("speech.wav", dtype="float32", always_2d=True)
speech = {"raw": samples.mean(axis=1), "sampling_rate": sampling_rate}
print(recogniser(speech)["text"])
```
"""
