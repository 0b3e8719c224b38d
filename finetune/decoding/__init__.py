"""Logits in, words out."""
