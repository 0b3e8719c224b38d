"""Write a model card: what the model is, how well it does and how it was made, without anyone's paths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from finetune.evaluation.scores import Scores, percent
from finetune.publishing.local_paths import is_on_hub, public_name, scrub_text, scrub_value, scrub_yaml


def write_card(
    path: Path,
    *,
    title: str,
    base_model: str | None,
    language: str | None,
    license: str | None,
    datasets: Sequence[str],
    scores: Mapping[str, Scores],
    normalization: Sequence[str],
    training_command: str,
    recipe_yaml: str,
    adapter_alone: bool = False,
) -> None:
    """Write the README.md of a model repository.

    `scores` maps the name of each set that was evaluated to its scores, `normalization` names the steps
    applied to transcripts before scoring. Models and data sets that are not on the hub are called by the
    name of their folder; absolute paths in the texts are cut down to their last part. With `adapter_alone` the
    repository holds a LoRA adapter without its base.
    """
    title = scrub_value(title)
    data = ModelCardData(
        base_model=base_model if base_model and is_on_hub(base_model) else None,
        datasets=[name for name in datasets if is_on_hub(name)] or None,
        eval_results=_eval_results(scores) or None,
        language=language,
        library_name="peft" if adapter_alone else "transformers",
        license=license,
        metrics=["wer", "cer"],
        model_name=title,
        pipeline_tag="automatic-speech-recognition",
        tags=["automatic-speech-recognition", "speech", "audio", "wav2vec2", "ctc"],
    )
    body = _BODY.format(
        title=title,
        base=f"`{public_name(base_model)}`" if base_model else "a wav2vec2 encoder",
        data=", ".join(f"`{public_name(name)}`" for name in datasets) or "speech that is not named here",
        language=f" Language: {language}." if language else "",
        results=_results(scores),
        normalization=", ".join(normalization) or "none",
        use=_USE_ADAPTER.format(base=public_name(base_model or "")) if adapter_alone else _USE,
        command=scrub_text(training_command),
        recipe=scrub_yaml(recipe_yaml).rstrip(),
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}").save(path)


def _eval_results(scores: Mapping[str, Scores]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Automatic Speech Recognition",
            dataset_type=re.sub(r"[^\w.-]+", "-", scrub_value(name)).strip("-").lower() or "unnamed",
            dataset_name=scrub_value(name),
            metric_type=metric,
            metric_name=metric.upper(),
            metric_value=round(rate, 6),
        )
        for name, result in scores.items()
        for metric, rate in (("wer", result.wer), ("cer", result.cer))
        if rate is not None
    ]


def _results(scores: Mapping[str, Scores]) -> str:
    rows = "\n".join(
        f"| {scrub_value(name)} | {percent(result.wer)} | {percent(result.cer)} | {result.utterances} "
        f"| {result.audio_seconds / 60:.1f} | {result.words.reference_length} | {result.words.substitutions} "
        f"| {result.words.deletions} | {result.words.insertions} |"
        for name, result in scores.items()
    )
    return f"{_HEADER}\n{rows}" if rows else "Not evaluated yet."


_HEADER = """\
| Set | WER | CER | Utterances | Minutes | Words | Substitutions | Deletions | Insertions |
|:--|--:|--:|--:|--:|--:|--:|--:|--:|"""

_USE = """\
`pip install transformers torch soundfile`; FFmpeg is not needed. In this folder:

```python
import soundfile
from transformers import pipeline

recogniser = pipeline("automatic-speech-recognition", model=".")  # or this repository's name"""

_USE_ADAPTER = """\
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

_BODY = """\
# {title}

This model turns speech into text. It is {base}, fine-tuned with CTC on {data}.{language}

## Results

{results}

Errors are counted over each whole set and divided by its number of reference words (characters for
CER, spaces included). Decoding: greedy CTC, no language model. Normalisation of the transcripts:
{normalization}.

## Use

{use}
samples, sampling_rate = soundfile.read("speech.wav", dtype="float32", always_2d=True)
speech = {{"raw": samples.mean(axis=1), "sampling_rate": sampling_rate}}
print(recogniser(speech)["text"])
```

Recordings at another sampling rate than the model's are resampled, for which torchaudio is needed.

## How it was made

```bash
{command}
```

```yaml
{recipe}
```
"""
