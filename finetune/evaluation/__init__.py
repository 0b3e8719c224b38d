"""Words in, error rates out."""
