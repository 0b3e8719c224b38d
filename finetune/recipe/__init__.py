"""A recipe: its sections, and its file with overrides read into them."""
