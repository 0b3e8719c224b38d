"""A recogniser that hears the tones of `conftest.speak` by computing, as late and as briefly as CTC emits symbols."""

import math
from types import SimpleNamespace
from typing import Any

import torch
from conftest import SAMPLING_RATE, TONES, tiny_config
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from finetune.inference.recogniser import Recogniser
from finetune.text.vocabulary import PAD, WORD_DELIMITER, build_tokenizer, build_vocabulary

# From where a symbol is heard to where it is emitted.
_LATE_FRAMES = 3
_SILENT = 1e-3


class ToneModel(Wav2Vec2ForCTC):
    """No parameter of it is used: a symbol is emitted some frames behind the middle of its tone."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        super().__init__(tiny_config("layer", vocab_size=len(vocabulary), pad_token_id=vocabulary[PAD]))
        self.vocabulary = vocabulary

    def forward(self, input_values: torch.Tensor, **others: Any) -> Any:
        """Logits (batch, frames, vocabulary) of waveforms (batch, samples)."""
        windows = input_values.unfold(-1, 400, 320) * torch.hann_window(400)
        hertz = torch.tensor(list(TONES.values()))[:, None] * torch.linspace(0.97, 1.03, 7)  # (tones, pitches)
        angles = 2 * math.pi / SAMPLING_RATE * torch.arange(400) * hertz.flatten()[:, None]
        waves = torch.polar(torch.ones_like(angles), angles)
        power = ((windows.to(waves.dtype) @ waves.mT).abs() / 200) ** 2
        power = power.unflatten(-1, hertz.shape).amax(-1)  # (batch, frames, tones)
        loudest, tone = power.max(-1)
        before, after = loudest.roll(1, 1), loudest.roll(-1, 1)
        peak = (loudest > _SILENT) & (loudest > before) & (loudest >= after)
        silent = torch.maximum(torch.maximum(before, after), loudest) < _SILENT
        symbols = torch.full_like(tone, self.vocabulary[PAD])
        symbols[silent] = self.vocabulary[WORD_DELIMITER]
        ids = torch.tensor([self.vocabulary[letter] for letter in TONES])
        symbols[peak] = ids[tone[peak]]
        symbols = torch.nn.functional.pad(symbols, (_LATE_FRAMES, 0), value=self.vocabulary[PAD])[:, :-_LATE_FRAMES]
        return SimpleNamespace(logits=12.0 * torch.nn.functional.one_hot(symbols, len(self.vocabulary)))


def build_tone_recogniser() -> Recogniser:
    """A recogniser of the letters a to d, which are tones, without a training."""
    vocabulary = build_vocabulary("".join(TONES))
    features = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    return Recogniser(ToneModel(vocabulary).eval(), features, build_tokenizer(vocabulary), torch.device("cpu"))
