"""Corrections of what a model wrote: a store of them, their review, snapshots to train on, and the model's versions."""
