"""wav2vec2: configuration, weights, adapters, CTC objective, CPU operations, export."""
