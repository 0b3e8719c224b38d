"""One training run: data prepared, a model trained, the best checkpoint kept, evaluated and published."""
