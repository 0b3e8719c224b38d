"""Scoring: words in, error rates out."""
