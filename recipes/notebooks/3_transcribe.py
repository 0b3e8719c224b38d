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
# # Transcribe files and live speech
# Uses the model of the notebook before, `2_fine_tune`.

# %%
# On Colab and Kaggle this installs what is missing; elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("finetune") is None:
    # %pip install -q 'finetune[notebook]'
    pass

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display

from finetune.audio.waveforms import Recording, read_waveform
from finetune.inference.events import Final, Partial
from finetune.inference.live import LiveTranscriber
from finetune.inference.transcriber import Transcriber

MODEL = "runs/notebook/model"
AUDIO = sorted(Path("quickstart/corpus/test").glob("*.ogg"))[0]

# %% [markdown]
# ## A file
# Files of any length and format. The pointer shows each word's times; a pale word is one that the model is unsure of.

# %%
transcriber = Transcriber(MODEL)
transcript = transcriber.transcribe(str(AUDIO))
display(Audio(str(AUDIO)))
transcript

# %%
waveform = read_waveform(Recording.from_cell(str(AUDIO)), 16000)
plt.figure(figsize=(12, 2))
plt.plot(np.arange(len(waveform)) / 16000, waveform, linewidth=0.5)
for word in transcript.words:
    plt.axvspan(word.start, word.end, alpha=0.15)
    plt.text(word.start, waveform.max(), word.text, fontsize=8)
plt.xlabel("seconds")
plt.show()

# %% [markdown]
# ## Live
# The same audio as it would come from a microphone, in pieces of 0.1 s: a partial text whose `stable` part does not
# change any more, and a final text after each pause.

# %%
session = LiveTranscriber(MODEL).session(sampling_rate=16000, encoding="f32le")
events = []
for start in range(0, len(waveform), 1600):
    events += session.feed(waveform[start : start + 1600])
events += session.finish()
for event in events:
    if isinstance(event, Partial):
        print(f"{event.stable_until:5.2f} s  {event.stable}|{event.text.removeprefix(event.stable)}")
    elif isinstance(event, Final):
        print(f"  final  {event.text}")
