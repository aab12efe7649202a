"""Checks of a golden case: the published code's outputs against ours, quantity by quantity."""
