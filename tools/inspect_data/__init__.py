"""Prepared data on pages: statistics, and photos with their masks and texts."""
