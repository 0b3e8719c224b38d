"""Transcripts: text files, normalisation, numbers, annotation tags, words, vocabulary."""
