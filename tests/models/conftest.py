"""The tiny models and batches that this room's tests use."""

from tiny_models import accelerator, build, make_batch, vocabulary

__all__ = ["accelerator", "build", "make_batch", "vocabulary"]
