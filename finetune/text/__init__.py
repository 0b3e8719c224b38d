"""Transcripts: normalisation, numbers, tags, words, vocabulary."""
