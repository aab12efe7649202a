"""A training run: its knobs, its parts, one update, and what is logged of it."""
