# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where are the errors?
# Uses the model of `2_fine_tune`. Which voices, which words, and is the difference to another model more than chance?

# %%
# On Colab and Kaggle this installs what is missing; elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("finetune") is None:
    # %pip install -q 'finetune[notebook]'
    pass

# %%
import matplotlib.pyplot as plt
from IPython.display import Audio, display

from finetune.audio.waveforms import read_waveform
from finetune.data.sources import Source
from finetune.evaluation.analysis import analyse
from finetune.evaluation.comparison import compare
from finetune.evaluation.errors import rank_worst
from finetune.evaluation.scoring import EvaluationOptions, evaluate

MODEL, SOURCE = "runs/notebook/model", Source("quickstart/corpus")
[evaluation] = evaluate(MODEL, [SOURCE], EvaluationOptions(split="test"))
analysis = analyse(evaluation.results, evaluation.counts)
analysis

# %% [markdown]
# ## By speaker
# With their 95 % intervals: those of few utterances are wide.

# %%
slices = sorted(analysis.slices["speaker"], key=lambda each: each.scores.wer)
plt.figure(figsize=(8, 3))
for place, each in enumerate(slices):
    if interval := each.intervals.wer:  # A single utterance has none.
        plt.plot([100 * interval.low, 100 * interval.high], [place, place], color="#3b6ea8")
    plt.plot(100 * each.scores.wer, place, "o", color="#3b6ea8")
plt.yticks(range(len(slices)), [each.value for each in slices])
plt.xlabel("WER, %")
plt.show()

# %% [markdown]
# ## By word

# %%
for confusion in analysis.errors.substitutions[:8]:
    print(f"{confusion.count} × {confusion.reference} heard as {confusion.hypothesis}")

# %% [markdown]
# ## The worst utterances, to listen to

# %%
for place in rank_worst(evaluation.counts)[:3]:
    result = evaluation.results[place]
    print(f"{result.speaker}\n  said:  {result.reference}\n  heard: {result.hypothesis}")
    display(Audio(read_waveform(evaluation.recording(place), 16000), rate=16000))

# %% [markdown]
# ## Two systems on the same utterances
# The paired bootstrap tells whether a difference is more than chance. Here: the same model against itself.

# %%
difference = compare(evaluation.results, evaluation.results).overall
print(f"{difference.difference:+.3f}, significant: {difference.is_significant}")
