"""Recipes: their sections, and loading them from a file with overrides."""
