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
# # Fine-tune a recogniser
# Trains the quickstart's recipe with 120 of its 400 steps: one to two minutes on two cores. `finetune train` does the
# same from a terminal.

# %%
# On Colab and Kaggle this installs what is missing; elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("finetune") is None:
    # %pip install -q 'finetune[notebook]'
    pass

# %%
from pathlib import Path

from IPython.display import Image, display

from finetune.recipe.installed import copy_recipe
from finetune.recipe.load import load_recipe
from finetune.run.experiment import run
from finetune.run.run_report import read_run

RECIPE, OUTPUT = Path("quickstart/recipe.yaml"), Path("runs/notebook")
if not RECIPE.exists():
    copy_recipe("quickstart", Path())
recipe = load_recipe(RECIPE, ["training.max_steps=120", "training.eval_steps=40"])

# %% [markdown]
# An interrupted run goes on where it stopped. A finished one is not trained again.

# %%
if not (OUTPUT / "report").exists():
    display(run(recipe, OUTPUT))  # The scores of the test split, with their intervals.

# %% [markdown]
# ## Curves
# CTC first learns to say nothing: the validation WER stays at 100 % until the blank ratio falls.

# %%
display(Image(str(OUTPUT / "curves.png"), width=700))

# %% [markdown]
# ## The page of the run
# Scores, curves, examples over time, and what was left out. It is also in `report/training.html`.

# %%
read_run(OUTPUT)
