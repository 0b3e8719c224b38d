"""A run in, a model repository out."""
