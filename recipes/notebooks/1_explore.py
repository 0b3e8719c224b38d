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
# # Explore a corpus
# What is in the quickstart's corpus, and what would training leave out? Change `DATA` to a folder of your own, or to
# the name of a data set on the hub.

# %%
# On Colab and Kaggle this installs what is missing; elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("finetune") is None:
    # %pip install -q 'finetune[notebook]'
    pass

# %%
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Audio, display

from finetune.recipe.installed import copy_recipe
from finetune.recipe.load import load_recipe
from finetune.run.preparation import prepare
from finetune.run.summary import summarize_preparation

RECIPE = Path("quickstart/recipe.yaml")
if not RECIPE.exists():
    copy_recipe("quickstart", Path())
DATA = "quickstart/corpus"

# %% [markdown]
# ## What training would use
# Preparing reads headers and transcripts, and no audio yet. Each utterance that is left out has a reason.

# %%
recipe = load_recipe(RECIPE, [f"data.root={DATA}"])
preparation = prepare(recipe)
print("\n".join(summarize_preparation(preparation, recipe)))
preparation.rejected

# %% [markdown]
# ## Durations, speaking rates and speakers

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
for role, split in preparation.splits.items():
    utterances = split.utterances
    axes[0].hist([each.seconds for each in utterances], bins=30, alpha=0.6, label=role)
    axes[1].hist([len(each.transcript) / each.seconds for each in utterances], bins=30, alpha=0.6, label=role)
axes[0].set(title="Duration, s", ylabel="utterances")
axes[1].set(title="Characters a second")
axes[1].legend()
speakers = Counter(each.speaker for each in preparation.train.utterances)
axes[2].barh(list(map(str, speakers)), list(speakers.values()))
axes[2].set(title="Utterances by training speaker")
plt.show()

# %% [markdown]
# ## Listen
# The fastest and the slowest utterances are where transcripts and audio most often don't belong together.

# %%
by_rate = sorted(preparation.train.utterances, key=lambda each: len(each.transcript) / each.seconds)
for utterance in (*by_rate[:2], *by_rate[-2:]):
    print(f"{utterance.name}: {utterance.transcript}")
    display(Audio(preparation.train.read(utterance, 16000), rate=16000))

# %% [markdown]
# `finetune check RECIPE --listen` reads all audio, and finds clipping, silence and duplicates too.
