"""Batches in, checkpoints out."""
