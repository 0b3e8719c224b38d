"""Fine-tune a pretrained wav2vec2 with CTC: one recipe in, a speech recogniser you can trust out."""

__version__ = "0.1.0"
