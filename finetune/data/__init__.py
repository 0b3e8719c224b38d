"""Speech and transcripts in, batches out."""
