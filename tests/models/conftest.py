"""Fixtures: tiny models and batches."""

from tiny_models import accelerator, build, make_batch, vocabulary

__all__ = ["accelerator", "build", "make_batch", "vocabulary"]
