"""CTC logits to words: greedy and beam search, n-gram language models, forced alignment."""
